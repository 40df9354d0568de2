"""Reloads a changed configuration file while calls are served; a file that cannot be used changes nothing."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path

from sidecar.configuration import ConfigurationError, load
from sidecar.file_stamp import Stamp, stamp_of
from sidecar.logs import log
from sidecar.metrics import Metrics
from sidecar.settings import Settings

LOOK_EVERY_S = 1.0
RETRY_AFTER_S, RETRY_EVERY_S = 10.0, 600.0
"""First and longest interval at which a refused file is retried, doubled each time: a file that it names, a key or a
certificate, may arrive after it."""


class Refused(Exception):
    """A valid configuration cannot be applied; the message says why."""


class Reloader:
    """Watches a file. ``apply`` switches to new settings, or raises :class:`Refused` and changes nothing."""

    def __init__(self, file: Path, seen: Stamp, apply: Callable[[Settings], Awaitable[None]], metrics: Metrics) -> None:
        """``seen`` is the file's stamp from before the served settings were read."""
        self._file = file
        self._apply = apply
        self._metrics = metrics
        self._asked = asyncio.Event()
        self._stamp = seen
        self._refused: Sequence[str] = ()
        self._retry_at, self._retry_after_s = 0.0, RETRY_AFTER_S

    def ask(self) -> None:
        """Have :meth:`watch` read the file again at once, changed or not, as on SIGHUP."""
        self._asked.set()

    async def watch(self) -> None:
        """Check the file every :data:`LOOK_EVERY_S` until cancelled. A change counts once two checks in a row find the
        same stamp, since a half-written file may be valid, too. Changes during a reload are seen afterwards."""
        last = self._stamp
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_EVERY_S):  # `wait_for` may swallow a cancellation
                    await self._asked.wait()
            stamp = stamp_of(self._file)
            if self._asked.is_set() or last == stamp != self._stamp:
                self._asked.clear()
                self._stamp = stamp
                await self.reload()
            elif self._refused and last == stamp and time.monotonic() >= self._retry_at:
                await self.reload(again=True)
            last = stamp

    async def reload(self, *, again: bool = False) -> bool:
        """Load and apply the file as it is now; return whether that succeeded. ``again`` marks the retry of a refused
        file, whose faults are logged only if they differ from the last ones."""
        known, self._refused = (self._refused if again else ()), ()
        self._retry_after_s = min(RETRY_EVERY_S, 2 * self._retry_after_s) if again else RETRY_AFTER_S
        try:
            await self._apply(await asyncio.to_thread(load, self._file))
        except (ConfigurationError, Refused) as error:
            self._refuse(str(error).splitlines(), known)
        except Exception as error:  # noqa: BLE001 - whatever it is, the old configuration stays in use
            self._refuse([f"an unforeseen fault: {type(error).__name__}"], known, error)
        else:
            self._metrics.configured(ok=True)
            return True
        return False

    def _refuse(self, faults: Sequence[str], known: Sequence[str], cause: Exception | None = None) -> None:
        self._refused, self._retry_at = faults, time.monotonic() + self._retry_after_s
        if faults != known:
            log.error("configuration_refused", faults=faults, exc_info=cause)
            self._metrics.configured(ok=False)
