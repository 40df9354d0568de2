"""Search engines behind one interface; usable alone, knows nothing of the sidecar.

Each engine is a module of its own, imported only by those who use it:

    from connectors.elasticsearch import ElasticsearchConnector
    from connectors.opensearch import OpenSearchConnector
    from connectors.memory import MemoryConnector

Example:
    >>> import asyncio
    >>> from connectors.memory import MemoryConnector
    >>> books = MemoryConnector("demo", {"books": {"1": {"title": "Car repair"}, "2": {"title": "Apple pie"}}})
    >>> found = asyncio.run(books.search("books", {"query": {"match": {"title": "repair"}}}, timeout_s=1))
    >>> [hit.ref.id for hit in found.hits]
    ['1']
"""

from connectors.base import Connector, EngineInfo, Member
from connectors.errors import (
    AnswerTooLarge,
    ConnectorError,
    EngineRefused,
    EngineTimeout,
    EngineUnavailable,
    IndexNotFound,
    InvalidQuery,
    MalformedAnswer,
    NoAnswer,
    NotAuthenticated,
    NotPermitted,
)
from connectors.hits import DocumentRef, Hit, Hits, Json

__all__ = [
    "AnswerTooLarge",
    "Connector",
    "ConnectorError",
    "DocumentRef",
    "EngineInfo",
    "EngineRefused",
    "EngineTimeout",
    "EngineUnavailable",
    "Hit",
    "Hits",
    "IndexNotFound",
    "InvalidQuery",
    "Json",
    "MalformedAnswer",
    "Member",
    "NoAnswer",
    "NotAuthenticated",
    "NotPermitted",
]
