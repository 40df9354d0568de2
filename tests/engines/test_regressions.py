"""What went wrong in other projects between a search engine and a reranker, each with its origin, on real engines."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
import pytest

from connectors.hits import Json
from sidecar.client import Page
from sidecar.loaded import LoadedModel
from sidecar.scoring.base import Pair, Scores
from sidecar.scoring.fake import WordOverlapScorer
from sidecar.settings import ModelSettings
from sidecar.v1 import rerank_pb2 as pb
from tests.calls import SLACK_S
from tests.conftest import Serve, settings
from tests.engines import spoilers
from tests.engines.asking import HashScorer, direct
from tests.engines.conftest import SidecarOn, connected
from tests.engines.engine import Engine, Indices, indices
from tests.engines.faulty import BUDGET_S, SEARCH_TIMEOUT_S, sidecar_for
from tests.engines.proxy import Exchange, Proxy
from tests.service.test_health_and_reflection import NOT_SERVING, SERVING, health

QUERY = "apple keeps well in winter storage"
TOTAL = 24
MATCH: Json = {"query": {"match": {"body": "apple"}}}
NOT_TAKEN = {grpc.StatusCode[name] for name in ("INVALID_ARGUMENT", "NOT_FOUND", "PERMISSION_DENIED")}
PATIENT: Json = {"budget_ms": 20_000, "limits": {"budget_ms": 20_000}}


def cellar() -> dict[str, Json]:
    """Documents that the engine ranks by how often they say apple; the last of them answers the query."""
    rows = {f"c{number}": {"body": "apple " * (TOTAL - number) + "pie " * number} for number in range(TOTAL)}
    return {**rows, f"c{TOTAL - 1}": {"body": "apple that keeps well in winter storage " + "pie " * TOTAL}}


@pytest.fixture(scope="module")
def cellar_index(engine: Engine) -> Iterator[str]:
    """Those documents."""
    with indices(engine) as names:
        yield names("cellar", {"settings": {"number_of_shards": 2}}, cellar())


def policy(**changes: Any) -> Json:
    return {"text": {"fields": ["body"]}, "rank_window_size": TOTAL, **PATIENT, **changes}


def raises(_: int, __: Sequence[Pair]) -> Scores:
    raise RuntimeError


async def own_page(engine: Engine, index: str, body: Json) -> list[Json]:
    async with direct(engine) as straight:
        return (await straight.search(index, body)).hits


def ids(page: Page) -> list[str]:
    return [str(hit["_id"]) for hit in page.hits]


async def test_an_alias_means_the_index_that_it_names_now(
    engine: Engine, index_name: Indices, sidecar_on: SidecarOn
) -> None:
    """elasticsearch#119617: an alias was resolved to the wrong index, and its documents' texts were taken."""
    alias = index_name("alias")
    right = {f"same{number}": {"title": "doc", "body": f"right{number}"} for number in range(3)}
    wrong = {key: {**row, "body": f"wrong {QUERY}"} for key, row in right.items()}
    first = index_name("first", {"aliases": {alias: {}}}, right)
    second = index_name("second", {}, wrong)
    body = {"query": {"match": {"title": "doc"}}, "_source": False}
    options = pb.Options(return_passages=True)
    async with sidecar_on(engine, policy=policy()) as (client, _):
        page = await client.search(alias, "right2", body, options=options)
        assert {result.index for result in page.results} == {first}
        assert (ids(page)[0], page.results[0].passage) == ("same2", "right2")
        moves = [{"remove": {"index": first, "alias": alias}}, {"add": {"index": second, "alias": alias}}]
        engine.call("POST", "/_aliases", {"actions": moves})
        moved = await client.search(alias, "right2", body, options=options)
        assert {result.index for result in moved.results} == {second}
        assert {result.passage for result in moved.results} == {f"wrong {QUERY}"}
        engine.call("POST", "/_aliases", {"actions": [{"add": {"index": first, "alias": alias}}]})
        both = await client.search(alias, "right2", body, options=options)
        assert len(both.results) == 6
        assert all(("right" in result.passage) == (result.index == first) for result in both.results)


