"""Detects engines that do not answer: unanswered calls raise the suspicion, asking for the version decides."""

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import Context

from connectors.errors import ConnectorError, EngineTimeout, EngineUnavailable
from sidecar.logs import log
from sidecar.metrics import Metrics

SUSPICIOUS = 5
"""Unanswered calls in a row after which the engine is asked: a few slow searches do not mean that it is silent."""
ASK_EVERY_S = 0.5
"""Seconds between questions to a silent engine, until it answers."""
ASK_TIMEOUT_S = 1.0


def is_silence(error: ConnectorError) -> bool:
    """Whether the engine did not answer; one that refuses, or says that it is busy (429, 503), has answered."""
    return error.status == 0 and isinstance(error, (EngineTimeout, EngineUnavailable))


class Silence:
    """Whether one engine is silent, shared by all views of its connector."""

    def __init__(self, connector: str, ask: Callable[[], Awaitable[object]], metrics: Metrics) -> None:
        """``ask`` sends the engine a cheap request, limited to :data:`ASK_TIMEOUT_S`, or raises ConnectorError."""
        self._connector = connector
        self._ask = ask
        self._gauge = metrics.connector_open.labels(connector)
        self._in_a_row = 0
        self._asking: asyncio.Task[None] | None = None
        self._closed = False
        self._last_error = ""
        self.known = False
        """Whether the engine is known to be silent, so that calls need not wait for it."""
        self._gauge.set(0)

    def heard(self) -> None:
        """Note that an answer came."""
        self._in_a_row = 0

    def missed(self) -> None:
        """Note that a call got no answer; :data:`SUSPICIOUS` in a row make it ask the engine."""
        self._in_a_row += 1
        if self._in_a_row >= SUSPICIOUS and self._asking is None and not self._closed:
            self._asking = asyncio.create_task(self._ask_until_heard(), context=Context())

    def close(self) -> None:
        """Stop asking. Safe to call twice."""
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
