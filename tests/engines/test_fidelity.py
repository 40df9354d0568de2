"""Hundreds of searches drawn at random, sent straight to a real engine and through the sidecar, compared as texts.

``SEED`` in the environment draws others. A failing search is told by its number and made smaller first.
"""

import json
import os
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import pytest

from connectors.hits import Json
from sidecar.client import RerankClient
from sidecar.scoring.base import Scorer
from sidecar.scoring.fake import WordOverlapScorer
from sidecar.v1 import rerank_pb2 as pb
from tests.engines import compare
from tests.engines.asking import Direct, HashScorer, Refused, direct, overlap, points_in_time, through
from tests.engines.bodies import Search, draw
from tests.engines.compare import Answer, Page
from tests.engines.conftest import SidecarOn
from tests.engines.corpus import Corpus, build
from tests.engines.engine import Engine, indices

SEED = int(os.environ.get("SEED", "20260101"))
BLOCK = 50
BLOCKS = [("off", range(8)), ("hash", range(8)), ("overlap", range(8, 12))]
TRIES = 4
WINDOWS = (12, 12, 30, 2, 1)
QUERY = "apple winter storage pear"
PATIENT = {"budget_ms": 60_000, "limits": {"budget_ms": 60_000, "rank_window_size": 100}}
POLICIES: Json = {
    "on": {"text": {"fields": ["title", "body"]}, "fusion": {"method": "replace"}, "rank_window_size": 30, **PATIENT},
    "off": {"text": {"fields": ["title", "body"]}, "enabled": False},
}
SCORERS: dict[str, tuple[Callable[[], Scorer], Callable[[str], float]]] = {
    "hash": (HashScorer, partial(HashScorer().foretold, QUERY)),
    "overlap": (WordOverlapScorer, partial(overlap, QUERY)),
}

Check = Callable[[Search], Awaitable[list[str]]]


@pytest.fixture(scope="module")
def corpus(engine: Engine) -> Iterator[Corpus]:
    """The corpus, once for each engine."""
    with indices(engine) as names:
        yield build(engine, names)


@dataclass
class Both:
    """The same search both ways."""

    corpus: Corpus
    engine: Direct
    client: RerankClient
    foretold: Callable[[str], float]
    pits: dict[str, Json]

    async def complaints(self, way: Check, search: Search) -> list[str]:
        """Complaints that stay when it is searched again: an engine does not always tell the same of one search.

        It may skip more or less of a sorted shard, and so see another ``max_score``, or write keys in another order.
        """
        told: list[str] = []
        for _ in range(TRIES):
            try:
                told = await way(search)
            except Refused as refusal:
                told = [f"refused: {refusal}"]
            if not told:
                break
        return told

    async def off(self, search: Search) -> list[str]:
        """Complaints about a search whose policy is not enabled."""
        try:
            own = await self._straight(search)
        except Refused as refusal:
            return await self._refused(search, "off", refusal)
        got = await self._sidecar(search, "off")
        odd = [] if got.reason == "POLICY_DISABLED" else [f"{got.outcome} {got.reason}"]
        return odd + compare.passed_on(own, Page.of(search.body, search.params), got)

    async def on(self, window: int, search: Search) -> list[str]:
        """Complaints about a search whose hits are reranked, or a good reason is told why not."""
        try:
            own = await self._straight(search)
        except Refused as refusal:
            return await self._refused(search, "on", refusal)
        page = Page.of(search.body, search.params)
        got = await self._sidecar(search, "on", window)
        sized = "size" in {**search.body, **search.params} or "rescorer" not in search.body.get("retriever", {})
        window = compare.rescored(search.body, window)
        reason = compare.skip_of(search.body, search.params, page, window) if sized else "WINDOW_REFUSED"
        wide = None if reason else await self._wide(search, page, window)
        if wide is None:
            reason = reason or "WINDOW_REFUSED"
            odd = [] if got.reason == reason else [f"{got.outcome} {got.reason} instead of {reason}"]
            return odd + compare.passed_on(own, page, got)
        expected = compare.ranked(wide, window, self._texts(search), self.foretold)
        return compare.reranked(own, wide, page, expected, got)

    async def _straight(self, search: Search) -> Answer:
        return await self.engine.search(search.index, self._body(search), search.params)

    async def _wide(self, search: Search, page: Page, window: int) -> Answer | None:
        """The engine's answer for the window and the page, if it gives one."""
        body = {**compare.with_k(self._body(search), page.size), "from": 0, "size": max(window, page.start + page.size)}
        params = {name: value for name, value in search.params.items() if name not in ("from", "size")}
        try:
            answer = await self.engine.search(search.index, body, params)
        except Refused:
            return None
        return None if "max_result_window" in answer.rest else answer

    async def _sidecar(self, search: Search, policy: str, window: int | None = None) -> compare.Reply:
        options = pb.Options(policy=policy, rank_window_size=window)
        return await through(self.client, search.index, QUERY, self._body(search), search.params, options)

    async def _refused(self, search: Search, policy: str, refusal: Refused) -> list[str]:
        """Complaints where the sidecar does not refuse what the engine refuses, for the engine's reason."""
        try:
            got = await self._sidecar(search, policy)
        except Refused as ours:
            same = ours.kind == refusal.kind or ours.kind == "INVALID_REQUEST"
            good = same and ours.code == ("UNAVAILABLE" if refusal.code.startswith("5") else "INVALID_ARGUMENT")
            return [] if good else [f"refused as {ours} instead of {refusal}"]
        return [f"{got.outcome} {got.reason}, but the engine says {refusal}"]

    def _texts(self, search: Search) -> dict[tuple[str, str], str]:
        """All that can be read: a hit without its routing cannot be fetched, and one without a source has to be."""
        texts, routed = self.corpus.texts, self.corpus.names["routed"]
        if search.body.get("stored_fields") != "_none_":
            return texts
        return {key: text for key, text in texts.items() if key[0] != routed}

    def _body(self, search: Search) -> Json:
        return {**search.body, "pit": self.pits[search.index]} if search.pit else search.body