@dataclass
class Shifted(HashScorer):
    """Scores of 0 to 16 that look random, moved by ``offset``; whole numbers, so that moving them loses nothing."""

    offset: float = 0.0

    def score(self, pairs: Sequence[Pair]) -> Scores:
        """See :class:`HashScorer`."""
        return np.float32(self.offset) + np.floor(super().score(pairs) + 8)


MODEL_ALONE = [{"method": "replace"}, *({"method": name, "model_weight": 1.0} for name in ("linear", "rrf"))]


@pytest.mark.parametrize("fusion", MODEL_ALONE, ids=lambda fusion: fusion["method"])
@pytest.mark.parametrize("offset", [-8, -1000])
async def test_negative_scores_keep_their_order(
    engine: Engine, cellar_index: str, sidecar_on: SidecarOn, fusion: Json, offset: float
) -> None:
    """elasticsearch#120201: negative scores of the model broke the order."""
    async with sidecar_on(engine, policy=policy(fusion=fusion), scorer=Shifted(offset)) as (client, _):
        page = await client.search(cellar_index, QUERY, {**MATCH, "size": TOTAL})
    scores = [result.relevance_score for result in page.results]
    assert (page.outcome, len(scores), min(scores) < 0) == ("RERANKED", TOTAL, True)
    assert len(set(scores)) > 5
    assert scores == sorted(scores, reverse=True)
    assert page.response["hits"]["max_score"] == max(hit["_score"] for hit in page.hits) > 0


@pytest.mark.parametrize("method", ["linear", "rrf"])
async def test_fused_negative_scores_agree_with_those_moved_above_zero(
    engine: Engine, cellar_index: str, sidecar_on: SidecarOn, method: str
) -> None:
    """elasticsearch#120201 again: with the engine's scores blended in, only differences of the model's count."""
    fused = policy(fusion={"method": method, "model_weight": 0.5})
    orders = []
    for offset in (-1024, -8, 0, 1024):
        async with sidecar_on(engine, policy=fused, scorer=Shifted(offset)) as (client, _):
            page = await client.search(cellar_index, QUERY, {**MATCH, "size": TOTAL})
        assert (page.outcome, page.message.meta.fusion) == ("RERANKED", method)
        orders.append(ids(page))
    assert orders[1:] == orders[:-1]
    assert orders[0] != [hit["_id"] for hit in await own_page(engine, cellar_index, {**MATCH, "size": TOTAL})]


class TestTexts:
    """OpenSearch's reranking: how texts become what the model reads."""

    @pytest.fixture
    def gaps(self, index_name: Indices) -> str:
        rows: dict[str, Json] = {
            "whole": {"kind": "k", "title": "apple", "body": "pie"},
            "no-body": {"kind": "k", "title": "pear"},
            "nothing": {"kind": "k", "other": "apple pie"},
            "empty": {"kind": "k", "title": "", "body": " "},
        }
        return index_name("gaps", {"mappings": {"properties": {"kind": {"type": "keyword"}}}}, rows)

    @pytest.mark.parametrize("source", [True, False], ids=["carried", "fetched"])
    async def test_a_missing_field_is_not_scored_as_an_empty_text(
        self, engine: Engine, gaps: str, sidecar_on: SidecarOn, source: bool
    ) -> None:
        """The document keeps its place, and no score is made up for it."""
        body = {"query": {"term": {"kind": "k"}}, "_source": source}
        original = [hit["_id"] for hit in await own_page(engine, gaps, body)]
        async with sidecar_on(engine, policy=policy(text={"fields": ["title", "body"]})) as (client, _):
            page = await client.search(gaps, "apple pie", body, options=pb.Options(return_passages=True))
        told = {result.id: result for result in page.results}
        assert {key for key, one in told.items() if one.HasField("relevance_score")} == {"whole", "no-body"}
        assert (told["nothing"].passage, told["empty"].passage) == ("", "")
        assert [original.index(key) for key in ("nothing", "empty")] == [
            ids(page).index(key) for key in ("nothing", "empty")
        ]
        assert page.message.meta.scored == 2

    async def test_fields_are_joined_by_a_separator(self, engine: Engine, gaps: str, sidecar_on: SidecarOn) -> None:
        """Joined without one, the last word of one field and the first of the next became a word that nobody wrote."""
        body = {"query": {"term": {"kind": "k"}}}
        async with sidecar_on(engine, policy=policy(text={"fields": ["title", "body"]})) as (client, _):
            page = await client.search(gaps, "apple pie", body, options=pb.Options(return_passages=True))
        (whole,) = [result for result in page.results if result.id == "whole"]
        assert (whole.passage, whole.relevance_score) == ("apple\npie", 1.0)

    async def test_the_window_is_reranked_and_not_only_the_page(
        self, engine: Engine, cellar_index: str, sidecar_on: SidecarOn
    ) -> None:
        """The best document is the engine's last; a page of two brings it first."""
        last = f"c{TOTAL - 1}"
        assert last not in [hit["_id"] for hit in await own_page(engine, cellar_index, {**MATCH, "size": 10})]
        async with sidecar_on(engine, policy=policy()) as (client, _):
            page = await client.search(cellar_index, QUERY, {**MATCH, "size": 2})
        assert ids(page)[0] == last
        assert (len(page.hits), page.message.meta.scored) == (2, TOTAL)


