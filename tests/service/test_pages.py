"""Which hits are on which page: a page never repeats or loses a hit, whatever becomes of the reranking."""

import json
import random
from collections.abc import Sequence
from typing import Any

import pytest

from connectors.hits import Json
from connectors.memory import Fault, MemoryConnector
from sidecar.client import Page
from sidecar.scoring.base import Pair, Scores
from sidecar.scoring.fake import WordOverlapScorer
from sidecar.v1 import rerank_pb2 as pb
from tests.calls import RecordingConnector, engine_ids
from tests.conftest import Serve, settings

WINDOW = 10
TOTAL = 23
QUERY = "apple keeps well"
MATCH: Json = {"query": {"match": {"body": "apple"}}}


def orchard() -> dict[str, Json]:
    """Documents that the engine ranks by how often they say apple, and the model by how much of the query they say."""
    extra = ["", "keeps", "keeps well", "well"]
    return {
        f"o{number}": {"body": "apple " * (TOTAL - number) + extra[number % 4] + " tree" * number}
        for number in range(TOTAL)
    }


def windowed(**policy: Any) -> Any:
    return settings({"rank_window_size": WINDOW, **policy})


def ids(page: Page) -> list[str]:
    assert [hit["_id"] for hit in page.hits] == [result.id for result in page.results]
    return [hit["_id"] for hit in page.hits]


def engine() -> MemoryConnector:
    return MemoryConnector("main", {"docs": orchard()})


async def test_the_first_pages_are_cut_from_the_reranked_window(serve: Serve) -> None:
    original = await engine_ids({**MATCH, "size": TOTAL}, orchard())
    async with serve(connector=engine(), configured=windowed()) as (client, _):
        whole = ids(await client.search("docs", QUERY, {**MATCH, "size": TOTAL}))
    assert whole != original
    assert sorted(whole[:WINDOW]) == sorted(original[:WINDOW])
    assert whole[WINDOW:] == original[WINDOW:]


@pytest.mark.parametrize("size", range(1, TOTAL + 2))
async def test_pages_of_any_size_put_together_are_the_whole(serve: Serve, size: int) -> None:
    async with serve(connector=engine(), configured=windowed()) as (client, _):
        whole = ids(await client.search("docs", QUERY, {**MATCH, "size": TOTAL}))
        together: list[str] = []
        ranks: list[int] = []
        for start in range(0, TOTAL + size, size):
            page = await client.search("docs", QUERY, {**MATCH, "from": start, "size": size})
            expected = "RERANKED" if start < WINDOW else "SKIPPED"
            assert page.outcome == expected
            assert page.reason == ("UNSPECIFIED" if start < WINDOW else "BEYOND_WINDOW")
            together += ids(page)
            ranks += [result.original_rank for result in page.results]
    assert together == whole
    assert sorted(ranks) == list(range(TOTAL))


async def test_a_page_whose_scoring_fails_is_the_engines_own_page(serve: Serve) -> None:
    """Whichever pages fail, each has its own full number of hits, none twice, in one order or the other."""
    dice = random.Random(7)
    failed: list[bool] = []

    def fault(_: int, __: Sequence[Pair]) -> Scores | None:
        failed.append(dice.random() < 0.5)
        if failed[-1]:
            raise RuntimeError
        return None

    original = await engine_ids({**MATCH, "size": TOTAL}, orchard())
    scorer = WordOverlapScorer()
    async with serve(scorer, connector=engine(), configured=windowed()) as (client, _):
        whole = ids(await client.search("docs", QUERY, {**MATCH, "size": TOTAL}))
        scorer.fault = fault
        for start in [0, 3, 6, 9, 12] * 5:
            page = await client.search("docs", QUERY, {**MATCH, "from": start, "size": 3})
            order = original if page.outcome == "ORIGINAL_ORDER" else whole
            assert ids(page) == order[start : start + 3]
            assert page.response["hits"]["total"]["value"] == TOTAL
    assert {True, False} <= set(failed)


async def test_a_page_across_the_windows_end(serve: Serve) -> None:
    async with serve(connector=engine(), configured=windowed()) as (client, _):
        whole = ids(await client.search("docs", QUERY, {**MATCH, "size": TOTAL}))
        page = await client.search("docs", QUERY, {**MATCH, "from": WINDOW - 2, "size": 5})
    assert ids(page) == whole[WINDOW - 2 : WINDOW + 3]
    scored = [result.HasField("relevance_score") for result in page.results]
    assert scored == [True, True, False, False, False]


