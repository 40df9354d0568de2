"""The memory connector beyond the common contract: files, its part of the query language, and scripted faults."""

import json
import time
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors import (
    DocumentRef,
    EngineTimeout,
    EngineUnavailable,
    IndexNotFound,
    InvalidQuery,
    Json,
    MalformedAnswer,
)
from connectors.faults import Fault, Script
from connectors.memory import MemoryConnector
from connectors.memory_query import Refused, SourceFilter, parse_search

DOCUMENTS: dict[str, Json] = {
    "1": {"title": "Car repair", "tags": ["car", "tool"], "parts": [{"name": "wheel"}, {"name": "brake"}]},
    "2": {"title": "Apple pie", "year": 1984, "odd": "the of and"},
}
OPTIONS = st.none() | st.integers() | st.text() | st.lists(st.text() | st.integers(), max_size=3)
CLAUSES = st.dictionaries(st.text() | st.sampled_from(["query", "fields", "values"]), OPTIONS, max_size=3)
QUERIES = st.dictionaries(st.sampled_from(["match", "ids", "multi_match", "query_string"]), OPTIONS | CLAUSES)
KEYS = st.sampled_from(["query", "from", "size", "sort", "_source", "track_total_hits"])
BODIES = st.dictionaries(KEYS, OPTIONS | QUERIES)


@pytest.fixture
def memory() -> MemoryConnector:
    return MemoryConnector("test", {"books": DOCUMENTS, "empty": {}})


async def found(memory: MemoryConnector, body: Json, index: str = "books") -> list[str]:
    return [hit.ref.id for hit in (await memory.search(index, body, timeout_s=1)).hits]


class TestQueries:
    @pytest.mark.parametrize(
        ("query", "expected"),
        [
            ({"match": {"title": "CAR"}}, ["1"]),
            ({"match": {"year": 1984}}, ["2"]),
            ({"match": {"parts.name": "brake"}}, ["1"]),
            ({"match": {"tags": "tool"}}, ["1"]),
            ({"match": {"odd": "the"}}, []),
            ({"multi_match": {"query": "wheel pie"}}, ["1", "2"]),
            ({"multi_match": {"query": "pie", "fields": ["t", "title^2.5"]}}, ["2"]),
            ({"multi_match": {"query": "pie", "fields": "*"}}, ["2"]),
            ({"query_string": {"query": "car OR pie", "fields": ["title"]}}, ["1", "2"]),
            ({"ids": {"values": ["2", "1"]}}, ["1", "2"]),
        ],
    )
    async def test_find(self, memory: MemoryConnector, query: Json, expected: list[str]) -> None:
        assert sorted(await found(memory, {"query": query})) == expected

    @pytest.mark.parametrize(
        ("body", "hint"),
        [
            ({"aggs": {}}, "unknown key `aggs`; the memory connector knows `query`, `from`"),
            ({"query": {"bool": {}}}, "unknown query `bool`; the memory connector knows `match_all`, `match`"),
            ({"query": {}}, "one key of `match_all`"),
            ({"query": {"match": {}}}, "`match` must name one field"),
            ({"query": {"match": []}}, "`match` must be an object"),
            ({"query": {"match": {"a": {"query": "x", "operator": "and"}}}}, "unknown key of `match` `operator`"),
            ({"query": {"match": {"a": {"query": True}}}}, "a text or a number"),
            ({"query": {"multi_match": {"query": "x", "type": "phrase"}}}, "unknown key of `multi_match` `type`"),
            ({"query": {"multi_match": {"query": "x", "fields": [1]}}}, "`fields` must be a list"),
            ({"query": {"multi_match": {"query": "x", "fields": ["a^b"]}}}, "boost of field `a^b`"),
            ({"query": {"match_all": {"boost": 2}}}, "unknown key of `match_all` `boost`"),
            ({"query": {"ids": {}}}, "`ids` needs `values`"),
            ({"sort": "title"}, "`sort` may only be by `_score`"),
            ({"sort": [{"_score": "asc"}]}, "`sort` may only be by `_score`"),
            ({"size": True}, "`size` must be a whole number"),
            ({"from": -1}, "`from` must be a whole number"),
            ({"from": 1, "size": 10_000}, "must be at most 10000, but is 10001"),
            ({"track_total_hits": "yes"}, "`track_total_hits`"),
            ({"_source": 3}, "`_source` must be"),
            ({"_source": {"include": []}}, "unknown key of `_source` `include`"),
        ],
    )
    async def test_refuse(self, memory: MemoryConnector, body: Json, hint: str) -> None:
        with pytest.raises(InvalidQuery) as caught:
            await found(memory, body)
        assert hint in caught.value.reason
        assert caught.value.status == 400

    @given(BODIES)
    def test_any_body_is_understood_or_refused(self, body: Json) -> None:
        with suppress(Refused):
            assert parse_search(body).size >= 0

    async def test_indices(self, memory: MemoryConnector) -> None:
        assert await found(memory, {}, "_all") == ["1", "2"]
        assert await found(memory, {}, "b*s,empty,books") == ["1", "2"]
        assert await found(memory, {}, "empty") == []
        assert await found(memory, {}, "nothing*") == []
        with pytest.raises(IndexNotFound):
            await found(memory, {}, "books,nothing")

    async def test_the_stored_documents_cannot_be_changed_from_outside(self, memory: MemoryConnector) -> None:
        hits = await memory.search("books", {}, timeout_s=1)
        hits.hits[0].raw["_source"]["tags"].append("x")
        fetched = await memory.fetch([DocumentRef("books", "1")], ["tags"], timeout_s=1)
        assert fetched == {DocumentRef("books", "1"): {"tags": ["car", "tool"]}}

    async def test_says_what_it_is(self, memory: MemoryConnector) -> None:
        assert (await memory.info(timeout_s=1)).engine == "memory"


