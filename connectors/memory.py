"""A search engine in this process: BM25 over a few thousand documents, for tests and first steps."""

import asyncio
import copy
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from connectors.attempts import Call, attempt
from connectors.base import EngineInfo, Member
from connectors.credentials import check_forwarded, identity_of
from connectors.errors import EngineUnavailable
from connectors.faults import Fault, Operation, Script
from connectors.hits import DocumentRef, Hits, Json
from connectors.json_lines import read_documents
from connectors.memory_index import MemoryIndex
from connectors.memory_query import Refused, Search, SourceFilter, parse_search, wildcard
from connectors.refusals import invalid_query, no_such_index
from connectors.wire import ALL_INDICES, LONGEST_NAME, check_index, decode, encode, read_hits, read_info, read_members
from connectors.wire import read_documents as read_found

__all__ = ["Fault", "MemoryConnector", "Script"]


class MemoryConnector:
    """Indices held in memory, answering in the engines' own JSON.

    It supports the queries ``match_all``, ``match``, ``multi_match``, ``query_string`` and ``simple_query_string``
    (both as plain words) and ``ids``, and in the body beside ``query``: ``from``, ``size``, ``_source``,
    ``track_total_hits`` and a ``sort`` by ``_score``. The URL parameters ``preference``, ``request_cache`` and
    ``routing`` are ignored. Anything else raises ``InvalidQuery``, whose reason names what is allowed. ``from`` +
    ``size`` is 10,000 at most. An index expression is names and patterns with ``*``, separated by commas, or ``_all``.

    ``script`` delays calls, makes them fail or changes their answers, see :class:`connectors.faults.Fault`:

        >>> import asyncio
        >>> books = MemoryConnector("demo", {"books": {"1": {"title": "Car repair"}}})
        >>> books.script.append(Fault(delay_s=5, on="search"))
        >>> asyncio.run(books.search("books", {}, timeout_s=0.01))
        Traceback (most recent call last):
        connectors.errors.EngineTimeout: connector 'demo': search on 'books': no complete answer within 0.01 s
    """

    def __init__(self, name: str, indices: Mapping[str, Mapping[str, Json]], *, faults: Iterable[Fault] = ()) -> None:
        """Index the documents, given by index and id; 10,000 short ones take about a second."""
        self.name = name
        self.identity = ""
        self.script = Script(faults)
        self._indices = {index: MemoryIndex(documents) for index, documents in indices.items()}
        self._closed = asyncio.Event()

    @classmethod
    def from_files(
        cls, name: str, files: Mapping[str, Path | str], *, faults: Iterable[Fault] = ()
    ) -> "MemoryConnector":
        """Read each index from a file of JSON lines, see :func:`connectors.json_lines.read_documents`.

        Raises:
            ValueError: a file cannot be read, or a line is not a document; names file and line.
        """
        return cls(name, {index: read_documents(path) for index, path in files.items()}, faults=faults)

    def acting_as(self, authorization: str) -> "MemoryConnector":
        """See :meth:`connectors.base.Connector.acting_as`; every user may read everything here.

        Raises:
            ValueError: the header cannot be sent, see :func:`connectors.credentials.check_forwarded`.
        """
        check_forwarded(authorization)
        view = copy.copy(self)
        view.identity = identity_of(authorization)
        return view

    async def search(
        self, index: str, body: Json, *, timeout_s: float, params: Mapping[str, str] | None = None
    ) -> Hits:
        """See :meth:`connectors.base.Connector.search`."""
        call = Call(self.name, f"search on {index[:LONGEST_NAME]!r}")
        check_index(call, index)
        wanted = encode(call, body)  # as for an engine, so that the same bodies are refused

        def answer(_: Fault) -> Json:
            try:
                search = parse_search(decode(call, wanted), params)
            except Refused as error:
                raise invalid_query(call, error.error_type, error.reason) from error
            return self._search(self._resolve(call, index), search)

        return read_hits(call, json.dumps(await self._play(call, "search", answer, timeout_s)).encode())

    async def resolve(self, expression: str, *, timeout_s: float) -> tuple[Member, ...]:
        """See :meth:`connectors.base.Connector.resolve`; there are no aliases here."""
        call = Call(self.name, f"resolving {expression[:LONGEST_NAME]!r}")
        check_index(call, expression)

        def answer(_: Fault) -> Json:
            named = [{"name": name} for name in self._resolve(call, expression)]
            return {"indices": named, "aliases": [], "data_streams": []}

        return read_members(call, expression, await self._play(call, "resolve", answer, timeout_s))

    async def render(self, template: Json, *, timeout_s: float) -> Json:  # noqa: ARG002
        """Raise ``InvalidQuery``: there are no search templates here."""
        call = Call(self.name, "rendering a search template")
        raise invalid_query(call, "illegal_argument_exception", "this engine knows no search templates")

    async def fetch(
        self, refs: Sequence[DocumentRef], fields: Sequence[str], *, timeout_s: float
    ) -> dict[DocumentRef, Json]:
        """See :meth:`connectors.base.Connector.fetch`; routing is ignored here."""
        wanted = list(dict.fromkeys(refs))
        if not wanted or not fields:
            return {}
        call = Call(self.name, f"fetch of {len(wanted)} documents")
        shown = SourceFilter(includes=tuple(fields))

        def answer(fault: Fault) -> Json:
            return {"docs": [self._row(ref, shown, fault.forgets(place)) for place, ref in enumerate(wanted)]}

        return read_found(call, wanted, await self._play(call, "fetch", answer, timeout_s))

    async def info(self, *, timeout_s: float) -> EngineInfo:
        """See :meth:`connectors.base.Connector.info`; the version is that of bm25s."""
        call = Call(self.name, "asking for the version")
        about = {"version": {"distribution": "memory", "number": version("bm25s")}}
        return read_info(call, await self._play(call, "info", lambda _: about, timeout_s))

    async def close(self) -> None:
        """See :meth:`connectors.base.Connector.close`; a later call raises ``EngineUnavailable``."""
        if not self.identity:
            self._closed.set()

    async def _play(self, call: Call, operation: Operation, answer: Callable[[Fault], Json], timeout_s: float) -> Json:
        fault = self.script.take(operation)

        async def once(_: float) -> Json:
            if self._closed.is_set():
                raise EngineUnavailable(call.sentence("the connector is closed"), transient=False)
            await asyncio.sleep(fault.delay_s)
            if fault.error is not None:
                raise copy.copy(fault.error)  # a traceback of its own for each call
            return answer(fault) if fault.answer is None else fault.answer

        return await attempt(call, once, timeout_s=timeout_s)

    def _resolve(self, call: Call, expression: str) -> list[str]:
        """Return the names of the indices meant, in the order given; a plain name must exist."""
        found: dict[str, None] = {}
        for part in expression.split(","):
            pattern = "*" if part == ALL_INDICES else part
            names = [name for name in self._indices if wildcard(pattern).fullmatch(name)]
            if not names and "*" not in pattern:
                raise no_such_index(call, part)
            found.update(dict.fromkeys(names))
        return list(found)

    def _search(self, names: list[str], search: Search) -> Json:
        rows = [(score, name, key) for name in names for score, key in self._indices[name].matches(search.clause)]
        rows.sort(key=lambda row: -row[0])
        page = rows[search.start : search.start + search.size]
        hits: Json = {
            "max_score": rows[0][0] if page else None,
            "hits": [self._hit(name, key, score, search.source) for score, name, key in page],
        }
        if search.total_limit is not None:
            capped = len(rows) > search.total_limit
            hits["total"] = {"value": min(len(rows), search.total_limit), "relation": "gte" if capped else "eq"}
        shards = {"total": len(names), "successful": len(names), "skipped": 0, "failed": 0}
        return {"took": 0, "timed_out": False, "_shards": shards, "hits": hits}

    def _hit(self, name: str, key: str, score: float, source: SourceFilter) -> Json:
        hit: Json = {"_index": name, "_id": key, "_score": score}
        if source.shown:
            hit["_source"] = copy.deepcopy(source.cut(self._indices[name].documents[key]))
        return hit

    def _row(self, ref: DocumentRef, shown: SourceFilter, forgotten: bool) -> Json:
        index = self._indices.get(ref.index)
        document = None if index is None or forgotten else index.documents.get(ref.id)
        row: dict[str, Any] = {"_index": ref.index, "_id": ref.id, "found": document is not None}
        return row if document is None else {**row, "_source": copy.deepcopy(shown.cut(document))}
