"""What went wrong in other projects, each with its origin in the docstring; it must not go wrong here."""

import asyncio
import re
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from google.protobuf.descriptor import Descriptor

from connectors.hits import Json
from connectors.memory import Fault, MemoryConnector
from connectors.opensearch import OpenSearchConnector
from connectors.options import HttpOptions
from sidecar.cost import CostModel
from sidecar.scoring.base import Pair, Scores
from sidecar.scoring.fake import WordOverlapScorer
from sidecar.v1 import rerank_pb2 as pb
from tests.calls import (
    BODY,
    BUDGET_S,
    QUERY,
    Held,
    assert_engines_order,
    engine_ids,
    quick,
    reply,
    search,
    short_queue,
    within,
)
from tests.conftest import DOCUMENTS, Serve, settings
from tests.connector_fixtures import always, error_answer, serving


def raises(_: int, __: Sequence[Pair]) -> Scores:
    raise RuntimeError


def fields_of(message: Descriptor) -> list[str]:
    return [field.name for field in message.fields]


def test_a_request_names_no_code_and_no_host() -> None:
    """nboost: a request could set Python code that was eval-ed, and the upstream host."""
    named = [name for message in pb.DESCRIPTOR.message_types_by_name.values() for name in fields_of(message)]
    assert not [name for name in named if re.search(r"host|url|addr|port|code|eval|script|path|checkpoint", name)]


async def test_a_broken_model_is_no_error_status(serve: Serve) -> None:
    """nboost: any error in reranking became an HTTP 500."""
    async with serve(WordOverlapScorer(fault=raises), configured=quick()) as (client, _):
        await assert_engines_order(await search(client), "ORIGINAL_ORDER", "MODEL_ERROR")


@pytest.mark.parametrize("error", [RuntimeError(), StopIteration(), MemoryError(), asyncio.CancelledError()])
async def test_a_forward_pass_that_raises_once_leaves_nobody_hanging(serve: Serve, error: BaseException) -> None:
    """infinity: a forward that raised once left that request and every later one hanging."""

    def once(number: int, _: Sequence[Pair]) -> None:
        if number == 0:
            raise error

    async with serve(WordOverlapScorer(fault=once), configured=quick()) as (client, _):
        async with within(BUDGET_S):
            await assert_engines_order(await search(client), "ORIGINAL_ORDER", "MODEL_ERROR")
        assert (await search(client)).outcome == "RERANKED"


async def test_a_top_100_is_one_request(serve: Serve) -> None:
    """text-embeddings-inference: 32 texts a request by default, so a top 100 was refused."""
    async with serve() as (client, _):
        got = reply(await client.rerank("w99", [f"w{number}" for number in range(100)]))
    assert (got.outcome, got.meta.scored, got.results[0].original_rank) == ("RERANKED", 100, 99)


async def test_nobody_waits_for_a_place_without_bound(serve: Serve) -> None:
    """text-embeddings-inference: gRPC callers waited for a permit for as long as it took."""
    configured = short_queue(5)
    with Held() as hanging:
        async with serve(WordOverlapScorer(fault=hanging), configured=configured) as (client, _):
            holding = asyncio.create_task(search(client))
            await hanging.entered()
            async with within(BUDGET_S):
                ends = await asyncio.gather(*(search(client) for _ in range(10)))
            hanging.release()
            await holding
    assert sorted({got.reason for got in ends}) == ["BUDGET_EXHAUSTED", "OVERLOADED"]


async def test_thresholds_never_touch_a_fallback(serve: Serve) -> None:
    """go-rag#42: the scores of a fallback fell under the threshold and the result was empty."""
    async with serve(WordOverlapScorer(fault=raises), configured=quick({"min_score": 0.99})) as (client, _):
        await assert_engines_order(await search(client), "ORIGINAL_ORDER", "MODEL_ERROR")
        got = reply(await client.rerank(QUERY, ["a", "b"], options=pb.Options(min_score=1e9)))
        assert len(got.results) == 2


async def test_a_fallback_is_whole_and_says_what_it_is(serve: Serve) -> None:
    """xagent#2455: the fallback cut the results and claimed to be reranked."""
    async with serve(WordOverlapScorer(fault=raises), configured=quick({"rank_window_size": 2})) as (client, _):
        got = await search(client)
        await assert_engines_order(got, "ORIGINAL_ORDER", "MODEL_ERROR")
        assert (got.meta.fusion, got.meta.model_version, got.meta.scored) == ("", "", 0)
        five = reply(await client.rerank(QUERY, [f"t{number}" for number in range(5)]))
        assert [result.original_rank for result in five.results] == [0, 1, 2, 3, 4]


