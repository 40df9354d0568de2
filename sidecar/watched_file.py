"""Small files that are read again when they change: keys, lists of what is revoked."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from sidecar.file_stamp import Stamp, stamp_of
from sidecar.logs import log
from sidecar.metrics import Metrics

T = TypeVar("T")

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
        self._looked_at, self._seen = clock(), self._stamps()
        self._told = ""
        self._kept = read()
        self._is_current.set(1)

    def current(self) -> T:
        """What is valid now."""
        if self._clock() >= self._looked_at + _LOOK_EVERY_S:
            self._looked_at = self._clock()
            stamps = self._stamps()
            if stamps != self._seen or None in stamps:
                self._replace(stamps)
        return self._kept

    def _replace(self, stamps: list[Stamp]) -> None:
        """A file that cannot be read is tried again; what cannot be used is tried when it changes."""
        try:
            self._kept = self._read()
        except (OSError, ValueError) as error:
            self._seen = [] if isinstance(error, OSError) else stamps
            self._is_current.set(0)
            if str(error) != self._told:
                self._told = str(error)
                log.error(f"{self._event}_not_replaced", error=self._told)
        else:
            self._seen, self._told = stamps, ""
            self._is_current.set(1)
            log.info(f"{self._event}_replaced", file=str(self._files[0]))

    def _stamps(self) -> list[Stamp]:
        return [stamp_of(file) for file in self._files]
