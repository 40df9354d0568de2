"""Everything that can go wrong between the sidecar and a real node, on ``_search`` and on ``_mget``.

Before there are hits a fault is a gRPC status; from then on it is the engine's own page with a reason. Both come in
time, and the call after the fault is as good as any.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack

import grpc
import pytest

from sidecar.client import RerankClient
from sidecar.v1 import rerank_pb2 as pb
from tests.calls import QUERY, Reply, reply, request_id_of, status, until, within
from tests.conftest import DOCUMENTS
from tests.engines import spoilers
from tests.engines.engine import Engine, indices
from tests.engines.faulty import (
    BARE,
    BODY,
    BUDGET_S,
    QUICK_S,
    SEARCH_TIMEOUT_S,
    TEXTS,
    UNHURRIED,
    hits_of,
    search,
    sidecar_for,
)
from tests.engines.proxy import Exchange, Proxy, Spoiler
from tests.engines.rest import Json
from tests.engines.spoilers import BROKEN, LATE, WRONG


@pytest.fixture(scope="module")
def index(engine: Engine) -> Iterator[str]:
    with indices(engine) as names:
        yield names("faults", TEXTS, DOCUMENTS)


@pytest.fixture
async def proxy(engine: Engine) -> AsyncIterator[Proxy]:
    if engine.url.startswith("https"):
        pytest.skip("the fault proxy speaks no TLS")
    async with Proxy(engine.url) as proxy:
        yield proxy


@pytest.fixture
async def client(engine: Engine, proxy: Proxy, index: str) -> AsyncIterator[RerankClient]:
    """A client of a sidecar behind the proxy; calls have warmed up both, and the call after the test is well too."""
    async with sidecar_for(engine, proxy.url) as (client, _):
        await assert_well(client, proxy, engine, index)
        yield client
        await assert_well(client, proxy, engine, index)


async def assert_well(client: RerankClient, proxy: Proxy, engine: Engine, index: str) -> None:
    """Without faults both calls are reranked: nothing is left of the fault before."""
    proxy.heal()
    expected = {hit["_id"] for hit in hits_of(engine, index)}
    for body in (BODY, BARE):
        got = await search(client, index, body, options=UNHURRIED)
        assert (got.outcome, got.ids[0], set(got.ids)) == ("RERANKED", "d3", expected)
    assert (proxy.count("_search"), proxy.count("_mget")) == (2, 1)
    proxy.heal()


async def assert_engines_page(client: RerankClient, engine: Engine, index: str) -> Reply:
    """The reply is the engine's own page, hit by hit, and says why."""
    page = await client.search(index, QUERY, BARE)
    got = reply(page.message)
    assert page.hits == hits_of(engine, index, BARE)
    assert [result.original_rank for result in got.results] == list(range(len(got.ids)))
    assert not any(result.HasField("relevance_score") for result in got.results)
    assert (got.outcome, got.meta.scored) == ("ORIGINAL_ORDER", 0)
    assert got.meta.detail
    return got


