"""A small file that is read again when it changes: keys, lists of what is revoked."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from sidecar.logs import log

T = TypeVar("T")

_LOOK_EVERY_S = 1.0


class WatchedFile(Generic[T]):
    """What a file holds now, looked at once a second at most, when somebody asks. A broken one changes nothing."""

    def __init__(
        self,
        file: Path,
        read: Callable[[Path], T],
        event: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``read`` raises OSError or ValueError where the file cannot be used; so does this. ``event`` begins the names
        of the log lines ``EVENT_replaced`` and ``EVENT_not_replaced``."""
        self._file, self._read, self._event, self._clock = file, read, event, clock
        self._looked_at, self._stamp = clock(), _stamp(file)
        self._kept = read(file)

    def current(self) -> T:
        """What is valid now."""
        if self._clock() >= self._looked_at + _LOOK_EVERY_S:
            self._looked_at = self._clock()
            stamp = _stamp(self._file)
            if stamp != self._stamp:
                self._stamp = stamp
                self._replace()
        return self._kept

    def _replace(self) -> None:
        try:
            self._kept = self._read(self._file)
        except (OSError, ValueError) as error:
            log.error(f"{self._event}_not_replaced", error=str(error))
        else:
            log.info(f"{self._event}_replaced", file=str(self._file))


def _stamp(file: Path) -> tuple[int, int, int] | None:
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size