async def test_url_parameters_say_the_page_as_well(serve: Serve) -> None:
    connector = RecordingConnector(orchard())
    async with serve(connector=connector, configured=windowed()) as (client, _):
        by_body = await client.search("docs", QUERY, {**MATCH, "from": 2, "size": 3})
        by_url = await client.search("docs", QUERY, {**MATCH, "size": 9}, params={"from": "2", "size": "3"})
    assert ids(by_body) == ids(by_url)
    assert [asked[1:] for asked in connector.asked] == [({**MATCH, "from": 0, "size": WINDOW}, {})] * 2


async def test_beyond_the_last_hit_there_is_nothing(serve: Serve) -> None:
    async with serve(connector=engine(), configured=windowed()) as (client, _):
        page = await client.search("docs", QUERY, {**MATCH, "from": 500, "size": 5})
        assert (page.outcome, page.reason, ids(page)) == ("SKIPPED", "BEYOND_WINDOW", [])
        few = await client.search("docs", QUERY, {"query": {"ids": {"values": ["o1", "o2"]}}, "from": 5})
        assert (few.outcome, ids(few)) == ("RERANKED", [])
        assert few.response["hits"]["total"]["value"] == 2


@pytest.mark.parametrize(
    ("body", "params", "reason"),
    [
        ({"size": 0}, {}, "NO_CANDIDATES"),
        ({}, {"size": "0"}, "NO_CANDIDATES"),
        ({"sort": "price"}, {}, "NOT_RELEVANCE_SORTED"),
        ({"sort": ["price", "_score"]}, {}, "NOT_RELEVANCE_SORTED"),
        ({"sort": [{"price": "asc"}]}, {}, "NOT_RELEVANCE_SORTED"),
        ({"sort": {"_score": "asc"}}, {}, "NOT_RELEVANCE_SORTED"),
        ({"sort": [{"_score": {"order": "asc"}}]}, {}, "NOT_RELEVANCE_SORTED"),
        ({}, {"sort": "price:asc"}, "NOT_RELEVANCE_SORTED"),
        ({"sort": "_score"}, {"sort": "price"}, "NOT_RELEVANCE_SORTED"),
        ({"search_after": [1.5]}, {}, "NOT_RELEVANCE_SORTED"),
        ({"search_after": [1.5], "size": 0}, {}, "NO_CANDIDATES"),
        ({"slice": {"id": 0, "max": 2}}, {}, "NOT_RELEVANCE_SORTED"),
        ({}, {"scroll": "1m"}, "NOT_RELEVANCE_SORTED"),
        ({"from": WINDOW}, {}, "BEYOND_WINDOW"),
        ({"from": WINDOW + 5}, {}, "BEYOND_WINDOW"),
    ],
)
async def test_skipped_not_spoilt(serve: Serve, body: Json, params: dict[str, str], reason: str) -> None:
    """The app's own body and parameters reach the engine unchanged, and its own hits come back, none scored."""
    connector, scorer = RecordingConnector(orchard()), WordOverlapScorer()
    async with serve(scorer, connector=connector, configured=windowed()) as (client, _):
        page = await client.search("docs", QUERY, {**MATCH, **body}, params=params)
    assert (page.outcome, page.reason) == ("SKIPPED", reason)
    walks = reason == "NOT_RELEVANCE_SORTED" and "search_after" in body
    assert ("page by `from` and `size`" in page.message.meta.detail) == walks
    assert connector.asked == [("docs", {**MATCH, **body}, params)]
    start = body.get("from", 0)
    assert [result.original_rank for result in page.results] == list(range(start, start + len(page.hits)))
    assert scorer.calls == 0


@pytest.mark.parametrize("sort", ["_score", ["_score"], [{"_score": "desc"}], {"_score": {"order": "desc"}}, [], None])
async def test_sorted_by_relevance_in_any_spelling_is_reranked(serve: Serve, sort: Any) -> None:
    async with serve(connector=RecordingConnector(orchard()), configured=windowed()) as (client, _):
        assert (await client.search("docs", QUERY, {**MATCH, "sort": sort})).outcome == "RERANKED"


def hits_of(*scores: float | None) -> Json:
    rows = [
        {"_index": "docs", "_id": f"h{place}", "_score": score, "_source": {"body": "apple " * place}}
        for place, score in enumerate(scores)
    ]
    return {"took": 3, "timed_out": False, "hits": {"total": {"value": 3, "relation": "eq"}, "hits": rows}}


@pytest.mark.parametrize("scores", [(None, None, None), (2.0, None, 1.0)])
async def test_hits_without_scores_are_not_touched(serve: Serve, scores: tuple[float | None, ...]) -> None:
    answer = hits_of(*scores)
    canned = MemoryConnector("main", {"docs": {}}, faults=[Fault(answer=answer, on="search")])
    async with serve(connector=canned) as (client, _):
        page = await client.search("docs", QUERY, MATCH)
    assert (page.outcome, page.reason) == ("SKIPPED", "NOT_RELEVANCE_SORTED")
    assert page.response == answer
    assert [result.HasField("original_score") for result in page.results] == [score is not None for score in scores]