class TestSourceFilter:
    @pytest.mark.parametrize(
        ("source", "kept"),
        [
            (SourceFilter(), {"a": {"b": 1, "c": [{"d": 2}, {"e": None}]}, "a.f": 3}),
            (SourceFilter(("a.c.e",)), {"a": {"c": [{"e": None}]}}),
            (SourceFilter(("*.d",)), {"a": {"c": [{"d": 2}]}}),
            (SourceFilter(("a.f",)), {"a.f": 3}),
            (SourceFilter(("a",), ("a.c",)), {"a": {"b": 1}}),
            (SourceFilter((), ("a.c.*",)), {"a": {"b": 1, "c": [{}, {}]}, "a.f": 3}),
            (SourceFilter(("[a]", "a?b")), {}),
        ],
    )
    def test_cuts(self, source: SourceFilter, kept: Json) -> None:
        assert source.cut({"a": {"b": 1, "c": [{"d": 2}, {"e": None}]}, "a.f": 3}) == kept


class TestFiles:
    async def test_are_read(self, tmp_path: Path) -> None:
        path = tmp_path / "books.jsonl"
        lines = [json.dumps({"_id": key, **document}) for key, document in DOCUMENTS.items()]
        path.write_text("\n\n".join(lines) + "\n")
        memory = MemoryConnector.from_files("test", {"books": path})
        hits = await memory.search("books", {"query": {"match": {"title": "pie"}}}, timeout_s=1)
        assert [(hit.ref.id, hit.source) for hit in hits.hits] == [("2", DOCUMENTS["2"])]

    @pytest.mark.parametrize(
        ("line", "hint"),
        [
            (b"{", "is not JSON"),
            (b"\xff", "is not JSON"),
            (b"[" * 200_000, "is not JSON"),
            (b"[]", "is not a JSON object"),
            (b"{}", "has no `_id`"),
            (b'{"_id": 1}', "has no `_id`"),
            (b'{"_id": ""}', "has no `_id`"),
            (b'{"_id": "1"}', "the `_id` '1' comes twice"),
        ],
    )
    def test_an_error_names_file_and_line(self, tmp_path: Path, line: bytes, hint: str) -> None:
        path = tmp_path / "books.jsonl"
        path.write_bytes(b'{"_id": "1"}\n\n' + line + b"\n")
        with pytest.raises(ValueError, match=hint) as caught:
            MemoryConnector.from_files("test", {"books": path})
        assert str(caught.value).startswith(f"{path}:3: ")

    def test_a_missing_file_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"books\.jsonl: cannot be read \(No such file"):
            MemoryConnector.from_files("test", {"books": tmp_path / "books.jsonl"})