class TestFallback:
    @pytest.mark.parametrize(("start", "size"), [(0, 10), (5, 7), (0, TOTAL)])
    async def test_a_threshold_does_not_empty_a_fallback(
        self, engine: Engine, cellar_index: str, sidecar_on: SidecarOn, start: int, size: int
    ) -> None:
        """go-rag#42: the scores of a fallback fell under the threshold, and the result was empty."""
        body = {**MATCH, "from": start, "size": size}
        scorer = WordOverlapScorer()
        async with sidecar_on(engine, policy=policy(min_score=0.99), scorer=scorer) as (client, _):
            well = await client.search(cellar_index, QUERY, {**MATCH, "size": size})
            assert ids(well) == [f"c{TOTAL - 1}"]
            scorer.fault = raises
            page = await client.search(cellar_index, QUERY, body)
        assert (page.outcome, page.reason) == ("ORIGINAL_ORDER", "MODEL_ERROR")
        assert page.hits == await own_page(engine, cellar_index, body)
        assert len(page.hits) == size

    async def test_a_fallback_is_whole_and_says_what_it_is(
        self, engine: Engine, cellar_index: str, sidecar_on: SidecarOn
    ) -> None:
        """xagent#2455: the fallback cut the results and claimed to be reranked."""
        body = {**MATCH, "size": TOTAL}
        narrow = policy(rank_window_size=3)
        async with sidecar_on(engine, policy=narrow, scorer=WordOverlapScorer(fault=raises)) as (client, _):
            page = await client.search(cellar_index, QUERY, body)
        meta = page.message.meta
        assert page.hits == await own_page(engine, cellar_index, body)
        assert (page.outcome, meta.scored, meta.fusion, meta.model_version) == ("ORIGINAL_ORDER", 0, "", "")
        assert not any(result.HasField("relevance_score") for result in page.results)
        assert [result.original_rank for result in page.results] == list(range(TOTAL))
        assert meta.detail

    async def test_a_document_that_cannot_be_read_gets_no_made_up_score(
        self, engine: Engine, index_name: Indices, cellar_index: str, sidecar_on: SidecarOn
    ) -> None:
        """jonex#35: documents that failed got a neutral score of 0.5, above others that were scored."""
        blind = index_name("blind", {"mappings": {"_source": {"enabled": False}}}, {"b1": {"body": "apple"}})
        index, body = f"{cellar_index},{blind}", {**MATCH, "size": TOTAL + 1}
        original = [hit["_id"] for hit in await own_page(engine, index, body)]
        async with sidecar_on(engine, policy=policy(rank_window_size=TOTAL + 1)) as (client, _):
            page = await client.search(index, QUERY, body)
        assert page.outcome == "RERANKED"
        unscored = [result.id for result in page.results if not result.HasField("relevance_score")]
        assert unscored == ["b1"]
        assert ids(page).index("b1") == original.index("b1")
        assert page.message.meta.scored == TOTAL


