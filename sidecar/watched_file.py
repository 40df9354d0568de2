"""Small files that are read again when they change: keys, lists of what is revoked, certificates."""

from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import Generic, TypeVar

from sidecar.file_stamp import Stamp, stamp_of
from sidecar.logs import log
from sidecar.metrics import Metrics

T = TypeVar("T")

LOOK_EVERY_S = 1.0
"""How often somebody is to :meth:`WatchedFile.look`."""


class WatchedFile(Generic[T]):
    """What a file holds, as of the last look at it. A broken one changes nothing. Threads may share it."""

    def __init__(self, read: Callable[[], T], event: str, *files: Path, metrics: Metrics) -> None:
        """``read`` reads ``files``; it raises OSError or ValueError where they cannot be used, and so does this.
        ``event`` begins the names of the log lines ``EVENT_replaced`` and ``EVENT_not_replaced``, and is the label of
        ``sidecar_file_current`` and ``sidecar_file_changes_total``."""
        self._metrics = metrics
        self._read, self._event, self._files = read, event, files
        self._lock = Lock()
        self._seen = self._last = self._stamps()
        self._told = ""
        self._kept = read()
        metrics.file_served(event)

    def current(self) -> T:
        """What is valid now."""
        return self._kept

    def look(self) -> None:
        """Read it again if it has changed. A change counts when two looks have found the same, since a half-written
        file may be valid, too: an empty one holds no keys, a shorter one fewer."""
        with self._lock:
            last, self._last = self._last, self._stamps()
            if self._last == last and (last != self._seen or None in last):
                self._replace(last)

    def _replace(self, stamps: list[Stamp]) -> None:
        """A file that cannot be read is tried again; what cannot be used is tried when it changes."""
        try:
            self._kept = self._read_files()
        except (OSError, ValueError, RecursionError) as error:
            self._seen = [] if isinstance(error, OSError) else stamps
            if str(error) != self._told:
                self._told = str(error)
                self._metrics.file_changed(self._event, ok=False)
                log.error(f"{self._event}_not_replaced", error=self._told)
        else:
            self._seen, self._told = stamps, ""
            self._metrics.file_changed(self._event, ok=True)
            log.info(f"{self._event}_replaced", file=str(self._files[0]))

    def _read_files(self) -> T:
        if others := [file for file in self._files if not file.is_file()]:  # a pipe would be waited for
            raise FileNotFoundError(f"{others[0]} is no file")
        return self._read()

    def _stamps(self) -> list[Stamp]:
        return [stamp_of(file) for file in self._files]