async def reduced(search: Search, check: Check) -> Search:
    """A search that still fails without any one key of its body or parameters."""
    for key in list(search.body):
        smaller = replace(search, body={name: value for name, value in search.body.items() if name != key})
        if await _fails(check, smaller):
            search = smaller
    for key in list(search.params):
        smaller = replace(search, params={name: value for name, value in search.params.items() if name != key})
        if await _fails(check, smaller):
            search = smaller
    return search


async def _fails(check: Check, search: Search) -> bool:
    try:
        return bool(await check(search))
    except Refused:
        return False


async def _report(number: int, search: Search, check: Check, told: list[str]) -> str:
    smaller = await reduced(search, check)
    told = await check(smaller) or told
    where = f"{smaller.index}{' in a point in time' if smaller.pit else ''} {smaller.params}"
    return "\n    ".join([f"seed {SEED}, number {number}: {where}", json.dumps(smaller.body), *told])


@pytest.mark.parametrize(("way", "block"), [(way, block) for way, blocks in BLOCKS for block in blocks])
async def test_what_the_engine_answers_comes_back(
    engine: Engine, corpus: Corpus, sidecar_on: SidecarOn, way: str, block: int
) -> None:
    """Off: to the letter. On: each hit to the letter, in the order that the scores give."""
    make, foretold = SCORERS.get(way, SCORERS["hash"])
    async with (
        direct(engine) as straight,
        sidecar_on(engine, scorer=make(), policies=POLICIES, default_policy="off") as (client, _),
        points_in_time(engine, straight, corpus.expressions) as pits,
    ):
        both = Both(corpus, straight, client, foretold, pits)
        complaints = []
        for number in range(block * BLOCK, (block + 1) * BLOCK):
            search = draw(SEED, number, corpus)
            check = partial(
                both.complaints, both.off if way == "off" else partial(both.on, WINDOWS[number % len(WINDOWS)])
            )
            if told := await check(search):
                complaints.append(await _report(number, search, check, told))
    assert not complaints, f"{len(complaints)} of {BLOCK} searches:\n" + "\n".join(complaints[:10])


async def test_a_search_that_only_the_window_breaks_is_answered(
    engine: Engine, corpus: Corpus, sidecar_on: SidecarOn
) -> None:
    """OpenSearch cannot merge collapsed hits and completions of some sizes: without the sidecar, this one works."""
    if engine.kind != "opensearch":
        pytest.skip("only OpenSearch is known to fail here")
    query = {"multi_match": {"query": "orchard quince storage", "fields": ["title^2", "body"], "tie_breaker": 0.3}}
    completion = {"prefix": "a", "completion": {"field": "hint", "size": 3, "skip_duplicates": True}}
    body = {"query": query, "collapse": {"field": "code"}, "size": 3, "suggest": {"hints": completion}}
    async with (
        direct(engine) as straight,
        sidecar_on(engine, policies=POLICIES, default_policy="on") as (client, _),
    ):
        own = await straight.search(corpus.names["main"], body)
        got = await through(client, corpus.names["main"], QUERY, body)
    assert got.reason == "WINDOW_REFUSED"
    assert compare.passed_on(own, Page(0, 3), got) == []
