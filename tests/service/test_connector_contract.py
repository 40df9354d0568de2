"""What every connector promises, checked on all of them.

``memory`` runs in this process, ``opensearch`` on an osmem-server process, and ``elasticsearch`` on a small server that
speaks as Elasticsearch does. tests/engines/test_contract.py runs the same tests on real engines.
"""

import asyncio
import copy
import json
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, cast
from urllib.parse import quote

import pytest
from osmem_server import OsmemServer

from connectors import (
    Connector,
    DocumentRef,
    EngineRefused,
    EngineTimeout,
    EngineUnavailable,
    Hits,
    IndexNotFound,
    InvalidQuery,
    Json,
)
from connectors.memory import MemoryConnector
from tests.connector_fixtures import closing, connect, elasticsearch_of, serving
from tests.engines.rest import Access

PREFIX = f"rerank-sidecar-test-{uuid.uuid4().hex[:8]}"
BOOKS, FILMS, EMPTY = f"{PREFIX}-books", f"{PREFIX}-films", f"{PREFIX}-empty"
DOCUMENTS: dict[str, dict[str, Json]] = {
    BOOKS: {
        "1": {
            "title": "Car repair at home",
            "body": "How to mend an automobile without a garage.",
            "author": {"name": "Ada", "born": 1980},
            "tags": ["car", "tools"],
        },
        "2": {"title": "Apple pie", "body": "Forty recipes.", "author": {"name": "Bo", "born": 1971}, "tags": []},
        "3": {"title": "Clock repair", "body": "Springs and wheels."},
        "a/b ü": {"title": "Zürich 東京 🚗", "big": 2**53 + 1, "small": 1e-7, "sum": 0.1 + 0.2, "none": None},
    },
    FILMS: {f"{number}": {"title": f"Film {number}", "words": "film " * (number + 1)} for number in range(30)},
    EMPTY: {},
}


@pytest.fixture(scope="module", params=["memory", "opensearch", "elasticsearch"])
def kind(request: pytest.FixtureRequest) -> str:
    """Which connector."""
    return str(request.param)


@pytest.fixture(scope="module")
def url(kind: str) -> Iterator[str]:
    """Of the engine that the connector needs, filled; empty when it needs none."""
    if kind != "opensearch":
        yield ""
        return
    with osmem() as url, filled(Access(url)):
        yield url


@pytest.fixture
async def connector(kind: str, url: str) -> AsyncIterator[Connector]:
    async with connected(kind, url) as made:
        yield made


@asynccontextmanager
async def connected(kind: str, url: str) -> AsyncIterator[Connector]:
    memory = MemoryConnector("test", DOCUMENTS)
    if kind == "memory":
        async with closing(memory) as made:
            yield made
    elif url:
        async with connect(kind, url) as made:
            yield made
    else:
        async with serving(elasticsearch_of(memory)) as server, connect(kind, server.url) as made:
            yield made


@contextmanager
def osmem() -> Iterator[str]:
    server = OsmemServer.start()
    try:
        yield server.url
    finally:
        server.close()
        if server.process.stdout is not None:
            server.process.stdout.close()


@contextmanager
def filled(engine: Access) -> Iterator[None]:
    """The documents, each in an index of one shard, for the length of a ``with`` block."""
    try:
        for index, documents in DOCUMENTS.items():
            engine.call("PUT", f"/{index}", {"settings": {"number_of_shards": 1, "number_of_replicas": 0}})
            for key, document in documents.items():
                engine.call("PUT", f"/{index}/_doc/{quote(key, safe='')}?refresh=true", document)
        yield
    finally:
        for index in DOCUMENTS:
            engine.call("DELETE", f"/{index}?ignore_unavailable=true")


def ids(hits: Hits) -> list[str]:
    return [hit.ref.id for hit in hits.hits]


async def search(connector: Connector, index: str = BOOKS, *, timeout_s: float = 30, **body: Any) -> Hits:
    if "from_" in body:
        body["from"] = body.pop("from_")
    return await connector.search(index, body, timeout_s=timeout_s)


