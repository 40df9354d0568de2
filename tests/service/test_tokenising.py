"""What runs on the event loop and what in a thread: a passage is tokenised once, and only its own call waits for it."""

import threading
from collections.abc import Sequence
from typing import Any

import pytest

from connectors.memory import MemoryConnector
from sidecar.scoring.base import Pair
from sidecar.scoring.fake import WordOverlapScorer
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
    ],
    ids=["passages", "html", "long query"],
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
