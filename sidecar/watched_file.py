"""Small files that are read again when they change: keys, lists of what is revoked."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from sidecar.logs import log
from sidecar.metrics import Metrics

T = TypeVar("T")
Stamp = tuple[tuple[int, int, int], ...] | None

_LOOK_EVERY_S = 1.0


class WatchedFile(Generic[T]):
    """What a file holds now, looked at once a second at most, when somebody asks. A broken one changes nothing."""

    def __init__(
        self,
        read: Callable[[], T],
        event: str,
        *files: Path,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``read`` reads ``files``; it raises OSError or ValueError where they cannot be used, and so does this.
        ``event`` begins the names of the log lines ``EVENT_replaced`` and ``EVENT_not_replaced``, and is the label of
        ``sidecar_file_current``."""
        self._is_current = metrics.files_current.labels(event)
        self._read, self._event, self._files, self._clock = read, event, files, clock
        self._looked_at, self._stamp = clock(), _stamp(files)
        self._told = ""
        self._kept = read()
        self._is_current.set(1)

    def current(self) -> T:
        """What is valid now."""
        if self._clock() >= self._looked_at + _LOOK_EVERY_S:
            self._looked_at = self._clock()
            stamp = _stamp(self._files)
            if stamp is None or stamp != self._stamp:
                self._replace(stamp)
        return self._kept

    def _replace(self, stamp: Stamp) -> None:
        """A file that cannot be read is tried again; what cannot be used is tried when it changes."""
        try:
            self._kept = self._read()
        except (OSError, ValueError) as error:
            self._stamp = None if isinstance(error, OSError) else stamp
            self._is_current.set(0)
            if str(error) != self._told:
                self._told = str(error)
                log.error(f"{self._event}_not_replaced", error=self._told)
        else:
            self._stamp, self._told = stamp, ""
            self._is_current.set(1)
            log.info(f"{self._event}_replaced", file=str(self._files[0]))


def _stamp(files: tuple[Path, ...]) -> Stamp:
    try:
        found = [file.stat() for file in files]
    except OSError:
        return None
    return tuple((status.st_ino, status.st_mtime_ns, status.st_size) for status in found)