async def test_a_fallback_is_never_silent(serve: Serve) -> None:
    """trip2g#320: a silent fallback hid 61,354 failures in 61,359 calls for six weeks."""
    async with serve(WordOverlapScorer(fault=raises), configured=quick()) as (client, app):
        for _ in range(3):
            got = await search(client)
            assert got.meta.detail
        labels = {"method": "Search", "policy": "default", "outcome": "ORIGINAL_ORDER", "reason": "MODEL_ERROR"}
        assert app.metrics.registry.get_sample_value("sidecar_requests_total", labels) == 3


async def test_what_was_not_scored_has_no_score(serve: Serve) -> None:
    """jonex#35: documents that failed got a neutral 0.5 and were ranked by it."""
    candidates: list[str | pb.Candidate] = [
        "pear",
        pb.Candidate(id="missing", index="docs"),
        "apple winter storage varieties for",
    ]
    async with serve() as (client, _):
        got = reply(await client.rerank(QUERY, candidates))
    assert [result.original_rank for result in got.results] == [2, 1, 0]
    assert not got.results[1].HasField("relevance_score")
    assert not got.results[1].HasField("normalized_score")


async def test_the_inner_time_limit_leaves_room_for_the_fallback(serve: Serve) -> None:
    """memory-lancedb-pro#882: inner and outer timeouts were equal, so the fallback was never reached."""
    slow = MemoryConnector("main", {"docs": DOCUMENTS}, faults=[Fault(delay_s=30, on="fetch", always=True)])
    configured = quick({"budget_ms": 5000}, server={"reserve_ms": 150})
    async with serve(connector=slow, configured=configured) as (client, _):
        candidates = [pb.Candidate(id=key, index="docs") for key in DOCUMENTS]
        got = reply(await client.rerank(QUERY, candidates, timeout_s=0.5))
        assert (got.outcome, got.ids) == ("ORIGINAL_ORDER", list(DOCUMENTS))
        page = await client.search("docs", QUERY, {**BODY, "_source": False}, timeout_s=0.5)
        assert (page.outcome, [hit["_id"] for hit in page.hits]) == ("ORIGINAL_ORDER", await engine_ids())


async def test_retries_do_not_eat_the_budget(serve: Serve) -> None:
    """pgedge-rag-server#40: the retries of the client outlived the budget."""
    async with serving(always(lambda: error_answer(503, "unavailable"))) as server:
        connector = OpenSearchConnector("main", HttpOptions([server.url], max_attempts=5))
        async with serve(connector=connector, configured=quick()) as (client, _), within(BUDGET_S):
            got = reply(await client.rerank(QUERY, [pb.Candidate(id="1"), pb.Candidate(id="2")], index="docs"))
    assert (got.outcome, got.ids) == ("ORIGINAL_ORDER", ["1", "2"])
    assert got.reason in ("TEXT_UNAVAILABLE", "BUDGET_EXHAUSTED")
    assert len(server.asked) >= 2


async def test_a_lone_text_gets_a_score_that_tells_something(serve: Serve) -> None:
    """agentmemory#724: softmax over one logit gave every lone text the same score."""
    async with serve() as (client, _):
        scores = [(await client.rerank("apple", [text])).results[0].normalized_score for text in ("apple", "pear")]
    assert scores[0] > scores[1]


async def test_equal_scores_leave_the_engines_order(serve: Serve) -> None:
    """mem0#4033: a wrong head scored everything zero; the order must then at least be the engine's."""
    async with serve(WordOverlapScorer(fault=lambda _, pairs: np.zeros(len(pairs), np.float32))) as (client, _):
        got = await search(client)
    assert (got.outcome, got.ids) == ("RERANKED", await engine_ids())


