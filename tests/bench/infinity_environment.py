"""Makes the environment in which infinity-emb runs: it requires numpy < 2 and an older transformers than ours."""

import os
import site
import subprocess
import sys
import venv
from pathlib import Path

VERSION = "0.0.78"
WORKER = str(Path(__file__).with_name("infinity_worker.py"))
QUIET = {"HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1", "INFINITY_ANONYMOUS_USAGE_STATS": "0"}
"""Variables that keep infinity from the network: it gets a local folder and needs nothing else."""
_ITS_OWN = ("pandas<3", "pyarrow<22", "datasets<4")
"""Packages of its own: ours, which it would share otherwise, need numpy 2 and a newer hub without telling pip."""
_FOLDER = Path("build/infinity")
_INSTALL_S = 240.0


class NotInstalled(Exception):
    """The environment could not be made; the message says why."""


def is_made() -> bool:
    """Whether the environment exists, so that :func:`python` installs nothing."""
    return bool(os.environ.get("INFINITY_PYTHON")) or (_FOLDER / "made").is_file()


def python() -> Path:
    """The interpreter of the environment, made on demand; INFINITY_PYTHON names one that is there already.

    Packages that infinity-emb does not refuse, torch above all, are taken from our own environment through a ``.pth``
    file: the same torch for both, and gigabytes that are not installed twice.

    Raises:
        NotInstalled: pip failed or took too long.
    """
    if given := os.environ.get("INFINITY_PYTHON"):
        return Path(given)
    found, made = _FOLDER / "bin" / "python", _FOLDER / "made"
    if not made.is_file():
        venv.create(_FOLDER, clear=True, with_pip=True)
        _share(found)
        _install(found)
        made.touch()
    return found


def _share(interpreter: Path) -> None:
    command = [str(interpreter), "-c", "import site; print(site.getsitepackages()[0])"]
    folder = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    Path(folder, "shared.pth").write_text("\n".join(site.getsitepackages()) + "\n")


def _install(interpreter: Path) -> None:
    pip = [
        str(interpreter),
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--retries",
        "1",
        "--timeout",
        "15",
    ]
    try:
        subprocess.run(
            [*pip, f"infinity-emb[torch]=={VERSION}", *_ITS_OWN],
            capture_output=True,
            text=True,
            timeout=_INSTALL_S,
            check=True,
        )
    except subprocess.TimeoutExpired:
        raise NotInstalled(f"its installation took more than {_INSTALL_S:.0f} s") from None
    except subprocess.CalledProcessError as error:
        said = [line for line in error.stderr.splitlines() if line.startswith("ERROR")]
        raise NotInstalled(f"it could not be installed: {(said or ['pip failed'])[-1][:160]}") from error


if __name__ == "__main__":
    sys.stdout.write(f"{python()}\n")
