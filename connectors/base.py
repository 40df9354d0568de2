"""The interface through which every search engine is used."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from connectors.hits import DocumentRef, Hits, Json


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """Name and version of the engine that answered, as logged at start."""

    engine: str
    version: str


@dataclass(frozen=True, slots=True)
class Member:
    """A concrete index that an index expression stands for, and the aliases and data streams that lead to it."""

    index: str
    via: tuple[str, ...] = ()


class Connector(Protocol):
    """Read-only access to a search engine: searches and fetches documents, never writes.

    ``timeout_s`` bounds the wait for the engine, retries included. The asynchronous methods raise only
    :class:`connectors.errors.ConnectorError` (and let ``asyncio.CancelledError`` pass, closing the connection).

    ``identity`` tells whose rights the calls have: empty for the connector's own credentials, otherwise a digest of
    those given to :meth:`acting_as`. What is cached for one identity must not be served to another.
    """

    name: str
    identity: str

    def acting_as(self, authorization: str) -> "Connector":
        """Return a view over the same connections that sends this ``Authorization`` header instead of its own.

        Raises:
            ValueError: the header cannot be sent, or the connector cannot act for a user.
        """
        ...

    async def search(
        self, index: str, body: Json, *, timeout_s: float, params: Mapping[str, str] | None = None
    ) -> Hits:
        """Run ``body`` on ``index`` as the engine's own ``_search`` would; ``params`` are its URL parameters.

        ``index`` is an index expression; it may be empty only if the body has a point in time (``pit``).
        """
        ...

    async def fetch(
        self, refs: Sequence[DocumentRef], fields: Sequence[str], *, timeout_s: float
    ) -> dict[DocumentRef, Json]:
        """Return each document's ``_source``, cut to ``fields``, by one ``_mget``; those not found are left out."""
        ...

    async def resolve(self, expression: str, *, timeout_s: float) -> tuple[Member, ...]:
        """Return the concrete indices, backing indices included, that an index expression stands for now."""
        ...

    async def render(self, template: Json, *, timeout_s: float) -> Json:
        """Return the search body made from a search template (``id`` or ``source``, and ``params``)."""
        ...

    async def info(self, *, timeout_s: float) -> EngineInfo:
        """Ask the engine for its name and version."""
        ...

    async def close(self) -> None:
        """Close all connections. Safe to call twice."""
        ...
