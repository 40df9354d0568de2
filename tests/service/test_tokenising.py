"""What runs on the event loop and what in a thread: a passage is tokenised once, and only its own call waits for it."""

import json
import threading
from collections.abc import Sequence
from typing import Any

import pytest

from connectors.memory import MemoryConnector
from sidecar.scoring.base import Pair
from sidecar.scoring.fake import WordOverlapScorer
from sidecar.v1 import rerank_pb2 as pb
from tests.calls import BODY
from tests.conftest import Serve, settings


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
        """See :class:`sidecar.loaded.TokenFinder`."""
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