async def test_text_is_fetched_from_the_index_the_hit_is_in(serve: Serve) -> None:
    """elasticsearch#119617: an alias was resolved to the wrong index when the reranker fetched its text."""
    both: dict[str, dict[str, Json]] = {
        "one": {"1": {"title": "pears"}, "2": {"title": "plums"}},
        "two": {"1": {"title": "apple"}, "2": {"title": "quinces"}},
    }
    async with serve(connector=MemoryConnector("main", both)) as (client, _):
        options = pb.Options(return_passages=True)
        page = await client.search("one,two", "apple", {"_source": False}, options=options)
    assert (page.outcome, page.results[0].index, page.results[0].id) == ("RERANKED", "two", "1")
    assert {(one.index, one.id): one.passage for one in page.results} == {
        (index, key): document["title"] for index, documents in both.items() for key, document in documents.items()
    }


@pytest.mark.parametrize("method", ["replace", "linear", "rrf"])
async def test_negative_scores_are_scores(serve: Serve, method: str) -> None:
    """elasticsearch#120201: negative scores broke the order."""

    def logits(_: int, pairs: Sequence[Pair]) -> Scores:
        return np.array([-12.5, -0.5, -3.0], np.float32)

    candidates = [pb.Candidate(text=text, score=score) for text, score in (("a", -1.0), ("b", -1.5), ("c", -2.0))]
    configured = settings({"fusion": {"method": method, "model_weight": 0.9}})
    async with serve(WordOverlapScorer(fault=logits), configured=configured) as (client, _):
        got = reply(await client.rerank("q", candidates))
    assert [result.original_rank for result in got.results] == [1, 2, 0]
    assert [result.relevance_score for result in got.results] == [-0.5, -3.0, -12.5]
    assert got.meta.fusion == method


class TestOpenSearch:
    """OpenSearch's own rerank processor."""

    async def test_a_missing_field_is_not_scored_as_empty_text(self, serve: Serve) -> None:
        """A missing field is scored as the empty text there."""
        documents: dict[str, Json] = {"1": {"other": "apple"}, "2": {"title": "apple"}, "3": {"title": ""}}
        async with serve(connector=MemoryConnector("main", {"docs": documents})) as (client, _):
            page = await client.search("docs", "apple", {})
        assert {result.id: result.HasField("relevance_score") for result in page.results} == {
            "1": False,
            "2": True,
            "3": False,
        }

    async def test_fields_are_joined_with_a_separator(self, serve: Serve) -> None:
        """Fields are joined without one there, which makes new words of the last and the first."""
        candidates = [pb.Candidate(hit='{"_source": {"title": "car", "body": ["repair", "shop"]}}')] * 2
        async with serve() as (client, _):
            got = reply(await client.rerank("q", candidates, options=pb.Options(return_passages=True)))
        assert got.results[0].passage.split("\n") == ["car", "repair", "shop"]

    async def test_the_window_is_reranked_and_not_only_the_page(self, serve: Serve) -> None:
        """Only the page that is returned is reranked there."""
        async with serve() as (client, _):
            page = await client.search("docs", QUERY, {**BODY, "size": 1})
        assert [hit["_id"] for hit in page.hits] == ["d3"]
        assert page.results[0].original_rank > 0


@pytest.mark.parametrize("max_batch_tokens", [64, 256])
async def test_a_batch_is_bounded_in_tokens(serve: Serve, max_batch_tokens: int) -> None:
    """hindsight#3355: an unbounded batch took 3.8 GB for one attention tensor."""
    padded: list[int] = []

    def fault(_: int, pairs: Sequence[Pair]) -> None:
        padded.append(len(pairs) * max(pair.tokens for pair in pairs))

    configured = settings(models={"default": {"max_batch_tokens": max_batch_tokens}})
    texts = ["word " * (number % 40 + 1) for number in range(300)]
    async with serve(WordOverlapScorer(fault=fault), configured=configured) as (client, _):
        got = reply(await client.rerank("q", texts, options=pb.Options(rank_window_size=300)))
    assert (got.outcome, got.meta.scored) == ("RERANKED", 300)
    assert max(padded) <= max_batch_tokens
    assert len(padded) > 300 * 20 / max_batch_tokens / 2


async def test_a_batch_is_bounded_in_time(serve: Serve) -> None:
    """hindsight#3355 again: who has waited long enough costs the device one short batch more, not the whole job."""
    scorer = WordOverlapScorer(seconds_per_token=0.001)
    cost = CostModel(overhead_s=1e-4, token_s=0.0003)  # a third of what it really takes, so that the job is admitted
    configured = settings({"budget_ms": 200, "min_rank_window_size": None}, models={"default": {"max_batch_ms": 10}})
    async with serve(scorer, cost=cost, configured=configured) as (client, _):
        got = reply(await client.rerank("q", ["one two three"] * 60))
        scored = scorer.pairs_scored
        await asyncio.sleep(0.2)
        assert scorer.pairs_scored - scored <= 7
    assert (got.outcome, got.reason) == ("ORIGINAL_ORDER", "BUDGET_EXHAUSTED")
    assert scorer.pairs_scored < 60


