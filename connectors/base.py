"""The one interface every search engine is used through."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from connectors.hits import DocumentRef, Hits, Json


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """Which engine answered, for the log line at start."""

    engine: str
    version: str


@dataclass(frozen=True, slots=True)
class Member:
    """A concrete index that an index expression stands for, and the alias or data stream that led to it, if any."""

    index: str
    via: tuple[str, ...] = ()


class Connector(Protocol):
    """A search engine that can be searched and asked for documents; it is never written to.

    ``timeout_s`` bounds the whole call, retries included. All methods raise only
    :class:`connectors.errors.ConnectorError` (and let ``asyncio.CancelledError`` pass, closing the connection).

    ``identity`` tells whose rights the calls have: empty for the connector's own credentials, otherwise a digest of
    those given to :meth:`acting_as`. What is remembered of one identity must not be shown to another.
    """

    name: str
    identity: str

    def acting_as(self, authorization: str) -> "Connector":
        """The same engine over the same connections, asked with this ``Authorization`` header instead of its own."""
        ...

    async def search(
        self, index: str, body: Json, *, timeout_s: float, params: Mapping[str, str] | None = None
    ) -> Hits:
        """Run ``body`` on ``index`` as the engine's own ``_search`` would; ``params`` are its URL parameters.

        ``index`` is an index expression; it is empty for a body with a point in time (``pit``), and only then.
        """
        ...

    async def fetch(
        self, refs: Sequence[DocumentRef], fields: Sequence[str], *, timeout_s: float
    ) -> dict[DocumentRef, Json]:
        """The ``_source`` of each document, cut to ``fields``, in one ``_mget``; what is not there is absent."""
        ...

    async def resolve(self, expression: str, *, timeout_s: float) -> tuple[Member, ...]:
        """The concrete indices, data streams' backing ones included, that an index expression stands for now."""
        ...

    async def render(self, template: Json, *, timeout_s: float) -> Json:
        """The search body that a search template (``id`` or ``source``, and ``params``) makes."""
        ...

    async def info(self, *, timeout_s: float) -> EngineInfo:
        """Ask the engine for its name and version."""
        ...

    async def close(self) -> None:
        """Close all connections. Safe to call twice."""
        ...
