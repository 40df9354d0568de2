"""Where on this machine a Java new enough for an engine is."""

import functools
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.engines.catalog import Missing, Spec

INSTALLED = Path("/usr/lib/jvm")


def find_jdk(spec: Spec) -> Path:
    """The first JDK that is new enough: ``$JAVA_HOME``, the newest under /usr/lib/jvm, that of ``java`` on the PATH.

    Raises:
        Missing: none is new enough; names those found.
    """
    homes = list(_homes())
    for home in homes:
        if jdk_version(home) >= spec.min_jdk:
            return home
    found = ", ".join(f"{home} is {jdk_version(home) or 'no JDK'}" for home in homes) or "none"
    raise Missing(f"{spec.name} needs a JDK (java and javac) of version {spec.min_jdk} or newer. Found: {found}")


def _homes() -> Iterator[Path]:
    if home := os.environ.get("JAVA_HOME"):
        yield Path(home)
    yield from sorted(INSTALLED.glob("*"), key=jdk_version, reverse=True)
    if java := shutil.which("java"):
        yield Path(java).resolve().parent.parent


@functools.cache
def jdk_version(home: Path) -> int:
    """The feature version of the JDK in this folder; 0 when there is no JDK."""
    try:
        command = [str(home / "bin" / "javac"), "-version"]
        answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return 0
    found = re.search(r"javac (\d+)", answer)
    return int(found[1]) if found else 0