class TestSearch:
    async def test_best_hit_comes_first_with_its_document(self, connector: Connector) -> None:
        hits = await search(connector, query={"match": {"title": "car repair"}})
        assert ids(hits) == ["1", "3"]
        scores = [hit.score or 0 for hit in hits.hits]
        assert scores == sorted(scores, reverse=True)
        assert all(score > 0 for score in scores)
        assert hits.hits[0].ref == DocumentRef(BOOKS, "1")
        assert hits.hits[0].source == DOCUMENTS[BOOKS]["1"]

    async def test_the_whole_response_is_kept(self, connector: Connector) -> None:
        hits = await search(connector, query={"match": {"title": "repair"}})
        assert isinstance(hits.raw["took"], int)
        assert hits.raw["timed_out"] is False
        assert hits.raw["_shards"]["failed"] == 0
        assert hits.raw["hits"]["total"] == {"value": 2, "relation": "eq"}
        assert hits.raw["hits"]["max_score"] == pytest.approx(hits.hits[0].score)
        assert [hit.raw for hit in hits.hits] == hits.raw["hits"]["hits"]

    async def test_pages_are_cuts_of_one_order(self, connector: Connector) -> None:
        query = {"match": {"words": "film"}}
        everything = ids(await search(connector, FILMS, query=query, size=100))
        assert len(everything) == 30
        pages = [await search(connector, FILMS, query=query, size=7, from_=start) for start in range(0, 35, 7)]
        assert [key for page in pages for key in ids(page)] == everything
        assert ids(await search(connector, FILMS, query=query)) == everything[:10]

    async def test_size_zero_counts_only(self, connector: Connector) -> None:
        hits = await search(connector, FILMS, size=0, track_total_hits=True)
        assert hits.hits == ()
        assert hits.raw["hits"]["total"]["value"] == 30
        assert hits.raw["hits"]["max_score"] is None

    async def test_counting_can_be_left_out(self, connector: Connector) -> None:
        hits = await search(connector, FILMS, track_total_hits=False)
        assert "total" not in hits.raw["hits"]

    async def test_counting_can_stop_early(self, connector: Connector) -> None:
        total = (await search(connector, FILMS, track_total_hits=20)).raw["hits"]["total"]
        assert total["value"] in (20, 30)  # a server may count on
        assert total["relation"] == ("gte" if total["value"] == 20 else "eq")

    async def test_no_hit_is_no_error(self, connector: Connector) -> None:
        assert (await search(connector, query={"match": {"title": "submarine"}})).hits == ()
        assert (await search(connector, query={"match": {"no_such_field": "car"}})).hits == ()
        assert (await search(connector, EMPTY)).hits == ()

    async def test_match_all_gives_every_document_one_point(self, connector: Connector) -> None:
        hits = await search(connector, query={"match_all": {}})
        assert sorted(ids(hits)) == sorted(DOCUMENTS[BOOKS])
        assert {hit.score for hit in hits.hits} == {1.0}

    async def test_a_body_without_a_query_matches_all(self, connector: Connector) -> None:
        assert len(ids(await search(connector))) == 4

    async def test_by_ids(self, connector: Connector) -> None:
        hits = await search(connector, query={"ids": {"values": ["3", "a/b ü", "nobody"]}})
        assert sorted(ids(hits)) == ["3", "a/b ü"]

    @pytest.mark.parametrize("syntax", ["query_string", "simple_query_string"])
    async def test_over_all_fields(self, connector: Connector, syntax: str) -> None:
        assert ids(await search(connector, query={syntax: {"query": "automobile"}})) == ["1"]

    async def test_over_several_fields(self, connector: Connector) -> None:
        query = {"multi_match": {"query": "springs pie", "fields": ["title", "body"]}}
        assert sorted(ids(await search(connector, query=query))) == ["2", "3"]

    async def test_a_boost_lifts_a_field(self, connector: Connector) -> None:
        query = {"multi_match": {"query": "springs pie", "fields": ["title", "body^50"]}}
        assert ids(await search(connector, query=query)) == ["3", "2"]

    async def test_sorted_by_score_is_the_same(self, connector: Connector) -> None:
        query = {"match": {"title": "car repair"}}
        assert ids(await search(connector, query=query, sort=["_score"])) == ["1", "3"]

    async def test_several_indices_and_patterns(self, connector: Connector) -> None:
        assert len(ids(await search(connector, f"{BOOKS},{EMPTY}", size=100))) == 4
        assert len(ids(await search(connector, f"{PREFIX}-*", size=100))) == 34
        assert (await search(connector, "no-such-index-of-tests-*")).hits == ()

    async def test_url_parameters_reach_the_engine(self, connector: Connector) -> None:
        params = {"preference": "a b&size=1/ü", "routing": "x+y"}
        hits = await connector.search(BOOKS, {}, timeout_s=10, params=params)
        assert len(ids(hits)) == 4

    async def test_the_body_is_left_as_it_was(self, connector: Connector) -> None:
        body: Json = {"query": {"match": {"title": {"query": "car"}}}, "size": 3, "_source": ["title"]}
        before = copy.deepcopy(body)
        await connector.search(BOOKS, body, timeout_s=10)
        assert body == before

    async def test_fifty_at_once(self, connector: Connector) -> None:
        searches = [search(connector, FILMS, query={"ids": {"values": [str(n % 30)]}}) for n in range(50)]
        assert [ids(hits) for hits in await asyncio.gather(*searches)] == [[str(n % 30)] for n in range(50)]


