"""Pages on real engines: whatever becomes of the scoring, a page is one slice of one order, and none is lost."""

import random
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pytest

from connectors.hits import Json
from sidecar.client import Page, RerankClient, search_request
from sidecar.scoring.base import Pair, Scores
from sidecar.scoring.fake import WordOverlapScorer
from sidecar.v1 import rerank_pb2 as pb
from tests.engines.asking import Refused, direct, points_in_time, through
from tests.engines.conftest import SidecarOn
from tests.engines.engine import Engine, Indices, indices

WINDOW, TOTAL = 10, 29
QUERY = "apple keeps well"
MATCH: Json = {"query": {"match": {"body": "apple"}}}
SIZES = [*range(1, WINDOW + 4), TOTAL, TOTAL + 5]
PATIENT = {"budget_ms": 30_000, "limits": {"budget_ms": 30_000}}
SHORT_MS = 120


def orchard() -> dict[str, Json]:
    """Documents that the engine ranks by how often they say apple, some of them alike, and the model by the rest."""
    extra = ["", "keeps", "keeps well", "well", ""]
    return {
        f"o{number}": {"body": "apple " * (TOTAL - number // 2) + extra[number % 5] + " tree" * (number // 2)}
        for number in range(TOTAL)
    }


@pytest.fixture(scope="module")
def trees(engine: Engine) -> Iterator[str]:
    """An index of three shards that no test changes."""
    with indices(engine) as names:
        yield names("trees", {"settings": {"number_of_shards": 3}}, orchard())


@asynccontextmanager
async def either(engine: Engine, index: str, in_time: bool) -> AsyncIterator[Json]:
    """The body of a search on the index, or on a point in time of it."""
    async with direct(engine) as straight, points_in_time(engine, straight, [index] if in_time else []) as pits:
        yield {**MATCH, **({"pit": pits[index]} if in_time else {})}


@dataclass
class Dice:
    """Lets the scorer fail on some pages, in one of three ways, and be well on others."""

    scorer: WordOverlapScorer
    dice: random.Random = field(default_factory=lambda: random.Random(11))
    thrown: list[str] = field(default_factory=list)

    async def throw(self, ask: Callable[[pb.Options], Awaitable[Page]]) -> Page:
        """Ask for a page while the scorer is as the dice say; what holds it is over when the page is there."""
        over = threading.Event()

        def raises(_: int, __: Sequence[Pair]) -> Scores:
            raise RuntimeError

        def late(_: int, __: Sequence[Pair]) -> None:
            over.wait(30)

        faults = {"well": None, "raises": raises, "nan": lambda _, pairs: np.full(len(pairs), np.nan), "late": late}
        self.thrown.append(self.dice.choice(list(faults)))
        self.scorer.fault = faults[self.thrown[-1]]
        try:
            return await ask(pb.Options(budget_ms=SHORT_MS) if self.thrown[-1] == "late" else pb.Options())
        finally:
            over.set()


def ids(page: Page) -> list[str]:
    """The page's hits, which are also its results."""
    found = [str(hit["_id"]) for hit in page.hits]
    assert found == [result.id for result in page.results]
    assert page.response["hits"]["total"] == {"value": TOTAL, "relation": "eq"}
    return found


async def page_of(client: RerankClient, index: str, body: Json, options: pb.Options | None = None) -> Page:
    return await client.search(index, QUERY, body, options=options, timeout_s=60)


async def orders(client: RerankClient, index: str, body: Json) -> tuple[list[str], list[str]]:
    """The engine's order of all hits, and the reranked one."""
    whole = await page_of(client, index, {**body, "size": TOTAL})
    assert whole.outcome == "RERANKED"
    by_rank = sorted(whole.results, key=lambda result: result.original_rank)
    assert [result.original_rank for result in by_rank] == list(range(TOTAL))
    return [result.id for result in by_rank], ids(whole)


def windowed(**policy: Any) -> Json:
    return {"rank_window_size": WINDOW, "text": {"fields": ["body"]}, **PATIENT, **policy}


@pytest.mark.parametrize("in_time", [False, True], ids=["index", "point-in-time"])
async def test_pages_of_every_size_put_together_are_the_whole(
    engine: Engine, trees: str, sidecar_on: SidecarOn, in_time: bool
) -> None:
    async with either(engine, trees, in_time) as body, sidecar_on(engine, policy=windowed()) as (client, _):
        original, whole = await orders(client, trees, body)
        assert whole != original
        assert sorted(whole[:WINDOW]) == sorted(original[:WINDOW])
        assert whole[WINDOW:] == original[WINDOW:]
        for size in SIZES:
            pages = [
                await page_of(client, trees, {**body, "from": start, "size": size}) for start in range(0, TOTAL, size)
            ]
            assert [key for page in pages for key in ids(page)] == whole
            reasons = ["UNSPECIFIED" if start < WINDOW else "BEYOND_WINDOW" for start in range(0, TOTAL, size)]
            assert [page.reason for page in pages] == reasons


@pytest.mark.parametrize("in_time", [False, True], ids=["index", "point-in-time"])
async def test_kept_orders_make_pages_agree_while_scoring_fails(
    engine: Engine, trees: str, sidecar_on: SidecarOn, in_time: bool
) -> None:
    """No hit is lost or shown twice, whichever pages fail: the first page decides for all."""
    scorer = WordOverlapScorer()
    dice = Dice(scorer)
    async with (
        either(engine, trees, in_time) as body,
        sidecar_on(engine, policy=windowed(order_cache_s=600), scorer=scorer) as (client, _),
    ):
        original, whole = await orders(client, trees, body)
        for size in SIZES:
            query = {**body, "query": {"bool": {"must": [MATCH["query"]], "boost": size + 1}}}  # other scores
            starts = range(0, TOTAL, size)
            asked = [{**query, "from": start, "size": size} for start in starts]
            pages = [await dice.throw(partial(page_of, client, trees, one)) for one in asked]
            together = [key for page in pages for key in ids(page)]
            assert together in (original, whole), f"size {size}: {dice.thrown[-len(pages) :]}"
            remembered = [page.message.meta.remembered for page in pages]
            assert remembered == [0 < start < WINDOW for start in starts]
    assert set(dice.thrown) == {"well", "raises", "nan", "late"}


async def test_without_them_each_page_is_a_slice_of_one_of_both_orders(
    engine: Engine, trees: str, sidecar_on: SidecarOn
) -> None:
    scorer = WordOverlapScorer()
    dice, seen = Dice(scorer), set()
    async with sidecar_on(engine, policy=windowed(), scorer=scorer) as (client, _):
        original, whole = await orders(client, trees, MATCH)
        for size in SIZES:
            for start in range(0, TOTAL, size):
                body = {**MATCH, "from": start, "size": size}
                page = await dice.throw(partial(page_of, client, trees, body))
                order = whole if page.outcome == "RERANKED" else original
                assert ids(page) == order[start : start + size]
                assert not page.message.meta.remembered
                seen.add(page.reason)
    assert seen >= {"UNSPECIFIED", "MODEL_ERROR", "NON_FINITE_SCORE", "BUDGET_EXHAUSTED", "BEYOND_WINDOW"}


@pytest.mark.parametrize("cache_s", [0, 600])
async def test_progressive_pages_put_together_are_the_whole(
    engine: Engine, trees: str, sidecar_on: SidecarOn, cache_s: int
) -> None:
    """Stage by stage: the engine's order, and the final one."""
    async with sidecar_on(engine, policy=windowed(order_cache_s=cache_s)) as (client, _):
        original, whole = await orders(client, trees, MATCH)
        for size in (1, 4, WINDOW, WINDOW + 3):
            stages: list[list[Page]] = []
            for start in range(0, TOTAL, size):
                body = {**MATCH, "from": start, "size": size}
                stages.append([page async for page in client.search_progressive(trees, QUERY, body, timeout_s=60)])
            assert [key for first, _ in stages for key in ids(first)] == original
            assert [key for _, final in stages for key in ids(final)] == whole


class TestChange:
    """An order that is kept does not outlive a change of the index that shows in the window."""

    @pytest.fixture
    def changing(self, index_name: Indices) -> str:
        return index_name("changing", {"settings": {"number_of_shards": 2}}, orchard())

    async def _first(self, client: RerankClient, index: str, body: Json = MATCH) -> Page:
        await page_of(client, index, {**body, "size": 4})
        page = await page_of(client, index, {**body, "from": 4, "size": 4})
        assert page.message.meta.remembered
        return page

    @pytest.mark.parametrize(
        "change",
        [{"new": {"body": "apple " * 40 + "keeps well"}}, {"o1": {"body": "apple"}}, {"o3": {"body": "pear"}}],
        ids=["added", "sinks", "leaves"],
    )
    async def test_a_document_that_comes_or_goes_ends_it(
        self, engine: Engine, changing: str, sidecar_on: SidecarOn, change: dict[str, Json]
    ) -> None:
        async with sidecar_on(engine, policy=windowed(order_cache_s=600)) as (client, _):
            await self._first(client, changing)
            engine.bulk(changing, change)
            second = await page_of(client, changing, {**MATCH, "from": 4, "size": 4})
            assert (second.outcome, second.message.meta.remembered) == ("RERANKED", False)
            whole = await page_of(client, changing, {**MATCH, "size": TOTAL + 1})
            assert [hit["_id"] for hit in second.hits] == [hit["_id"] for hit in whole.hits][4:8]

    async def test_an_unseen_change_ends_it_where_hits_tell_their_version(
        self, engine: Engine, changing: str, sidecar_on: SidecarOn
    ) -> None:
        """The new text has the same score; ``seq_no_primary_term`` or ``version`` in the body shows it all the same."""
        told = {**MATCH, "seq_no_primary_term": True}
        async with sidecar_on(engine, policy=windowed(order_cache_s=600)) as (client, _):
            await self._first(client, changing, told)
            engine.bulk(changing, {"o2": {**orchard()["o2"], "unsearched": "changed"}})
            page = await page_of(client, changing, {**told, "from": 4, "size": 4})
            assert not page.message.meta.remembered

    async def test_a_point_in_time_does_not_change(self, engine: Engine, changing: str, sidecar_on: SidecarOn) -> None:
        async with (
            either(engine, changing, True) as body,
            sidecar_on(engine, policy=windowed(order_cache_s=600)) as (client, _),
        ):
            before = await self._first(client, changing, body)
            engine.bulk(changing, {"new": {"body": "apple " * 40 + "keeps well"}})
            after = await page_of(client, changing, {**body, "from": 4, "size": 4})
            assert after.message.meta.remembered
            assert after.hits == before.hits


async def test_users_do_not_share_orders(engine: Engine, trees: str, sidecar_on: SidecarOn) -> None:
    """Where the end user's rights are forwarded, one user's order is never taken for another."""
    forwarding = {"type": engine.kind, "hosts": [engine.url], "forward_authorization": True}
    if engine.secured:
        pytest.skip("this cluster knows no made-up users")
    async with sidecar_on(engine, policy=windowed(order_cache_s=600), connectors={"main": forwarding}) as (client, _):

        async def remembered(start: int, user: str) -> bool:
            message = search_request(trees, QUERY, {**MATCH, "from": start, "size": 4})
            reply = await client.stub.Search(message, metadata=(("authorization", f"Bearer {user}"),), timeout=60)
            assert reply.outcome == pb.OUTCOME_RERANKED
            return bool(reply.meta.remembered)

        assert not await remembered(0, "ann")
        assert not await remembered(4, "bob")
        assert await remembered(4, "ann")
        assert await remembered(4, "bob")


class TestWindows:
    async def test_a_page_across_the_windows_end(self, engine: Engine, trees: str, sidecar_on: SidecarOn) -> None:
        async with sidecar_on(engine, policy=windowed()) as (client, _):
            _, whole = await orders(client, trees, MATCH)
            page = await page_of(client, trees, {**MATCH, "from": WINDOW - 2, "size": 5})
        assert ids(page) == whole[WINDOW - 2 : WINDOW + 3]
        assert [result.HasField("relevance_score") for result in page.results] == [True, True, False, False, False]

    async def test_behind_the_window_the_engines_own_page(
        self, engine: Engine, trees: str, sidecar_on: SidecarOn
    ) -> None:
        async with sidecar_on(engine, policy=windowed()) as (client, _), direct(engine) as straight:
            for start in (WINDOW, WINDOW + 5, TOTAL - 1, TOTAL, 500):
                body = {**MATCH, "from": start, "size": 3}
                page = await page_of(client, trees, body)
                assert (page.outcome, page.reason) == ("SKIPPED", "BEYOND_WINDOW")
                assert page.hits == (await straight.search(trees, body)).hits

    async def test_fewer_hits_than_the_window_holds(self, engine: Engine, trees: str, sidecar_on: SidecarOn) -> None:
        body = {"query": {"ids": {"values": ["o1", "o4", "o7"]}}}
        async with sidecar_on(engine, policy=windowed()) as (client, _):
            pages = [await page_of(client, trees, {**body, "from": start, "size": 2}) for start in (0, 2, 4)]
        assert [len(page.hits) for page in pages] == [2, 1, 0]
        assert {hit["_id"] for page in pages for hit in page.hits} == {"o1", "o4", "o7"}
        assert [page.outcome for page in pages] == ["RERANKED"] * 3

    @pytest.mark.parametrize("which", ["alone", "beside another"])
    async def test_a_window_that_the_index_refuses(
        self, engine: Engine, trees: str, index_name: Indices, sidecar_on: SidecarOn, which: str
    ) -> None:
        """Also where only one of two indices refuses it, and the engine answers for the other."""
        small = index_name("small", {"settings": {"index.max_result_window": 12}}, orchard())
        index = small if which == "alone" else f"{trees},{small}"
        async with (
            sidecar_on(engine, policy=windowed(rank_window_size=20)) as (client, _),
            direct(engine) as straight,
        ):
            for start, size in ((0, 5), (3, 9)):
                body = {**MATCH, "from": start, "size": size}
                page = await page_of(client, index, body)
                assert (page.outcome, page.reason) == ("SKIPPED", "WINDOW_REFUSED")
                own = await straight.search(index, body)
                assert page.hits == own.hits
                assert page.response["_shards"] == own.value["_shards"]
            within = await page_of(client, index, {**MATCH, "size": 5}, pb.Options(rank_window_size=12))
            assert within.outcome == "RERANKED"

    async def test_a_page_that_the_index_refuses_is_refused(
        self, engine: Engine, trees: str, sidecar_on: SidecarOn
    ) -> None:
        body = {**MATCH, "from": 5, "size": 10_000}
        async with sidecar_on(engine, policy=windowed()) as (client, _):
            with pytest.raises(Refused, match="Result window is too large") as refused:
                await through(client, trees, QUERY, body)
        assert refused.value.code == "INVALID_ARGUMENT"


_KNN: Json = {"knn": {"field": "vec", "query_vector": [1, 3], "num_candidates": TOTAL}}
KNN: dict[str, Json] = {
    "knn": _KNN,
    "query": {"query": _KNN},
    "retriever": {"retriever": {"standard": {"query": _KNN}}},
}


class TestWiderThanAsked:
    """Where the engine takes other numbers from ``size``, or leaves something out, see tests/engines/compare.py."""

    async def test_source_of_scripts(self, engine: Engine, trees: str, sidecar_on: SidecarOn) -> None:
        """With ``script_fields`` the engines leave out ``_source``, unless it is asked for: it has to be fetched."""
        engine.needs("painless")
        body = {**MATCH, "script_fields": {"one": {"script": {"source": "1"}}}}
        async with sidecar_on(engine, policy=windowed()) as (client, _):
            page = await page_of(client, trees, body)
        assert (page.outcome, page.reason) == ("RERANKED", "UNSPECIFIED")
        assert all(set(hit) == {"_index", "_id", "_score", "fields"} for hit in page.hits)

    @pytest.mark.parametrize(
        ("place", "sizes", "params"),
        [
            *((place, sizes, {}) for place in KNN for sizes in ({"size": 4}, {})),
            ("query", {"size": 6}, {"size": "4"}),
            ("retriever", {"size": 6}, {"size": "4"}),
            ("knn", {"size": 6}, {"size": "4"}),
        ],
        ids=str,
    )
    async def test_a_knn_search_without_k_finds_as_many_as_without_the_sidecar(
        self,
        engine: Engine,
        index_name: Indices,
        sidecar_on: SidecarOn,
        place: str,
        sizes: Json,
        params: dict[str, str],
    ) -> None:
        if engine.kind == "opensearch":
            pytest.skip("OpenSearch has no `knn` section")
        vector = {"type": "dense_vector", "dims": 2, "index": True, "similarity": "l2_norm"}
        rows = {key: {**row, "vec": [1, nth]} for nth, (key, row) in enumerate(orchard().items())}
        index = index_name("vectors", {"mappings": {"properties": {"vec": vector}}}, rows)
        body = {**KNN[place], **sizes}
        policy = windowed(rank_window_size=20)
        async with sidecar_on(engine, policy=policy) as (client, _), direct(engine) as straight:
            page = await client.search(index, QUERY, body, params=params, timeout_s=60)
            own = await straight.search(index, body, params)
        assert page.outcome == "RERANKED"
        assert page.response["hits"]["total"] == own.value["hits"]["total"]
        assert len(page.hits) == len(own.hits)

    async def test_a_rescorer_without_size_gives_as_many_as_without_the_sidecar(
        self, engine: Engine, trees: str, sidecar_on: SidecarOn
    ) -> None:
        if engine.kind == "opensearch":
            pytest.skip("OpenSearch has no retrievers")
        rescore = {"window_size": 20, "query": {"rescore_query": MATCH["query"]}}
        body = {"retriever": {"rescorer": {"retriever": {"standard": MATCH}, "rescore": rescore}}}
        async with sidecar_on(engine, policy=windowed()) as (client, _), direct(engine) as straight:
            page = await page_of(client, trees, body)
            own = await straight.search(trees, body)
        assert len(page.hits) == len(own.hits)