class TestGovUk:
    """GOV.UK search: what a site needs of its search when the reranker has a bad day."""

    async def test_a_broken_reranker_leaves_search_well(self, engine: Engine, cellar_index: str, serve: Serve) -> None:
        """The model cannot even be loaded: searches are answered and the server's health is good."""

        def load(name: str, model: ModelSettings) -> LoadedModel:
            raise RuntimeError("no such file")

        configured = settings(policy())
        async with (
            connected(engine) as connector,
            serve(connector=connector, configured=configured, load=load) as (client, app),
        ):
            await app.ready()
            assert await health(app) == (SERVING, NOT_SERVING)
            page = await client.search(cellar_index, QUERY, MATCH)
        assert (page.outcome, page.reason) == ("ORIGINAL_ORDER", "MODEL_NOT_READY")
        assert page.hits == await own_page(engine, cellar_index, MATCH)

    @pytest.mark.parametrize("fault", [None, raises], ids=["well", "broken"])
    async def test_pinned_results_stay_where_they_are(
        self, engine: Engine, cellar_index: str, sidecar_on: SidecarOn, fault: Any
    ) -> None:
        body = {**MATCH, "size": TOTAL}
        pinned = ["c0", "c7", f"c{TOTAL - 2}"]
        original = [hit["_id"] for hit in await own_page(engine, cellar_index, body)]
        async with sidecar_on(engine, policy=policy(), scorer=WordOverlapScorer(fault=fault)) as (client, _):
            page = await client.search(cellar_index, QUERY, body, options=pb.Options(pinned_ids=pinned))
        assert [ids(page).index(key) for key in pinned] == [original.index(key) for key in pinned]
        assert (page.outcome, ids(page) == original) == (("ORIGINAL_ORDER", True) if fault else ("RERANKED", False))
        assert not any(result.HasField("relevance_score") for result in page.results if result.id in pinned)

    @pytest.mark.parametrize(
        "sort", [["_doc"], [{"body.keyword": {"order": "desc"}}], [{"body.keyword": "asc"}, "_score"]]
    )
    async def test_hits_without_scores_are_left_alone(
        self, engine: Engine, cellar_index: str, sidecar_on: SidecarOn, sort: Any
    ) -> None:
        body = {**MATCH, "sort": sort}
        async with sidecar_on(engine, policy=policy()) as (client, _):
            page = await client.search(cellar_index, QUERY, body)
        assert (page.outcome, page.reason) == ("SKIPPED", "NOT_RELEVANCE_SORTED")
        assert page.hits == await own_page(engine, cellar_index, body)


