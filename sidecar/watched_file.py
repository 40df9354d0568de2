"""Small files that are read again when they change: keys, certificates, revocation lists."""

from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import Generic, TypeVar

from sidecar.file_stamp import Stamp, stamp_of
from sidecar.logs import log
from sidecar.metrics import Metrics

T = TypeVar("T")

LOOK_EVERY_S = 1.0
"""Interval at which the owner is to call :meth:`WatchedFile.look`."""


class WatchedFile(Generic[T]):
    """The content of one or more files, as of the last :meth:`look`. A broken file changes nothing. Thread-safe."""

    def __init__(self, read: Callable[[], T], event: str, *files: Path, metrics: Metrics) -> None:
        """``read`` parses ``files``; it raises OSError or ValueError if they cannot be used, and so does this.
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
        """Return the content that was last read successfully."""
        return self._kept

    def look(self) -> None:
        """Read the files again if they have changed. A change counts once two looks in a row find the same stamps,
        since a half-written file may be valid, too: an empty one holds no keys, a shorter one fewer."""
        with self._lock:
            last, self._last = self._last, self._stamps()
            if self._last == last and (last != self._seen or None in last):
                self._replace(last)

    def _replace(self, stamps: list[Stamp]) -> None:
        """Read the files; an unreadable one is tried again at each look, invalid content only when it changes."""
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
        if others := [file for file in self._files if not file.is_file()]:  # reading a pipe could block
            raise FileNotFoundError(f"{others[0]} is no file")
        return self._read()

    def _stamps(self) -> list[Stamp]:
        return [stamp_of(file) for file in self._files]
