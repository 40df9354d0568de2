"""What runs on the event loop and what in a thread: a passage is tokenised once, and only its own call waits for it."""

import asyncio
import json
import threading
from collections.abc import Sequence
from typing import Any

import pytest

from connectors.memory import MemoryConnector
from sidecar.cost import CostModel
from sidecar.scoring.base import Pair
from sidecar.scoring.fake import WordOverlapScorer
from sidecar.settings import Settings
from sidecar.v1 import rerank_pb2 as pb
from tests.calls import BODY, PATIENCE_S, busy, until
from tests.conftest import SERVER, Serve, settings


class KeepingScorer(WordOverlapScorer):
    """Keeps what it has tokenised, and notes which threads did what."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: set[str] = set()
        self.tokenised_in: list[int] = []
        self.found_in: list[int] = []

    def encode(self, query: str, passages: Sequence[str]) -> list[Pair]:
        """See :class:`sidecar.scoring.base.Scorer`."""
        self.tokenised_in.append(threading.get_ident())
        self.kept.update(passages)
        return super().encode(query, passages)

    def encode_kept(self, query: str, passages: Sequence[str]) -> list[Pair] | None:
        """See :class:`sidecar.loaded.Finder`."""
        if not self.kept.issuperset(passages):
            return None
        self.found_in.append(threading.get_ident())
        return super().encode(query, passages)


async def test_passages_are_tokenised_in_a_thread_and_found_again_without_one(serve: Serve) -> None:
    scorer, here = KeepingScorer(), threading.get_ident()
    async with serve(scorer) as (client, _):
        first = await client.search("docs", "apple winter", BODY)
        again = await client.search("docs", "apple winter", BODY)
    assert [hit["_id"] for hit in first.hits] == [hit["_id"] for hit in again.hits]
    assert (first.outcome, again.outcome) == ("RERANKED", "RERANKED")
    assert here not in scorer.tokenised_in
    assert (len(scorer.tokenised_in), scorer.found_in) == (1, [here])


LONG_QUERY = f"apple{' ' * 5000}winter"


@pytest.mark.parametrize(
    ("policy", "query"),
    [
        ({"text": {"fields": ["title", "body"], "passages": {"words": 8, "stride": 8}}}, "apple winter"),
        ({"text": {"fields": [{"name": "body", "html": True}]}}, "apple winter"),
        ({"limits": {"query_chars": len(LONG_QUERY)}}, LONG_QUERY),
        ({"text": {"fields": ["title", "body"], "sources": ["source", "inner_hits"]}}, "apple winter"),
        ({"text": {"fields": ["title", "body", "of.an.object"]}}, "apple winter"),
    ],
    ids=["passages", "html", "long query", "inner hits", "path"],
)
async def test_what_takes_its_time_is_done_in_a_thread_each_time(
    serve: Serve, policy: dict[str, Any], query: str
) -> None:
    scorer, here = KeepingScorer(), threading.get_ident()
    async with serve(scorer, configured=settings(policy)) as (client, _):
        for _ in range(2):
            assert (await client.search("docs", query, BODY)).outcome == "RERANKED"
    assert here not in scorer.tokenised_in
    assert (len(scorer.tokenised_in), scorer.found_in) == (2, [])


async def test_large_answers_are_read_in_a_thread_each_time(serve: Serve) -> None:
    scorer = KeepingScorer()
    large = MemoryConnector("main", {"docs": {f"d{row}": {"body": "apple " + "winter " * 10_000} for row in range(3)}})
    async with serve(scorer, connector=large) as (client, _):
        for _ in range(2):
            assert (await client.search("docs", "apple winter", BODY)).outcome == "RERANKED"
    assert (len(scorer.tokenised_in), scorer.found_in) == (2, [])


@pytest.mark.parametrize(
    ("candidates", "found"),
    [
        ([pb.Candidate(text=f"apple {number}") for number in range(100)], 1),
        ([pb.Candidate(text=f"apple {number}") for number in range(300)], 0),
        ([pb.Candidate(hit=json.dumps({"_index": "docs", "_id": "1", "_source": {"body": "apple"}}))], 0),
    ],
    ids=["texts", "many", "hit"],
)
async def test_texts_of_a_few_candidates_are_found_again_too(
    serve: Serve, candidates: list[pb.Candidate], found: int
) -> None:
    scorer = KeepingScorer()
    async with serve(scorer, configured=settings({"rank_window_size": 300})) as (client, _):
        for _ in range(2):
            message = await client.rerank("apple winter", [*candidates, pb.Candidate(text="winter")])
            assert pb.Outcome.Name(message.outcome) == "OUTCOME_RERANKED"
    assert (len(scorer.tokenised_in), len(scorer.found_in)) == (2 - found, found)


async def test_a_tokenizer_that_panics_at_a_known_passage_fails_its_call_and_answers_it(serve: Serve) -> None:
    class Panics(KeepingScorer):
        def encode_kept(self, query: str, passages: Sequence[str]) -> list[Pair] | None:
            raise KeyboardInterrupt

    async with serve(Panics()) as (client, _):
        page = await client.search("docs", "apple winter", BODY)
    assert (page.outcome, page.reason) == ("ORIGINAL_ORDER", "MODEL_ERROR")
    assert "the tokenizer raised KeyboardInterrupt" in page.message.meta.detail


class Slow(KeepingScorer):
    """Tokenises in its own time what is new and says so, and notes in which order."""

    def __init__(self) -> None:
        super().__init__()
        self.entered = threading.Semaphore(0)
        self.goes_on = threading.Event()
        self.read: list[str] = []

    def encode(self, query: str, passages: Sequence[str]) -> list[Pair]:
        """See :class:`sidecar.scoring.base.Scorer`."""
        if "slow" in query:
            self.entered.release()
            assert self.goes_on.wait(PATIENCE_S)
        self.read.append(query)
        return super().encode(query, passages)

    async def taken(self) -> None:
        """Wait until both threads are at work."""
        for _ in range(2):
            assert await asyncio.to_thread(self.entered.acquire, timeout=PATIENCE_S)


async def known_beside_a_flood(serve: Serve, texts: list[str], configured: Settings) -> pb.RerankResponse:
    """The reply to a call that was answered before, while others wait to be tokenised."""
    scorer = Slow()
    async with serve(scorer, configured=configured) as (client, _):
        await client.rerank("apple winter", texts)
        flood = [asyncio.create_task(client.rerank(f"slow {number}", ["apple pie"])) for number in range(8)]
        await scorer.taken()
        known = await client.rerank("apple winter", texts)
        assert not any(call.done() for call in flood)
        scorer.goes_on.set()
        await asyncio.gather(*flood)
    return known


@pytest.mark.parametrize("score_cache_mib", [0, 1], ids=["tokens known", "scores known"])
async def test_a_call_with_nothing_to_tokenise_waits_for_nobody_who_does(serve: Serve, score_cache_mib: int) -> None:
    configured = settings(server={**SERVER, "score_cache_mib": score_cache_mib})
    assert (await known_beside_a_flood(serve, ["apple", "winter"], configured)).outcome == pb.OUTCOME_RERANKED


async def test_a_long_call_whose_scores_are_known_waits_for_nobody_who_tokenises(serve: Serve) -> None:
    configured = settings({"rank_window_size": 300, "budget_ms": 5000}, server={**SERVER, "score_cache_mib": 1})
    texts = [f"apple {number}" for number in range(300)]
    assert (await known_beside_a_flood(serve, texts, configured)).outcome == pb.OUTCOME_RERANKED


@pytest.mark.parametrize("wait", [False, True])
async def test_a_cosine_of_what_is_known_waits_for_nobody_who_tokenises(serve: Serve, wait: bool) -> None:
    configured = settings(
        {"fusion": {"method": "linear"}, "cosine": {"model": "second", "wait": wait}},
        models={"default": {}, "second": {"kind": "bi_encoder"}},
        server={**SERVER, "score_cache_mib": 1},
    )
    known = await known_beside_a_flood(serve, ["apple", "winter"], configured)
    assert known.outcome == pb.OUTCOME_RERANKED
    assert known.meta.timings.cosine_ms < 500


async def test_tokenizers_that_are_stuck_turn_health_and_known_calls_are_still_answered(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sidecar.turns.STALLED_AFTER_S", 0.3)
    scorer = Slow()
    configured = settings({"budget_ms": 1000}, server={**SERVER, "score_cache_mib": 1})
    async with serve(scorer, configured=configured) as (client, app):
        await client.rerank("apple winter", ["apple", "winter"])
        hanging = [asyncio.create_task(client.rerank(f"slow {number}", ["apple pie"])) for number in range(2)]
        await scorer.taken()
        await until(lambda: not app._can_rerank)
        new = await client.rerank("apple winter", ["pie"])
        known = await client.rerank("apple winter", ["apple", "winter"])
        scorer.goes_on.set()
        await asyncio.gather(*hanging)
        await until(lambda: app._can_rerank)
        again = await client.rerank("apple winter", ["pie"])
    assert (new.reason, new.meta.detail) == (
        pb.REASON_MODEL_ERROR,
        "no tokenizer thread has answered for more than 0 s",
    )
    assert (known.outcome, again.outcome) == (pb.OUTCOME_RERANKED, pb.OUTCOME_RERANKED)


async def test_who_has_one_call_waits_for_one_of_those_who_have_many(serve: Serve) -> None:
    scorer = Slow()
    policies = {name: {"text": {"fields": ["body"]}, "budget_ms": 5000} for name in ("deep", "quick")}
    configured = settings(policies=policies, default_policy="deep")
    async with serve(scorer, configured=configured) as (client, _):
        flood = [asyncio.create_task(client.rerank(f"slow {number}", ["apple pie"])) for number in range(10)]
        await scorer.taken()
        one = asyncio.create_task(client.rerank("apple", ["winter"], options=pb.Options(policy="quick")))
        await asyncio.sleep(0.1)
        scorer.goes_on.set()
        assert (await one).outcome == pb.OUTCOME_RERANKED
        await asyncio.gather(*flood)
    assert scorer.read.index("apple") <= 4, "two under way, and one or two whose turn came with it"


LONG = ["apple " * 660] * 60
"""More than is tokenised in one turn."""


@pytest.mark.parametrize(
    ("policy", "turns", "outcome", "reason"),
    [
        ({"min_rank_window_size": 5}, 1, "PARTIAL", "OVERLOADED"),
        ({"min_rank_window_size": 40}, 2, "PARTIAL", "OVERLOADED"),
        ({"min_rank_window_size": None}, 2, "RERANKED", "UNSPECIFIED"),
    ],
    ids=["few will do", "many have to be", "all have to be"],
)
async def test_no_more_is_tokenised_than_the_device_could_score_in_time(
    serve: Serve, policy: dict[str, Any], turns: int, outcome: str, reason: str
) -> None:
    """What is predicted to be late by all that a call needs is still tried once a second, and not late here."""
    scorer = KeepingScorer()
    cost = CostModel(overhead_s=0.0, token_s=0.02 / scorer.max_length)  # 20 ms a text
    configured = settings({"budget_ms": 500, "min_rank_window_size": 60, **policy})
    async with serve(scorer, configured=configured, cost=cost) as (client, app):
        async with busy(app.scheduler):
            submitted = asyncio.create_task(client.rerank("apple", LONG))
            await until(lambda: len(scorer.tokenised_in) == turns)
        reply = await submitted
    assert (pb.Outcome.Name(reply.outcome), pb.Reason.Name(reply.reason)) == (f"OUTCOME_{outcome}", f"REASON_{reason}")
    assert sorted(one.original_rank for one in reply.results) == list(range(len(LONG)))
    scored = [one.original_rank for one in reply.results if one.HasField("relevance_score")]
    assert sorted(scored) == list(range(len(scored)))
    if turns == 1:
        assert 5 <= len(scored) <= 25


async def test_a_long_call_that_there_is_time_for_is_tokenised_whole_in_several_turns(serve: Serve) -> None:
    scorer = KeepingScorer()
    async with serve(scorer, configured=settings({"min_rank_window_size": 5})) as (client, _):
        reply = await client.rerank("apple", LONG)
    assert (reply.outcome, reply.meta.scored) == (pb.OUTCOME_RERANKED, len(LONG))
    assert len(scorer.tokenised_in) == 2
