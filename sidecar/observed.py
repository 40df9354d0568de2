"""Counts what a connector is asked and how that ends."""

from collections.abc import Awaitable, Mapping, Sequence
from typing import TypeVar

from connectors.base import Connector, EngineInfo, Member
from connectors.errors import ConnectorError
from connectors.hits import DocumentRef, Hits, Json
from sidecar.metrics import Metrics

Answer = TypeVar("Answer")


class ObservedConnector:
    """A connector that counts the calls of another one, and says in errors whose they are; otherwise the same."""

    def __init__(self, connector: Connector, engine: str, metrics: Metrics) -> None:
        self.name = connector.name
        self.identity = connector.identity
        self._connector = connector
        self._engine = engine
        self._metrics = metrics

    def acting_as(self, authorization: str) -> "ObservedConnector":
        """See :class:`connectors.base.Connector`."""
        return ObservedConnector(self._connector.acting_as(authorization), self._engine, self._metrics)

    async def search(
        self, index: str, body: Json, *, timeout_s: float, params: Mapping[str, str] | None = None
    ) -> Hits:
        """See :class:`connectors.base.Connector`."""
        return await self._count("search", self._connector.search(index, body, timeout_s=timeout_s, params=params))

    async def fetch(
        self, refs: Sequence[DocumentRef], fields: Sequence[str], *, timeout_s: float
    ) -> dict[DocumentRef, Json]:
        """See :class:`connectors.base.Connector`."""
        return await self._count("fetch", self._connector.fetch(refs, fields, timeout_s=timeout_s))

    async def resolve(self, expression: str, *, timeout_s: float) -> tuple[Member, ...]:
        """See :class:`connectors.base.Connector`."""
        return await self._count("resolve", self._connector.resolve(expression, timeout_s=timeout_s))

    async def render(self, template: Json, *, timeout_s: float) -> Json:
        """See :class:`connectors.base.Connector`."""
        return await self._count("render", self._connector.render(template, timeout_s=timeout_s))

    async def info(self, *, timeout_s: float) -> EngineInfo:
        """See :class:`connectors.base.Connector`."""
        return await self._count("info", self._connector.info(timeout_s=timeout_s))

    async def close(self) -> None:
        """See :class:`connectors.base.Connector`."""
        await self._connector.close()

    async def _count(self, operation: str, call: Awaitable[Answer]) -> Answer:
        outcome = "cancelled"
        try:
            answer = await call
            outcome = "ok"
        except ConnectorError as error:
            outcome = type(error).__name__
            error.connector, error.engine = self.name, self._engine
            raise
        else:
            return answer
        finally:
            self._metrics.connector_requests.labels(self._engine, operation, outcome).inc()