@pytest.mark.parametrize("count", [0, 1])
async def test_fewer_than_two_hits_are_not_touched(serve: Serve, count: int) -> None:
    answer, scorer = hits_of(*[1.0] * count), WordOverlapScorer()
    canned = MemoryConnector("main", {"docs": {}}, faults=[Fault(answer=answer, on="search")])
    async with serve(scorer, connector=canned) as (client, _):
        page = await client.search("docs", QUERY, MATCH)
    assert (page.outcome, page.reason, page.response) == ("SKIPPED", "NO_CANDIDATES", answer)
    assert scorer.calls == 0


async def test_everything_else_in_the_engines_answer_survives(serve: Serve) -> None:
    answer = hits_of(3.5, 2.0, 1.0)
    answer |= {"_shards": {"total": 5}, "aggregations": {"by": {"buckets": []}}, "suggest": {"s": []}, "pit_id": "abc"}
    answer |= {"took": 2**53 + 1, "profile": {"x": 0.1 + 0.2}, "_clusters": None}
    answer["hits"]["max_score"] = 3.5
    for row in answer["hits"]["hits"]:
        row |= {"highlight": {"body": ["<em>apple</em>"]}, "inner_hits": {}, "matched_queries": ["q"], "sort": [1.5]}
    canned = MemoryConnector("main", {"docs": {}}, faults=[Fault(answer=answer, on="search")])
    async with serve(connector=canned) as (client, _):
        page = await client.search("docs", "apple", MATCH)
    assert page.outcome == "RERANKED"
    got = page.response
    assert sorted(got["hits"]["hits"], key=str) == sorted(answer["hits"]["hits"], key=str)
    got["hits"]["hits"] = answer["hits"]["hits"]
    assert json.dumps(got) == json.dumps(answer)


async def test_min_score_makes_pages_short_and_repeats_nothing(serve: Serve) -> None:
    """What falls below is left out of its own page; the pages put together are the long one."""
    async with serve(connector=engine(), configured=windowed(min_score=0.5)) as (client, _):
        whole = await client.search("docs", QUERY, {**MATCH, "size": TOTAL})
        together: list[str] = []
        for start in range(0, TOTAL, 4):
            together += ids(await client.search("docs", QUERY, {**MATCH, "from": start, "size": 4}))
        everything = await client.search("docs", QUERY, {**MATCH, "size": TOTAL}, options=pb.Options(min_score=0.0))
    assert together == ids(whole)
    assert len(ids(everything)) == TOTAL
    assert TOTAL - WINDOW < len(together) < TOTAL
    assert all(result.relevance_score >= 0.5 for result in whole.results if result.HasField("relevance_score"))
    assert ids(whole)[-(TOTAL - WINDOW) :] == ids(everything)[WINDOW:]


@pytest.mark.parametrize("pinned", [["o0"], ["o0", "o1"], ["o4"], ["o0", "o5", "o9"], [f"o{n}" for n in range(WINDOW)]])
async def test_pinned_hits_keep_their_rank_on_every_page(serve: Serve, pinned: list[str]) -> None:
    original = await engine_ids({**MATCH, "size": TOTAL}, orchard())
    together: list[str] = []
    async with serve(connector=engine(), configured=windowed()) as (client, _):
        for start in range(0, TOTAL, 3):
            options = pb.Options(pinned_ids=pinned)
            page = await client.search("docs", QUERY, {**MATCH, "from": start, "size": 3}, options=options)
            together += ids(page)
            assert not any(result.HasField("relevance_score") for result in page.results if result.id in pinned)
    assert sorted(together) == sorted(original)
    for key in pinned:
        assert together.index(key) == original.index(key)


async def test_a_narrower_window_is_a_window(serve: Serve) -> None:
    original = await engine_ids({**MATCH, "size": TOTAL}, orchard())
    async with serve(connector=engine(), configured=windowed()) as (client, _):
        options = pb.Options(rank_window_size=3)
        page = await client.search("docs", QUERY, {**MATCH, "size": 8}, options=options)
        assert ids(page)[3:] == original[3:8]
        assert (page.message.meta.candidates, page.message.meta.scored) == (3, 3)


async def test_a_point_in_time_is_searched_without_an_index(serve: Serve) -> None:
    """The engines refuse an index beside a point in time; the request's index still selects the policy."""
    connector = RecordingConnector(orchard())
    body = {**MATCH, "pit": {"id": "abc"}}
    async with serve(connector=connector, configured=windowed()) as (client, _):
        page = await client.search("docs", QUERY, body)
    assert page.outcome == "RERANKED"
    assert connector.asked == [("", {**body, "from": 0, "size": WINDOW}, {})]
