"""Whether an engine answers at all. Calls that end in silence raise the suspicion; asking for its version decides."""

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import Context

from connectors.errors import ConnectorError, EngineTimeout, EngineUnavailable
from sidecar.logs import log
from sidecar.metrics import Metrics

SUSPICIOUS = 5
"""Silent ends in a row after which the engine is asked: a few slow searches are no silence."""
ASK_EVERY_S = 0.5
"""How often a silent engine is asked whether it is there again."""
ASK_TIMEOUT_S = 1.0


def is_silence(error: ConnectorError) -> bool:
    """Whether nothing came back; an engine that says no, or that it is busy (429, 503), has answered."""
    return error.status == 0 and isinstance(error, (EngineTimeout, EngineUnavailable))


class Silence:
    """What is known of one engine, for all views of its connector."""

    def __init__(self, connector: str, ask: Callable[[], Awaitable[object]], metrics: Metrics) -> None:
        """``ask`` asks the engine anything that costs it nothing, within :data:`ASK_TIMEOUT_S`."""
        self._connector = connector
        self._ask = ask
        self._gauge = metrics.connector_open.labels(connector)
        self._in_a_row = 0
        self._asking: asyncio.Task[None] | None = None
        self._closed = False
        self._last_error = ""
        self.known = False
        """Whether the engine is silent; calls need not wait for it to learn that."""
        self._gauge.set(0)

    def heard(self) -> None:
        """An answer came."""
        self._in_a_row = 0

    def missed(self) -> None:
        """No answer came."""
        self._in_a_row += 1
        if self._in_a_row >= SUSPICIOUS and self._asking is None and not self._closed:
            self._asking = asyncio.create_task(self._ask_until_heard(), context=Context())

    def close(self) -> None:
        """Ask no more."""
        self._closed = True
        if self._asking:
            self._asking.cancel()
        if self.known:
            self._gauge.set(0)

    async def _ask_until_heard(self) -> None:
        try:
            while await self._is_silent():
                if not self.known:
                    log.error(
                        "connector_gives_no_answer",
                        connector=self._connector,
                        in_a_row=self._in_a_row,
                        error=self._last_error,
                    )
                self.known = True
                self._gauge.set(1)
                await asyncio.sleep(ASK_EVERY_S)
            if self.known:
                log.info("connector_answers_again", connector=self._connector)
                self._gauge.set(0)
        finally:
            self.known, self._in_a_row, self._asking = False, 0, None

    async def _is_silent(self) -> bool:
        try:
            await self._ask()
        except ConnectorError as error:
            self._last_error = str(error)
            return is_silence(error)
        return False
