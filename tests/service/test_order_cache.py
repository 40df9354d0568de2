"""Where a policy keeps orders, later pages follow the first one, whatever becomes of the scoring between them."""

import asyncio
import random
from collections.abc import Sequence
from typing import Any

import pytest

from connectors.hits import Json
from connectors.memory import MemoryConnector
from sidecar.client import Page, RerankClient
from sidecar.scoring.base import Pair, Scores
from sidecar.scoring.fake import WordOverlapScorer
from sidecar.task import Task
from sidecar.types import Outcome, Ranking, Reason
from sidecar.v1 import rerank_pb2 as pb
from tests.calls import Held, until
from tests.conftest import Serve
from tests.service.test_pages import MATCH, QUERY, TOTAL, WINDOW, engine, ids, orchard, windowed


def failing(scorer: WordOverlapScorer, share: float, seed: int = 3) -> list[bool]:
    """Let the scorer fail from time to time; the list tells of each forward pass whether it did."""
    dice = random.Random(seed)
    failed: list[bool] = []

    def fault(_: int, __: Sequence[Pair]) -> Scores | None:
        failed.append(dice.random() < share)
        if failed[-1]:
            raise RuntimeError
        return None

    scorer.fault = fault
    return failed


async def page_of(client: RerankClient, start: int, size: int, query: str = QUERY, **options: Any) -> Page:
    body = {**MATCH, "from": start, "size": size}
    return await client.search("docs", query, body, options=pb.Options(**options))