class TestFaults:
    async def test_late(self, memory: MemoryConnector) -> None:
        memory.script.append(Fault(delay_s=30))
        started = time.monotonic()
        with pytest.raises(EngineTimeout):
            await found_late(memory)
        assert time.monotonic() - started < 0.3
        assert await found(memory, {}) == ["1", "2"]

    async def test_late_but_in_time(self, memory: MemoryConnector) -> None:
        memory.script.append(Fault(delay_s=0.05))
        started = time.monotonic()
        assert await found(memory, {}) == ["1", "2"]
        assert time.monotonic() - started >= 0.05

    async def test_failing_for_always(self, memory: MemoryConnector) -> None:
        error = EngineUnavailable("down", status=503)
        memory.script.append(Fault(error=error, always=True))
        for _ in range(3):
            with pytest.raises(EngineUnavailable, match="down") as caught:
                await found(memory, {})
            assert caught.value.status == 503
            assert caught.value is not error
        memory.script.clear()
        assert await found(memory, {}) == ["1", "2"]

    @pytest.mark.parametrize("answer", [{}, {"hits": {}}, {"hits": {"hits": [{}]}}])
    async def test_malformed(self, memory: MemoryConnector, answer: Json) -> None:
        memory.script.append(Fault(answer=answer, on="search"))
        with pytest.raises(MalformedAnswer, match="connector 'test': search on 'books'"):
            await found(memory, {})

    @pytest.mark.parametrize(("missing", "left"), [(0.0, 10), (0.5, 5), (0.3, 7), (1.0, 0)])
    async def test_forgetful(self, missing: float, left: int) -> None:
        memory = MemoryConnector("test", {"a": {str(number): {"n": number} for number in range(10)}})
        memory.script.append(Fault(missing=missing))
        refs = [DocumentRef("a", str(number)) for number in range(10)]
        assert len(await memory.fetch(refs, ["n"], timeout_s=1)) == left

    async def test_one_operation_only(self) -> None:
        faults = [Fault(error=EngineUnavailable("down"), on="fetch")]
        memory = MemoryConnector("test", {"books": DOCUMENTS}, faults=faults)
        assert await found(memory, {}) == ["1", "2"]
        with pytest.raises(EngineUnavailable):
            await memory.fetch([DocumentRef("books", "1")], ["title"], timeout_s=1)
        assert len(memory.script) == 0

    def test_are_taken_in_order(self) -> None:
        first, second = Fault(delay_s=1, on="fetch"), Fault(delay_s=2)
        script = Script([first, second])
        assert script.take("search") is second
        assert script.take("search") == Fault()
        assert script.take("fetch") is first

    @pytest.mark.parametrize(
        ("fault", "sentence"),
        [
            ({"delay_s": -1}, "must be 0 or more"),
            ({"missing": 1.5}, "from 0 to 1"),
            ({"error": EngineUnavailable("x"), "answer": {}}, "exclude each other"),
        ],
    )
    def test_that_make_no_sense(self, fault: Json, sentence: str) -> None:
        with pytest.raises(ValueError, match=sentence):
            Fault(**fault)


async def found_late(memory: MemoryConnector) -> list[str]:
    return [hit.ref.id for hit in (await memory.search("books", {}, timeout_s=0.05)).hits]