class TestSearch:
    @pytest.mark.parametrize("spoiler", BROKEN.values(), ids=BROKEN)
    async def test_a_broken_answer_is_tried_again_and_then_unavailable(
        self, client: RerankClient, proxy: Proxy, engine: Engine, spoiler: Spoiler, index: str
    ) -> None:
        proxy.spoil("_search", spoiler)
        async with within(QUICK_S):
            failed = await status(search(client, index))
        assert failed.code() is grpc.StatusCode.UNAVAILABLE, failed.details()
        assert f"connector 'main': search on {index!r}" in (failed.details() or "")
        assert request_id_of(failed)
        assert proxy.count("_search") == 2

    @pytest.mark.parametrize("spoiler", BROKEN.values(), ids=BROKEN)
    async def test_an_answer_that_is_broken_once_costs_nothing(
        self, client: RerankClient, proxy: Proxy, engine: Engine, spoiler: Spoiler, index: str
    ) -> None:
        proxy.spoil("_search", spoiler, times=1)
        async with within(BUDGET_S):
            got = await search(client, index, options=UNHURRIED)
        assert (got.outcome, got.ids[0]) == ("RERANKED", "d3")
        assert proxy.count("_search") == 2

    @pytest.mark.parametrize("spoiler", WRONG.values(), ids=WRONG)
    async def test_a_wrong_answer_is_unavailable_at_once(
        self, client: RerankClient, proxy: Proxy, engine: Engine, spoiler: Spoiler, index: str
    ) -> None:
        proxy.spoil("_search", spoiler)
        async with within(QUICK_S):
            failed = await status(search(client, index))
        assert failed.code() is grpc.StatusCode.UNAVAILABLE, failed.details()
        broke_on_the_window = spoiler is WRONG["500 of the engine"]
        assert proxy.count("_search") == (2 if broke_on_the_window else 1)

    async def test_an_engine_that_breaks_on_the_window_answers_the_search_as_it_was_asked(
        self, client: RerankClient, proxy: Proxy, engine: Engine, index: str
    ) -> None:
        proxy.spoil("_search", WRONG["500 of the engine"], times=1)
        page = await client.search(index, QUERY, BODY)
        assert (page.outcome, page.reason) == ("SKIPPED", "WINDOW_REFUSED")
        assert page.hits == hits_of(engine, index)
        assert proxy.count("_search") == 2

    @pytest.mark.parametrize("spoiler", LATE.values(), ids=LATE)
    async def test_a_late_answer_is_waited_for_no_longer_than_configured(
        self, client: RerankClient, proxy: Proxy, engine: Engine, spoiler: Spoiler, index: str
    ) -> None:
        proxy.spoil("_search", spoiler)
        async with within(SEARCH_TIMEOUT_S):
            failed = await status(search(client, index))
        assert failed.code() is grpc.StatusCode.DEADLINE_EXCEEDED, failed.details()
        assert proxy.count("_search") == 1
        await until(lambda: proxy.connections == 0)  # and nothing waits for it any more

    async def test_later_than_the_budget_is_the_engines_order_as_soon_as_it_is_there(
        self, engine: Engine, proxy: Proxy, index: str
    ) -> None:
        delay_s = BUDGET_S + 0.2
        patient = {"search_timeout_ms": 5000}
        async with sidecar_for(engine, proxy.url, connector=patient) as (client, _):
            proxy.spoil("_search", spoilers.delayed(after_s=delay_s))
            async with within(delay_s):
                got = await assert_engines_page(client, engine, index)
            assert got.reason == "BUDGET_EXHAUSTED"
            assert proxy.count("_mget") == 0

    async def test_a_slow_answer_within_the_budget_is_reranked(
        self, client: RerankClient, proxy: Proxy, index: str
    ) -> None:
        proxy.spoil("_search", spoilers.dripping(chunks=10, over_s=BUDGET_S / 4))
        async with within(BUDGET_S):
            assert (await search(client, index)).outcome == "RERANKED"

    async def test_no_try_begins_after_the_time_is_over(self, engine: Engine, proxy: Proxy, index: str) -> None:
        async def late_503(exchange: Exchange) -> None:
            await asyncio.sleep(SEARCH_TIMEOUT_S * 0.35)
            await spoilers.answered(503)(exchange)

        async with sidecar_for(engine, proxy.url, connector={"max_attempts": 5}) as (client, _):
            proxy.spoil("_search", late_503)
            async with within(SEARCH_TIMEOUT_S):
                failed = await status(search(client, index))
            assert failed.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
            tried = proxy.count("_search")
            assert tried in (2, 3)
            await asyncio.sleep(SEARCH_TIMEOUT_S * 0.7)  # two more tries would fit in
            assert proxy.count("_search") == tried

    async def test_the_clients_own_deadline_ends_the_tries_too(self, engine: Engine, proxy: Proxy, index: str) -> None:
        async with sidecar_for(engine, proxy.url, connector={"max_attempts": 5}) as (client, _):
            proxy.spoil("_search", spoilers.silent)
            async with within(0.3):
                failed = await status(search(client, index, timeout_s=0.3))
            assert failed.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            await until(lambda: proxy.connections == 0)
            assert proxy.count("_search") == 1