@pytest.mark.parametrize("size", [1, 3, 4, 7])
async def test_pages_put_together_lose_and_repeat_nothing_while_scoring_fails(serve: Serve, size: int) -> None:
    scorer = WordOverlapScorer()
    async with serve(scorer, connector=engine(), configured=windowed(order_cache_s=60)) as (client, _):
        failed = failing(scorer, 0.5)
        for _ in range(8):
            pages = [await page_of(client, start, size) for start in range(0, TOTAL, size)]
            together = [key for page in pages for key in ids(page)]
            assert sorted(together) == sorted(orchard())
            assert len({page.outcome for page in pages[: -(-WINDOW // size)]}) == 1
    assert {True, False} <= set(failed)


async def test_without_it_a_degraded_page_and_a_good_one_may_share_a_hit(serve: Serve) -> None:
    """What the setting is for; should this ever fail, it is no longer needed."""
    scorer = WordOverlapScorer()
    async with serve(scorer, connector=engine(), configured=windowed()) as (client, _):
        first = ids(await page_of(client, 0, 4))
        failing(scorer, 1.0)
        second = ids(await page_of(client, 4, 6))
    assert set(first) & set(second)


async def test_a_later_page_follows_a_degraded_first_one_and_says_so(serve: Serve) -> None:
    scorer = WordOverlapScorer()
    async with serve(scorer, connector=engine(), configured=windowed(order_cache_s=60)) as (client, _):
        failing(scorer, 1.0)
        first = await page_of(client, 0, 4)
        failing(scorer, 0.0)
        second = await page_of(client, 4, 4)
    assert [first.message.meta.remembered, second.message.meta.remembered] == [False, True]
    assert (second.outcome, second.reason) == ("ORIGINAL_ORDER", "MODEL_ERROR")
    assert second.message.meta.detail == first.message.meta.detail != ""


async def test_a_first_page_asked_again_tries_anew_until_it_is_reranked(serve: Serve) -> None:
    scorer = WordOverlapScorer()
    async with serve(scorer, connector=engine(), configured=windowed(order_cache_s=60)) as (client, _):
        failing(scorer, 1.0)
        assert (await page_of(client, 0, 4)).outcome == "ORIGINAL_ORDER"
        passes = failing(scorer, 0.0)
        again = await page_of(client, 0, 4)
        assert (again.outcome, again.message.meta.remembered) == ("RERANKED", False)
        assert passes
        passes.clear()
        kept = await page_of(client, 0, 4, return_passages=True)
        assert (kept.outcome, kept.message.meta.remembered, passes) == ("RERANKED", True, [])
    for one, other in zip(again.results, kept.results, strict=True):
        assert (one.id, one.relevance_score) == (other.id, other.relevance_score)
        assert other.passage


async def test_a_degraded_later_page_never_replaces_the_first_pages_order(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The later page is asked for while there is no first one, and falls back when there is: it follows it."""
    first_is_there = asyncio.Event()
    async with serve(connector=engine(), configured=windowed(order_cache_s=60)) as (client, app):
        rank = app._pipeline._rank

        async def late(task: Task) -> Ranking:
            monkeypatch.setattr(app._pipeline, "_rank", rank)
            await first_is_there.wait()
            return Ranking.original(len(task.candidates), Outcome.ORIGINAL_ORDER, Reason.OVERLOADED, "late")

        monkeypatch.setattr(app._pipeline, "_rank", late)
        later = asyncio.create_task(page_of(client, 4, 4))
        await until(lambda: app._pipeline._rank == rank)
        first = await page_of(client, 0, 4)
        first_is_there.set()
        followed = await later
        assert (followed.outcome, followed.message.meta.remembered) == ("RERANKED", True)
        third = await page_of(client, 8, 4)
    assert [first.outcome, third.outcome] == ["RERANKED", "RERANKED"]
    assert third.message.meta.remembered


async def test_progressive_searches_follow_too(serve: Serve) -> None:
    async with serve(connector=engine(), configured=windowed(order_cache_s=60)) as (client, _):
        first = await page_of(client, 0, 5)
        body = {**MATCH, "from": 0, "size": 5}
        original, final = [page async for page in client.search_progressive("docs", QUERY, body)]
    assert (original.outcome, original.message.meta.remembered) == ("UNSPECIFIED", False)
    assert final.message.meta.remembered
    assert ids(final) == ids(first)


async def test_another_query_pin_or_window_has_an_order_of_its_own(serve: Serve) -> None:
    async with serve(connector=engine(), configured=windowed(order_cache_s=60)) as (client, _):
        await page_of(client, 0, 4)
        assert not (await page_of(client, 4, 4, query="well")).message.meta.remembered
        assert not (await page_of(client, 4, 4, pinned_ids=["o1"])).message.meta.remembered
        assert not (await page_of(client, 4, 4, rank_window_size=9)).message.meta.remembered
        assert (await page_of(client, 4, 4)).message.meta.remembered


async def test_an_index_that_changes_within_the_window_has_another_order(serve: Serve) -> None:
    connector = MemoryConnector("main", {"docs": orchard()})
    async with serve(connector=connector, configured=windowed(order_cache_s=60)) as (client, _):
        first = ids(await page_of(client, 0, 4))
        documents: dict[str, Json] = {**orchard(), "new": {"body": "apple " * 50 + "keeps well"}}
        connector._indices = MemoryConnector("other", {"docs": documents})._indices
        second = await page_of(client, 0, 4)
    assert not second.message.meta.remembered
    assert "new" in ids(second)
    assert "new" not in first


async def test_min_score_is_applied_to_a_remembered_order_as_each_call_asks(serve: Serve) -> None:
    async with serve(connector=engine(), configured=windowed(order_cache_s=60)) as (client, _):
        everything = await page_of(client, 0, WINDOW)
        least = sorted(result.relevance_score for result in everything.results)[WINDOW // 2]
        fewer = await page_of(client, 0, WINDOW, min_score=least)
    assert fewer.message.meta.remembered
    assert ids(fewer) == [one.id for one in everything.results if one.relevance_score >= least]
    assert len(fewer.results) < len(everything.results)


async def test_a_later_page_waits_for_a_first_one_in_the_making(serve: Serve) -> None:
    with Held() as held:
        scorer = WordOverlapScorer(fault=held)
        async with serve(scorer, connector=engine(), configured=windowed(order_cache_s=60)) as (client, app):
            first = asyncio.create_task(page_of(client, 0, 4))
            await held.entered()
            later = asyncio.create_task(page_of(client, 4, 4))
            await asyncio.sleep(0.05)
            assert len(app._pipeline._orders._making) == 1
            held.release()
            pages = [await first, await later]
    assert [page.message.meta.remembered for page in pages] == [False, True]


async def test_a_text_that_changes_under_the_same_score_has_another_order(serve: Serve) -> None:
    everything: Json = {"query": {"match_all": {}}}
    connector = MemoryConnector("main", {"docs": orchard()})
    async with serve(connector=connector, configured=windowed(order_cache_s=60)) as (client, _):
        await client.search("docs", QUERY, everything)
        connector._indices["docs"].documents["o1"] = {"body": "something else"}
        page = await client.search("docs", QUERY, everything, options=pb.Options(return_passages=True))
    assert not page.message.meta.remembered
    assert "something else" in [result.passage for result in page.results]