async def test_what_was_scored_before_the_budget_ended_is_not_lost(serve: Serve) -> None:
    """A device that has become three times slower scores a beginning of the window, and that is ordered."""
    scorer = WordOverlapScorer(seconds_per_token=0.001)
    cost = CostModel(overhead_s=1e-4, token_s=0.0003)  # a third of what it really takes, so that the job is admitted
    configured = settings({"budget_ms": 200, "min_rank_window_size": 10}, models={"default": {"max_batch_ms": 10}})
    texts = [*["one two three"] * 5, "the query is here", *["one two three"] * 54]
    async with serve(scorer, cost=cost, configured=configured) as (client, _):
        got = reply(await client.rerank("query", texts))
    assert (got.outcome, got.reason) == ("PARTIAL", "BUDGET_EXHAUSTED")
    scored = [result.original_rank for result in got.results if result.HasField("relevance_score")]
    assert sorted(scored) == list(range(len(scored))), "a beginning of the window"
    assert 10 <= len(scored) == got.meta.scored < 60
    assert [result.original_rank for result in got.results] == [5, *range(5), *range(6, 60)]
    assert f"the first {len(scored)} " in got.meta.detail


@pytest.mark.parametrize(("budget_ms", "pass_s"), [(30, 0.002), (50, 0.015)])
async def test_a_window_that_may_shrink_leaves_short_budgets_as_long_as_they_are(
    serve: Serve, budget_ms: int, pass_s: float
) -> None:
    """The moment from when on a part will do must not come before all can be there."""
    scorer = WordOverlapScorer(seconds_per_token=pass_s / 160)
    cost = CostModel(overhead_s=1e-5, token_s=pass_s / 160)
    configured = settings({"budget_ms": budget_ms, "min_rank_window_size": 10})
    async with serve(scorer, cost=cost, configured=configured) as (client, _):
        await client.rerank("q", ["one two"] * 40)
        got = [reply(await client.rerank(f"q{number}", ["one two"] * 40)) for number in range(10)]
    assert sum(one.outcome == "RERANKED" for one in got) >= 8, [(one.outcome, one.reason) for one in got]


class TestGovUk:
    """GOV.UK's search with a learning-to-rank model."""

    async def test_pinned_results_stay_where_they_are(self, serve: Serve) -> None:
        """Results that editors pinned were kept out of reranking."""
        original = await engine_ids()
        async with serve() as (client, _):
            page = await client.search("docs", QUERY, BODY, options=pb.Options(pinned_ids=original[:1]))
        assert (page.outcome, page.hits[0]["_id"]) == ("RERANKED", original[0])

    async def test_without_scores_of_the_engine_nothing_is_reranked(self, serve: Serve) -> None:
        """A search without scores (sorted by date) was passed through."""
        rows: list[dict[str, Any]] = [{"_index": "docs", "_id": key, "_score": None} for key in "ab"]
        canned = MemoryConnector("main", {"docs": {}}, faults=[Fault(answer={"hits": {"hits": rows}}, on="search")])
        async with serve(connector=canned) as (client, _):
            page = await client.search("docs", QUERY, BODY)
        assert (page.outcome, page.reason) == ("SKIPPED", "NOT_RELEVANCE_SORTED")


async def test_a_slow_engine_eats_the_budget_and_adds_nothing_to_it(serve: Serve) -> None:
    """Design, section 5: what the search took is not given to the model once more."""
    slow = MemoryConnector("main", {"docs": DOCUMENTS}, faults=[Fault(delay_s=BUDGET_S / 2, on="search")])
    with Held() as hanging:
        async with serve(WordOverlapScorer(fault=hanging), connector=slow, configured=quick()) as (client, _):
            started = time.monotonic()
            async with within(BUDGET_S):
                got = await search(client)
            assert time.monotonic() - started >= BUDGET_S / 2
            hanging.release()
    await assert_engines_order(got, "ORIGINAL_ORDER", "BUDGET_EXHAUSTED")