class TestSource:
    @pytest.mark.parametrize(
        ("wanted", "expected"),
        [
            (True, DOCUMENTS[BOOKS]["1"]),
            ("title", {"title": "Car repair at home"}),
            (["author.name", "tags"], {"author": {"name": "Ada"}, "tags": ["car", "tools"]}),
            (["author"], {"author": {"name": "Ada", "born": 1980}}),
            (["author.b*"], {"author": {"born": 1980}}),
            ({"excludes": ["author", "body"]}, {"title": "Car repair at home", "tags": ["car", "tools"]}),
            ({"includes": ["author"], "excludes": ["*.born"]}, {"author": {"name": "Ada"}}),
            (["nothing"], {}),
        ],
    )
    async def test_is_cut_as_asked(self, connector: Connector, wanted: object, expected: Json) -> None:
        hits = await search(connector, query={"ids": {"values": ["1"]}}, _source=wanted)
        assert hits.hits[0].source == expected

    async def test_can_be_left_out(self, connector: Connector) -> None:
        hits = await search(connector, _source=False)
        assert [hit.source for hit in hits.hits] == [None] * 4

    async def test_numbers_and_letters_survive(self, connector: Connector) -> None:
        (hit,) = (await search(connector, query={"match": {"title": "東京"}})).hits
        assert hit.ref.id == "a/b ü"
        assert json.dumps(hit.source, sort_keys=True) == json.dumps(DOCUMENTS[BOOKS]["a/b ü"], sort_keys=True)


class TestRefusals:
    async def test_unknown_index(self, connector: Connector) -> None:
        with pytest.raises(IndexNotFound, match="no-such-index") as caught:
            await search(connector, "no-such-index")
        assert (caught.value.status, caught.value.error_type) == (404, "index_not_found_exception")
        assert "no-such-index" in caught.value.reason

    @pytest.mark.parametrize(
        ("body", "hint"),
        [
            ({"query": {"mach": {"title": "secretword"}}}, "mach"),
            ({"qery": {"match_all": {}}}, "qery"),
            ({"query": {"match": {"title": {"query": "secretword", "oprator": "and"}}}}, "oprator"),
            ({"from": 9_995, "size": 10}, "10000"),
            ({"size": -1}, "size"),
            ({"query": {"ids": {"values": [{}]}}}, ""),
            ({"query": "secretword"}, "query"),
        ],
    )
    async def test_bad_bodies(self, connector: Connector, body: Json, hint: str) -> None:
        with pytest.raises(InvalidQuery) as caught:
            await connector.search(BOOKS, body, timeout_s=10)
        assert caught.value.status == 400
        assert caught.value.error_type
        assert hint in caught.value.reason.replace("10,000", "10000")
        assert "secretword" not in str(caught.value)

    async def test_unknown_url_parameter(self, connector: Connector) -> None:
        with pytest.raises(InvalidQuery) as caught:
            await connector.search(BOOKS, {}, timeout_s=10, params={"siez": "3"})
        assert "siez" in caught.value.reason

    @pytest.mark.parametrize("index", ["", ".", "..", "_scripts", "_snapshot", "_mget", "_search", "_cat,x"])
    async def test_names_that_would_change_the_path(self, connector: Connector, index: str) -> None:
        with pytest.raises(InvalidQuery, match="invalid_index_name_exception"):
            await connector.search(index, {"script": {"lang": "painless", "source": "1"}}, timeout_s=10)

    @pytest.mark.parametrize("index", ["a/b", "a?size=1", "a#b", "a%2Fb", "../x", "a b", "a\\b", "ü", "a\x00b", 'a"b'])
    async def test_odd_names_are_refused_by_the_engine(self, connector: Connector, index: str) -> None:
        with pytest.raises(EngineRefused) as caught:
            await search(connector, index)
        assert caught.value.status in (400, 404)

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), object(), {1, 2}])
    async def test_bodies_that_are_no_json(self, connector: Connector, value: object) -> None:
        with pytest.raises(InvalidQuery):
            await search(connector, query={"match": {"title": {"query": "car", "boost": value}}})

    @pytest.mark.parametrize("text", ["car \ud83d", "\udc00", "car\x00", "", "   ", "x" * 20_000])
    async def test_odd_texts_find_or_are_refused(self, connector: Connector, text: str) -> None:
        with suppress(InvalidQuery):
            assert set(ids(await search(connector, query={"match": {"title": text}}))) <= {"1"}

    async def test_a_body_that_is_no_object(self, connector: Connector) -> None:
        with pytest.raises(InvalidQuery):
            await connector.search(BOOKS, cast("Json", ["query"]), timeout_s=10)