class TestRetryAfter:
    """An engine that says when to come back is asked then, if that is in time, and not before."""

    async def test_later_than_there_is_time_for(self, client: RerankClient, proxy: Proxy, index: str) -> None:
        proxy.spoil("_search", spoilers.error(429, "circuit_breaking_exception", retry_after="60"))
        async with within(QUICK_S):
            failed = await status(search(client, index))
        assert failed.code() is grpc.StatusCode.UNAVAILABLE
        assert "circuit_breaking_exception" in (failed.details() or "")
        assert proxy.count("_search") == 1

    async def test_in_time(self, client: RerankClient, proxy: Proxy, index: str) -> None:
        proxy.spoil("_search", spoilers.answered(503, retry_after="1"), times=1)
        started = time.monotonic()
        async with within(BUDGET_S + 1):
            assert (await search(client, index, options=UNHURRIED)).outcome == "RERANKED"
        assert time.monotonic() - started >= 1
        assert proxy.count("_search") == 2

    async def test_no_fetch_waits_for_it_beyond_the_budget(
        self, client: RerankClient, proxy: Proxy, engine: Engine, index: str
    ) -> None:
        proxy.spoil("_mget", spoilers.answered(503, retry_after="60"))
        async with within(QUICK_S):
            got = await assert_engines_page(client, engine, index)
        assert (got.reason, proxy.count("_mget")) == ("TEXT_UNAVAILABLE", 1)


class TestFetch:
    @pytest.mark.parametrize("spoiler", BROKEN.values(), ids=BROKEN)
    async def test_a_broken_answer_is_tried_again_and_then_the_engines_order(
        self, client: RerankClient, proxy: Proxy, engine: Engine, spoiler: Spoiler, index: str
    ) -> None:
        proxy.spoil("_mget", spoiler)
        async with within(BUDGET_S):
            got = await assert_engines_page(client, engine, index)
        assert got.reason == "TEXT_UNAVAILABLE"
        assert (proxy.count("_search"), proxy.count("_mget")) == (1, 2)

    @pytest.mark.parametrize("spoiler", BROKEN.values(), ids=BROKEN)
    async def test_an_answer_that_is_broken_once_costs_nothing(
        self, client: RerankClient, proxy: Proxy, engine: Engine, spoiler: Spoiler, index: str
    ) -> None:
        proxy.spoil("_mget", spoiler, times=1)
        async with within(BUDGET_S):
            got = await search(client, index, BARE, options=UNHURRIED)
        assert (got.outcome, got.ids[0]) == ("RERANKED", "d3")
        assert (proxy.count("_search"), proxy.count("_mget")) == (1, 2)

    @pytest.mark.parametrize("spoiler", WRONG.values(), ids=WRONG)
    async def test_a_wrong_answer_is_the_engines_order_at_once(
        self, client: RerankClient, proxy: Proxy, engine: Engine, spoiler: Spoiler, index: str
    ) -> None:
        proxy.spoil("_mget", spoiler)
        async with within(BUDGET_S):
            got = await assert_engines_page(client, engine, index)
        assert got.reason == "TEXT_UNAVAILABLE"
        assert proxy.count("_mget") == 1

    @pytest.mark.parametrize("spoiler", LATE.values(), ids=LATE)
    async def test_a_late_answer_is_not_waited_for_beyond_the_budget(
        self, client: RerankClient, proxy: Proxy, engine: Engine, spoiler: Spoiler, index: str
    ) -> None:
        proxy.spoil("_mget", spoiler)
        async with within(BUDGET_S):
            got = await assert_engines_page(client, engine, index)
        assert got.reason in ("TEXT_UNAVAILABLE", "BUDGET_EXHAUSTED")
        assert proxy.count("_mget") == 1

    async def test_documents_that_are_not_found_keep_their_places(
        self, client: RerankClient, proxy: Proxy, engine: Engine, index: str
    ) -> None:
        def lose_every_second(answer: Json) -> None:
            answer["docs"] = [
                row if place % 2 else {"_index": row["_index"], "_id": row["_id"], "found": False}
                for place, row in enumerate(answer["docs"])
            ]

        own = [hit["_id"] for hit in hits_of(engine, index)]
        proxy.spoil("_mget", spoilers.with_json(lose_every_second))
        got = await search(client, index, BARE, options=UNHURRIED)
        assert (got.outcome, sorted(got.ids)) == ("RERANKED", sorted(own))
        assert got.meta.scored == len(own) // 2
        assert got.ids[::2] == own[::2]

    @pytest.mark.parametrize("spoiler", [BROKEN["reset after it asked the node"], WRONG["no JSON"], LATE["silence"]])
    async def test_a_callers_own_candidates_come_back_in_the_callers_order(
        self, client: RerankClient, proxy: Proxy, spoiler: Spoiler, index: str
    ) -> None:
        proxy.spoil("_mget", spoiler)
        candidates = [pb.Candidate(id=key) for key in reversed(DOCUMENTS)]
        async with within(BUDGET_S):
            got = reply(await client.rerank(QUERY, candidates, index=index))
        assert (got.outcome, got.ids) == ("ORIGINAL_ORDER", list(reversed(DOCUMENTS)))
        assert got.reason in ("TEXT_UNAVAILABLE", "BUDGET_EXHAUSTED")