class TestNboost:
    """nboost: a request could name code that was run, and the host that was asked."""

    @pytest.mark.parametrize(
        "index",
        ["_search", "_scripts", "..", ".", "", "_cluster/health", "//example.com", "http://example.com/x", "a/../_all"],
    )
    async def test_an_index_expression_is_never_another_endpoint(
        self, engine: Engine, cellar_index: str, sidecar_on: SidecarOn, index: str
    ) -> None:
        async with sidecar_on(engine, policy=policy()) as (client, _):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await client.search(index, QUERY, MATCH)
            assert refused.value.code() in NOT_TAKEN
            assert len((await client.search(cellar_index, QUERY, MATCH)).hits) == 10

    @pytest.mark.parametrize(
        "index",
        ["{}/_doc/c0", "{}/_search?size=0", "{}#", "{}/../_all", "{}%2F_doc%2Fc0", "{} HTTP/1.1\r\nHost: example.com"],
    )
    async def test_nothing_follows_the_name_of_an_index(
        self, engine: Engine, cellar_index: str, sidecar_on: SidecarOn, index: str
    ) -> None:
        async with sidecar_on(engine, policy=policy()) as (client, _):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await client.search(index.format(cellar_index), QUERY, MATCH)
        assert refused.value.code() in NOT_TAKEN

    async def test_a_connector_is_a_configured_name_and_nothing_else(
        self, engine: Engine, cellar_index: str, sidecar_on: SidecarOn
    ) -> None:
        async with sidecar_on(engine, policy=policy()) as (client, _):
            for connector in ("http://example.com:9200", "127.0.0.1", "MAIN", "__class__"):
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await client.search(cellar_index, QUERY, MATCH, connector=connector)
                assert refused.value.code() is grpc.StatusCode.NOT_FOUND

    @pytest.mark.parametrize(
        "params",
        [
            {"host": "example.com"},
            {"uhost": "x", "uport": "1"},
            {"model_path": "x"},
            {"scroll_id&host": "x"},
            {"a b": "\r\nHost: example.com"},
        ],
        ids=str,
    )
    async def test_url_parameters_go_to_the_engine_alone(
        self, engine: Engine, cellar_index: str, sidecar_on: SidecarOn, params: dict[str, str]
    ) -> None:
        """The engine refuses those that it does not know, by name."""
        async with sidecar_on(engine, policy=policy()) as (client, _):
            with pytest.raises(grpc.aio.AioRpcError, match="unrecognized parameter") as refused:
                await client.search(cellar_index, QUERY, MATCH, params=params)
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert next(iter(params)) in (refused.value.details() or "")

    async def test_keys_of_a_body_reach_the_engine_as_they_are(
        self, engine: Engine, cellar_index: str, sidecar_on: SidecarOn
    ) -> None:
        async with sidecar_on(engine, policy=policy()) as (client, _):
            with pytest.raises(grpc.aio.AioRpcError, match="nboost") as refused:
                await client.search(cellar_index, QUERY, {**MATCH, "nboost": {"eval": "1+1", "uhost": "example.com"}})
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


MOST_TRIES = 5


async def late_refusal(exchange: Exchange) -> None:
    """A refusal that invites to try again, after a while."""
    await asyncio.sleep(0.5)
    await spoilers.error(503, "cluster_block_exception")(exchange)


class TestRetries:
    """pgedge-rag-server#40: retries ate the budget."""

    @pytest.fixture
    async def proxy(self, engine: Engine) -> AsyncIterator[Proxy]:
        if engine.url.startswith("https"):
            pytest.skip("the fault proxy speaks no TLS")
        async with Proxy(engine.url) as proxy:
            yield proxy

    async def test_tries_of_a_search_end_with_its_time(self, engine: Engine, cellar_index: str, proxy: Proxy) -> None:
        """Each answer is late and a refusal; more tries are allowed than one search has time for."""
        proxy.spoil("_search", late_refusal)
        async with sidecar_for(engine, proxy.url, connector={"max_attempts": MOST_TRIES}) as (client, _):
            started = time.monotonic()
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                await client.search(cellar_index, QUERY, MATCH)
            took_s = time.monotonic() - started
        assert failed.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
        assert took_s < SEARCH_TIMEOUT_S + SLACK_S
        assert 1 < proxy.count("_search") < MOST_TRIES

    async def test_tries_of_a_fetch_leave_time_to_answer(self, engine: Engine, cellar_index: str, proxy: Proxy) -> None:
        proxy.spoil("_mget", late_refusal)
        body = {**MATCH, "_source": False}
        tries = {"max_attempts": MOST_TRIES}
        async with sidecar_for(engine, proxy.url, policy={"text": {"fields": ["body"]}}, connector=tries) as (
            client,
            _,
        ):
            started = time.monotonic()
            page = await client.search(cellar_index, QUERY, body)
            took_s = time.monotonic() - started
        assert (page.outcome, page.reason) == ("ORIGINAL_ORDER", "TEXT_UNAVAILABLE")
        assert page.hits == await own_page(engine, cellar_index, body)
        assert took_s < BUDGET_S + SLACK_S
        assert 0 < proxy.count("_mget") < MOST_TRIES