class TestFetch:
    async def test_documents_are_cut_to_the_fields(self, connector: Connector) -> None:
        refs = [DocumentRef(BOOKS, "1"), DocumentRef(FILMS, "7"), DocumentRef(BOOKS, "a/b ü")]
        found = await connector.fetch(refs, ["title", "author.name"], timeout_s=10)
        assert found == {
            refs[0]: {"title": "Car repair at home", "author": {"name": "Ada"}},
            refs[1]: {"title": "Film 7"},
            refs[2]: {"title": "Zürich 東京 🚗"},
        }

    async def test_what_is_not_there_is_absent(self, connector: Connector) -> None:
        there = DocumentRef(BOOKS, "2")
        refs = [DocumentRef(BOOKS, "nobody"), there, DocumentRef("no-such-index", "2")]
        assert await connector.fetch(refs, ["title"], timeout_s=10) == {there: {"title": "Apple pie"}}

    async def test_a_document_without_the_fields_is_empty(self, connector: Connector) -> None:
        ref = DocumentRef(BOOKS, "3")
        assert await connector.fetch([ref], ["nothing"], timeout_s=10) == {ref: {}}

    async def test_twice_the_same_is_once(self, connector: Connector) -> None:
        ref = DocumentRef(BOOKS, "2")
        assert await connector.fetch([ref, ref, ref], ["title"], timeout_s=10) == {ref: {"title": "Apple pie"}}

    async def test_nothing_asked_nothing_found(self, connector: Connector) -> None:
        assert await connector.fetch([], ["title"], timeout_s=10) == {}
        assert await connector.fetch([DocumentRef(BOOKS, "2")], [], timeout_s=10) == {}

    async def test_what_a_search_found_can_be_fetched(self, connector: Connector) -> None:
        hits = await search(connector, FILMS, size=30, _source=False)
        found = await connector.fetch([hit.ref for hit in hits.hits], ["title"], timeout_s=10)
        assert {ref.id: document["title"] for ref, document in found.items()} == {
            key: document["title"] for key, document in DOCUMENTS[FILMS].items()
        }

    async def test_an_odd_index(self, connector: Connector) -> None:
        there = DocumentRef(BOOKS, "2")
        with suppress(InvalidQuery):  # OpenSearch's security plugin refuses the whole call for one of them
            found = await connector.fetch([DocumentRef("_bad", "2"), there], ["title"], timeout_s=10)
            assert found == {there: {"title": "Apple pie"}}

    async def test_odd_ids(self, connector: Connector) -> None:
        refs = [DocumentRef(BOOKS, key) for key in ("..", "a?b", "\x00", "\ud83d", "x" * 600, " ")]
        with suppress(InvalidQuery):  # an engine may refuse the whole call for one of them
            assert await connector.fetch(refs, ["title"], timeout_s=10) == {}


class TestLife:
    async def test_says_what_it_is(self, connector: Connector, kind: str) -> None:
        info = await connector.info(timeout_s=10)
        assert info.engine == kind
        assert info.version[0].isdigit()

    @pytest.mark.parametrize("timeout_s", [0, -1, float("nan")])
    async def test_without_time_nothing_is_asked(self, connector: Connector, timeout_s: float) -> None:
        with pytest.raises(EngineTimeout):
            await search(connector, timeout_s=timeout_s)
        with pytest.raises(EngineTimeout):
            await connector.fetch([DocumentRef(BOOKS, "1")], ["title"], timeout_s=timeout_s)
        with pytest.raises(EngineTimeout):
            await connector.info(timeout_s=timeout_s)

    async def test_closes_twice_and_stays_closed(self, connector: Connector) -> None:
        await search(connector)
        await connector.close()
        await connector.close()
        with pytest.raises(EngineUnavailable, match="closed"):
            await search(connector)

    async def test_closes_unused(self, connector: Connector) -> None:
        await connector.close()