class TestNoConnection:
    """Faults before there is a connection, so that they hit whatever is asked."""

    async def test_refused(self, client: RerankClient, proxy: Proxy, engine: Engine, index: str) -> None:
        async with proxy.refusing(), within(QUICK_S):
            failed = await status(search(client, index))
        assert failed.code() is grpc.StatusCode.UNAVAILABLE
        assert "Connection refused" in (failed.details() or "")

    async def test_neither_refused_nor_accepted(
        self, client: RerankClient, proxy: Proxy, engine: Engine, index: str
    ) -> None:
        async with proxy.stuck(), within(SEARCH_TIMEOUT_S):
            failed = await status(search(client, index))
        assert failed.code() is grpc.StatusCode.DEADLINE_EXCEEDED

    @pytest.mark.parametrize("how", ["refusing", "stuck"])
    async def test_lost_between_search_and_fetch(
        self, client: RerankClient, proxy: Proxy, engine: Engine, index: str, how: str
    ) -> None:
        async with AsyncExitStack() as down:

            async def last_answer(exchange: Exchange) -> None:
                answer = await exchange.ask_node()
                await down.enter_async_context(getattr(proxy, how)(but=exchange))
                await exchange.answer(answer)
                exchange.hang_up()

            proxy.spoil("_search", last_answer)
            async with within(BUDGET_S):
                got = await assert_engines_page(client, engine, index)
            assert got.reason in ("TEXT_UNAVAILABLE", "BUDGET_EXHAUSTED")
            assert proxy.count("_mget") == 0


RANGE: Json = {
    "query": {"bool": {"must": [BODY["query"]], "should": [{"range": {"day": {"gte": "monday"}}}]}},
    "track_total_hits": True,
}
"""A query that only an index whose days are words can run."""


@pytest.fixture(scope="module")
def half(engine: Engine) -> Iterator[str]:
    """Two indices of which only the first can run RANGE."""
    with indices(engine) as names:
        yield ",".join(
            names(kind, {"mappings": {"properties": {"day": {"type": kind}}}}, with_day(kind, day))
            for kind, day in (("keyword", "monday"), ("date", "2026-01-01"))
        )


def with_day(kind: str, day: str) -> dict[str, Json]:
    return {f"{kind}-{key}": {**document, "day": day} for key, document in DOCUMENTS.items()}


class TestShards:
    async def test_one_that_failed_is_told_and_the_hits_of_the_others_are_reranked(
        self, client: RerankClient, proxy: Proxy, index: str
    ) -> None:
        proxy.spoil("_search", spoilers.with_json(spoilers.one_shard_failed))
        page = await client.search(index, QUERY, BODY, options=UNHURRIED)
        assert (page.outcome, page.hits[0]["_id"]) == ("RERANKED", "d3")
        shards = {"total": 2, "successful": 1, "skipped": 0, "failed": 1, "failures": [spoilers.SHARD_FAILURE]}
        assert page.response["_shards"] == shards

    async def test_one_that_really_failed(self, client: RerankClient, engine: Engine, half: str) -> None:
        direct = engine.call("POST", f"/{half}/_search", RANGE)
        assert direct["_shards"]["failed"] == 1, direct
        page = await client.search(half, QUERY, RANGE, options=UNHURRIED)
        assert (page.outcome, page.hits[0]["_id"]) == ("RERANKED", "keyword-d3")
        assert {hit["_id"] for hit in page.hits} == {hit["_id"] for hit in direct["hits"]["hits"]}
        assert page.response["_shards"] == direct["_shards"]
        assert page.response["hits"]["total"] == direct["hits"]["total"]

    async def test_none_may_fail_if_the_app_says_so(self, client: RerankClient, half: str) -> None:
        strict = {"allow_partial_search_results": "false"}
        failed = await status(client.search(half, QUERY, RANGE, params=strict))
        assert failed.code() is grpc.StatusCode.INVALID_ARGUMENT, failed.details()
        assert "monday" in (failed.details() or "")

    async def test_all_of_them(self, client: RerankClient, half: str) -> None:
        failed = await status(client.search(half.split(",")[1], QUERY, RANGE))
        assert failed.code() is grpc.StatusCode.INVALID_ARGUMENT, failed.details()
        assert "monday" in (failed.details() or "")
