"""Counts a connector's calls by outcome, and refuses calls to an engine that does not answer."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

from connectors.base import Connector, EngineInfo, Member
from connectors.errors import ConnectorError, EngineUnavailable
from connectors.hits import DocumentRef, Hits, Json
from sidecar.metrics import Metrics
from sidecar.silence import ASK_EVERY_S, ASK_TIMEOUT_S, Silence, is_silence

Answer = TypeVar("Answer")


class ObservedConnector:
    """Wraps a connector: counts its calls, and adds the names of connector and engine to its errors.

    While the engine is known not to answer (:mod:`sidecar.silence`), calls raise ``EngineUnavailable`` at once instead
    of waiting for it.
    """

    def __init__(self, connector: Connector, engine: str, metrics: Metrics, silence: Silence | None = None) -> None:
        """``silence`` is the state that views for other users share; None makes a new one."""
        self.name = connector.name
        self.identity = connector.identity
        self._connector = connector
        self._engine = engine
        self._metrics = metrics
        self._silence = silence or Silence(self.name, lambda: self.info(timeout_s=ASK_TIMEOUT_S), metrics)

    def acting_as(self, authorization: str) -> "ObservedConnector":
        """See :class:`connectors.base.Connector`."""
        view = self._connector.acting_as(authorization)
        return ObservedConnector(view, self._engine, self._metrics, self._silence)

    async def search(
        self, index: str, body: Json, *, timeout_s: float, params: Mapping[str, str] | None = None
    ) -> Hits:
        """See :class:`connectors.base.Connector`."""
        search = self._connector.search
        return await self._ask("search", lambda: search(index, body, timeout_s=timeout_s, params=params))

    async def fetch(
        self, refs: Sequence[DocumentRef], fields: Sequence[str], *, timeout_s: float
    ) -> dict[DocumentRef, Json]:
        """See :class:`connectors.base.Connector`."""
        fetch = self._connector.fetch
        return await self._ask("fetch", lambda: fetch(refs, fields, timeout_s=timeout_s))

    async def resolve(self, expression: str, *, timeout_s: float) -> tuple[Member, ...]:
        """See :class:`connectors.base.Connector`."""
        resolve = self._connector.resolve
        return await self._ask("resolve", lambda: resolve(expression, timeout_s=timeout_s))

    async def render(self, template: Json, *, timeout_s: float) -> Json:
        """See :class:`connectors.base.Connector`."""
        render = self._connector.render
        return await self._ask("render", lambda: render(template, timeout_s=timeout_s))

    async def info(self, *, timeout_s: float) -> EngineInfo:
        """See :class:`connectors.base.Connector`. Not refused while the engine does not answer."""
        return await self._count("info", self._connector.info(timeout_s=timeout_s))

    async def close(self) -> None:
        """See :class:`connectors.base.Connector`."""
        self._silence.close()
        await self._connector.close()

    async def _ask(self, operation: str, call: Callable[[], Awaitable[Answer]]) -> Answer:
        if self._silence.known:
            self._metrics.connector_requests.labels(self.name, self._engine, operation, "refused").inc()
            error = EngineUnavailable(
                f"connector {self.name!r}: the engine does not answer; it is asked every {ASK_EVERY_S:g} s "
                "until it does",
                error_type="circuit_open",
                retry_after_s=ASK_EVERY_S,
            )
            self._own(error)
            raise error
        return await self._count(operation, call())

    async def _count(self, operation: str, call: Awaitable[Answer]) -> Answer:
        outcome = "cancelled"
        try:
            answer = await call
            outcome = "ok"
        except ConnectorError as error:
            outcome = type(error).__name__
            if is_silence(error):
                self._silence.missed()
            elif error.status:  # without a status nothing was sent
                self._silence.heard()
            self._own(error)
            raise
        else:
            if answer:  # an empty answer may not be the engine's: with nothing to ask for, nothing is sent
                self._silence.heard()
            return answer
        finally:
            self._metrics.connector_requests.labels(self.name, self._engine, operation, outcome).inc()

    def _own(self, error: ConnectorError) -> None:
        error.connector, error.engine = self.name, self._engine
