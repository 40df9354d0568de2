"""Counts what a connector is asked and how that ends, and leaves an engine alone that gives no answer."""

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

from connectors.base import Connector, EngineInfo, Member
from connectors.errors import ConnectorError, EngineTimeout, EngineUnavailable
from connectors.hits import DocumentRef, Hits, Json
from sidecar.breaker import Breaker
from sidecar.logs import log
from sidecar.metrics import Metrics

Answer = TypeVar("Answer")

TRY_EVERY_S = 0.5
"""How often an engine that gave no answer is asked again."""
LONG_ENOUGH_S = 1.0
"""What an engine has to be given before its silence counts: a caller in a hurry must not close it to others."""


class ObservedConnector:
    """A connector that counts the calls of another one, and says in errors whose they are; otherwise the same.

    An engine that gave no answer several times in a row (:data:`sidecar.breaker.FAILURES`) is asked only now and then,
    until it answers, whatever it says; other calls raise ``EngineUnavailable`` at once instead of waiting for it.
    """

    def __init__(
        self,
        connector: Connector,
        engine: str,
        metrics: Metrics,
        *,
        clock: Callable[[], float] = time.monotonic,
        breaker: Breaker | None = None,
    ) -> None:
        self.name = connector.name
        self.identity = connector.identity
        self._connector = connector
        self._engine = engine
        self._metrics = metrics
        self._clock = clock
        self._breaker = breaker or Breaker(TRY_EVERY_S)
        metrics.connector_open.labels(self.name).set(int(self._breaker.is_open))

    def acting_as(self, authorization: str) -> "ObservedConnector":
        """See :class:`connectors.base.Connector`."""
        view = self._connector.acting_as(authorization)
        return ObservedConnector(view, self._engine, self._metrics, clock=self._clock, breaker=self._breaker)

    async def search(
        self, index: str, body: Json, *, timeout_s: float, params: Mapping[str, str] | None = None
    ) -> Hits:
        """See :class:`connectors.base.Connector`."""
        search = self._connector.search
        return await self._ask("search", lambda: search(index, body, timeout_s=timeout_s, params=params), timeout_s)

    async def fetch(
        self, refs: Sequence[DocumentRef], fields: Sequence[str], *, timeout_s: float
    ) -> dict[DocumentRef, Json]:
        """See :class:`connectors.base.Connector`."""
        fetch = self._connector.fetch
        return await self._ask("fetch", lambda: fetch(refs, fields, timeout_s=timeout_s), timeout_s)

    async def resolve(self, expression: str, *, timeout_s: float) -> tuple[Member, ...]:
        """See :class:`connectors.base.Connector`."""
        resolve = self._connector.resolve
        return await self._ask("resolve", lambda: resolve(expression, timeout_s=timeout_s), timeout_s)

    async def render(self, template: Json, *, timeout_s: float) -> Json:
        """See :class:`connectors.base.Connector`."""
        render = self._connector.render
        return await self._ask("render", lambda: render(template, timeout_s=timeout_s), timeout_s)

    async def info(self, *, timeout_s: float) -> EngineInfo:
        """See :class:`connectors.base.Connector`. It is asked also while other calls are not."""
        return await self._count("info", self._connector.info(timeout_s=timeout_s), timeout_s)

    async def close(self) -> None:
        """See :class:`connectors.base.Connector`."""
        await self._connector.close()

    async def _ask(self, operation: str, call: Callable[[], Awaitable[Answer]], timeout_s: float) -> Answer:
        if not self._breaker.allows(self._clock()):
            self._metrics.connector_requests.labels(self._engine, operation, "refused").inc()
            error = EngineUnavailable(
                f"connector {self.name!r}: the engine gave no answer {self._breaker.failures} times in a row, "
                f"and is asked again once in {TRY_EVERY_S:g} s",
                transient=False,
                error_type="circuit_open",
            )
            self._own(error)
            raise error
        return await self._count(operation, call(), timeout_s)

    async def _count(self, operation: str, call: Awaitable[Answer], timeout_s: float) -> Answer:
        outcome = "cancelled"
        try:
            answer = await call
            outcome = "ok"
            self._answered()
        except ConnectorError as error:
            outcome = type(error).__name__
            self._failed(error, timeout_s)
            self._own(error)
            raise
        else:
            return answer
        finally:
            self._metrics.connector_requests.labels(self._engine, operation, outcome).inc()

    def _own(self, error: ConnectorError) -> None:
        error.connector, error.engine = self.name, self._engine

    def _failed(self, error: ConnectorError, timeout_s: float) -> None:
        """Silence counts, and no connection; an engine that says no, or that it is busy (429, 503), has answered."""
        late = isinstance(error, EngineTimeout)
        if late and timeout_s < LONG_ENOUGH_S:
            return
        if not late and not (isinstance(error, EngineUnavailable) and error.status == 0):
            self._answered()
            return
        was_open = self._breaker.is_open
        self._breaker.failed(self._clock())
        if self._breaker.is_open and not was_open:
            log.error("connector_gives_no_answer", connector=self.name, in_a_row=self._breaker.failures)
            self._metrics.connector_open.labels(self.name).set(1)

    def _answered(self) -> None:
        if self._breaker.is_open:
            log.info("connector_answers_again", connector=self.name)
            self._metrics.connector_open.labels(self.name).set(0)
        self._breaker.went_well()
