"""An engine's jars and its compiled launcher, in a cache outside the repository."""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
import zipfile
from pathlib import Path

from tests.engines.catalog import EngineError, Missing, Spec
from tests.engines.jdk import find_jdk

OWN_LOADER = ("x-pack-security", "opensaml", "java-support", "xmlsec", "cryptacular")  # of x-pack security


def prepare(spec: Spec) -> Path:
    """Make sure that the engine's jars and launcher are in the cache, and return their folder.

    The cache is ``$ENGINES_CACHE`` or ~/.cache/rerank-sidecar/engines. The folder is named after a hash of all that it
    is made from, appears at once, and is made by one process at a time.

    Raises:
        Missing: there is no JDK new enough, or no Maven.
        EngineError: a download or the compiler failed; the message ends with what was printed.
    """
    folder = place_of(spec)
    if folder.is_dir():
        return folder
    shelf = folder.parent
    jdk = find_jdk(spec)
    shelf.mkdir(parents=True, exist_ok=True)
    with (shelf / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            for stale in shelf.glob("*.part"):
                shutil.rmtree(stale)
            part = Path(tempfile.mkdtemp(dir=shelf, suffix=".part"))
            _fill(spec, part, jdk)
            part.rename(folder)
    return folder


def place_of(spec: Spec) -> Path:
    """The folder of the cache that holds the engine once it is prepared."""
    default = Path.home() / ".cache" / "rerank-sidecar" / "engines"
    return Path(os.environ.get("ENGINES_CACHE") or default).absolute() / spec.name / _digest(spec)


def run(command: list[str | Path], **variables: str) -> None:
    """Run a program to its end; ``EngineError`` with the end of what it printed when it fails."""
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **variables}, check=False)
    if done.returncode:
        name, printed = Path(command[0]).name, (done.stdout + done.stderr)[-3000:]
        raise EngineError(f"{name} failed with exit status {done.returncode}:\n{printed}")


def _digest(spec: Spec) -> str:
    files = [Path(__file__), *sorted(path for path in spec.folder.rglob("*") if path.is_file())]
    made_from = [repr((spec.profile, spec.min_jdk, spec.user, spec.sources)).encode()]
    return hashlib.sha256(b"\0".join([*made_from, *(path.read_bytes() for path in files)])).hexdigest()[:12]


def _fill(spec: Spec, folder: Path, jdk: Path) -> None:
    lib = folder / "lib"
    _download(spec, spec.profile, lib, jdk)
    if spec.user and spec.kind == "opensearch":
        _unpack_opensearch_security(lib, folder / "security")
    elif spec.user:
        _download(spec, f"{spec.profile},secured", folder / "x-pack-core", jdk)
        _split_x_pack(lib, folder / "x-pack-core", folder / "x-pack-security")
    classes = folder / "classes"
    sources = [path for part in (".", *spec.sources) for path in sorted((spec.folder / part).glob("*.java"))]
    release = ["--release", str(spec.min_jdk)]
    run([jdk / "bin" / "javac", "-proc:none", *release, "-cp", f"{lib}/*", "-d", classes, *sources])
    for path in spec.folder.glob("*.properties"):
        shutil.copy(path, classes)


def _download(spec: Spec, profiles: str, folder: Path, jdk: Path) -> None:
    maven = shutil.which("mvn")
    if not maven:
        raise Missing(f"{spec.name} needs mvn (Apache Maven) on the PATH to download its jars")
    goal = ["dependency:copy-dependencies", f"-DoutputDirectory={folder}"]
    run([maven, "-B", "-q", "-f", spec.folder / "pom.xml", f"-P{profiles}", *goal], JAVA_HOME=str(jdk))


def _unpack_opensearch_security(lib: Path, folder: Path) -> None:
    """The plugin's zip: its settings go to ``folder``, its jars beside the node's unless the node has that library."""
    (archive,) = lib.glob("*.zip")
    with zipfile.ZipFile(archive) as plugin:
        plugin.extractall(folder)
    archive.unlink()
    present = {_library(jar) for jar in lib.glob("*.jar")}
    for jar in folder.glob("*.jar"):
        if _library(jar) in present:
            jar.unlink()
        else:
            jar.rename(lib / jar.name)


def _library(jar: Path) -> str:
    return re.sub(r"-\d.*", "", jar.name)


def _split_x_pack(lib: Path, core: Path, security: Path) -> None:
    """x-pack security and the node each get a class loader: leave in ``core`` what neither of the others holds."""
    security.mkdir()
    for jar in core.glob("*.jar"):
        if (lib / jar.name).exists():
            jar.unlink()
        elif jar.name.startswith(OWN_LOADER):
            jar.rename(security / jar.name)
