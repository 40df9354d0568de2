"""A policy that is being tried: the same for the same key on all pages, in the shadow without any cost to calls."""

import asyncio
import threading
import time
from collections.abc import Sequence
from typing import Any

import pytest

from connectors.hits import DocumentRef
from connectors.memory import MemoryConnector
from sidecar.cost import CostModel
from sidecar.deadline import Deadline
from sidecar.reading import Reading
from sidecar.scoring.fake import WordOverlapScorer
from sidecar.v1 import rerank_pb2 as pb
from tests.calls import busy, score, until
from tests.conftest import DOCUMENTS, Serve, settings

BODY = {"query": {"match": {"body": "apple"}}}
QUERY = "apple winter"


def keyed(key: str) -> pb.Options:
    return pb.Options(key=key)


async def test_half_of_the_keys_get_the_new_order_and_keep_it_over_pages(serve: Serve) -> None:
    async with serve(WordOverlapScorer(), configured=settings({"percent": 50})) as (client, _):
        arms: dict[str, str] = {}
        for number in range(40):
            key = f"session {number}"
            for start in (0, 2):
                page = await client.search("docs", QUERY, {**BODY, "from": start, "size": 2}, options=keyed(key))
                arm = page.message.meta.arm
                assert (page.outcome, page.reason) == (
                    ("RERANKED", "UNSPECIFIED") if arm == "reranked" else ("SKIPPED", "HELD_OUT")
                )
                assert arms.setdefault(key, arm) == arm
        assert 10 <= sum(arm == "reranked" for arm in arms.values()) <= 30


async def test_a_policy_that_is_simply_on_names_no_arm(serve: Serve) -> None:
    async with serve(WordOverlapScorer()) as (client, _):
        assert (await client.search("docs", QUERY, BODY)).message.meta.arm == ""


def value(app: Any, name: str, **labels: str) -> float:
    return app.metrics.registry.get_sample_value(f"sidecar_shadow_{name}", {"policy": "default", **labels}) or 0.0


async def test_in_the_shadow_calls_have_the_engines_order_and_what_would_change_is_counted(serve: Serve) -> None:
    scorer = WordOverlapScorer()
    async with serve(scorer, configured=settings({"mode": "shadow"})) as (client, app):
        page = await client.search("docs", QUERY, BODY)
        assert (page.outcome, page.reason, page.message.meta.arm) == ("SKIPPED", "SHADOW", "shadow")
        assert [result.original_rank for result in page.results] == list(range(5))
        await until(lambda: value(app, "calls_total", end="ranked") == 1)
        assert value(app, "displacement_count") == 1
        assert value(app, "displacement_sum") > 0
        assert scorer.pairs_scored == 5


async def test_the_shadow_never_delays_or_crowds_out_a_call(serve: Serve) -> None:
    """A scorer of 50 ms a call, live and shadow calls on one device: live ones take no longer than alone."""
    policies: dict[str, dict[str, Any]] = {
        "live": {"match": [{"index": "live"}]},
        "tried": {"match": [{"index": "tried"}], "mode": "shadow"},
    }
    common = {"text": {"fields": ["title", "body"]}, "budget_ms": 400, "fusion": {"method": "replace"}}
    configured = settings(policies={name: {**common, **one} for name, one in policies.items()}, default_policy=None)
    scorer = WordOverlapScorer(seconds_per_token=6e-4)
    engine = MemoryConnector("main", {"live": DOCUMENTS, "tried": DOCUMENTS})
    cost = CostModel(overhead_s=1e-4, token_s=6e-4)
    async with serve(scorer, configured=configured, connector=engine, cost=cost) as (client, app):

        async def live(count: int) -> list[float]:
            times = []
            for number in range(count):
                started = time.monotonic()
                page = await client.search("live", f"apple w{number}", BODY)
                times.append(time.monotonic() - started)
                assert page.outcome == "RERANKED"
            return times

        async def shadowed() -> None:
            while True:
                assert (await client.search("tried", QUERY, BODY)).reason == "SHADOW"
                await asyncio.sleep(0.005)

        alone = sorted(await live(30))
        flood = asyncio.create_task(shadowed())
        beside = sorted(await live(30))
        flood.cancel()
        assert beside[15] < alone[15] + 0.03
        assert value_of(app, "dropped") > 0


def value_of(app: Any, end: str) -> float:
    found = app.metrics.registry.get_sample_value("sidecar_shadow_calls_total", {"policy": "tried", "end": end})
    return float(found or 0.0)


@pytest.mark.parametrize("fault", ["raises", "no text"])
async def test_a_shadow_that_fails_is_counted_and_costs_nothing(serve: Serve, fault: str) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("broken")

    scorer = WordOverlapScorer(fault=broken if fault == "raises" else None)
    policy = {"mode": "shadow", **({"text": {"fields": ["absent"]}} if fault == "no text" else {})}
    reason = "MODEL_ERROR" if fault == "raises" else "TEXT_UNAVAILABLE"
    async with serve(scorer, configured=settings(policy)) as (client, app):
        assert (await client.search("docs", QUERY, BODY)).reason == "SHADOW"
        await until(lambda: value(app, "calls_total", end=reason) == 1)


async def test_interleaved_hits_say_whose_draw_they_were_and_none_is_lost(serve: Serve) -> None:
    async with serve(WordOverlapScorer(), configured=settings({"mode": "interleave"})) as (client, _):
        page = await client.search("docs", QUERY, BODY, options=keyed("ann"))
        again = await client.search("docs", QUERY, BODY, options=keyed("ann"))
        assert (page.outcome, page.message.meta.arm) == ("RERANKED", "interleaved")
        assert {result.team for result in page.results} == {"engine", "reranked"}
        assert sorted(result.original_rank for result in page.results) == list(range(5))
        assert [hit["_id"] for hit in page.hits] == [hit["_id"] for hit in again.hits]
        pages = [
            await client.search("docs", QUERY, {**BODY, "from": start, "size": 2}, options=keyed("ann"))
            for start in (0, 2, 4)
        ]
        assert [hit["_id"] for one in pages for hit in one.hits] == [hit["_id"] for hit in page.hits]


async def test_each_query_of_a_session_has_a_coin_of_its_own(serve: Serve) -> None:
    """Else one toss would favour one team all through a session."""
    async with serve(WordOverlapScorer(), configured=settings({"mode": "interleave"})) as (client, _):
        pages = [await client.search("docs", f"apple w{number}", BODY, options=keyed("ann")) for number in range(30)]
    first = [page.results[0].team for page in pages]
    assert 5 <= first.count("engine") <= 25


async def test_the_shadow_begins_when_the_reply_has_left_and_in_a_thread_of_its_own(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared: list[tuple[float, str]] = []
    own = Reading._looked_up_in_thread

    def spied(self: Reading, *arguments: Any) -> Any:
        prepared.append((time.monotonic(), threading.current_thread().name))
        return own(self, *arguments)

    monkeypatch.setattr(Reading, "_looked_up_in_thread", spied)
    async with serve(WordOverlapScorer(), configured=settings({"mode": "shadow"})) as (client, app):
        await client.search("docs", QUERY, BODY)
        answered = time.monotonic()
        await until(lambda: value(app, "calls_total", end="ranked") == 1)
    [(began, thread)] = prepared
    assert began > answered
    assert thread.startswith("shadow")


async def test_the_shadow_asks_nothing_of_an_engine_while_a_call_is_scored(serve: Serve) -> None:
    fetched: list[int] = []

    class Fetching(MemoryConnector):
        async def fetch(self, refs: Sequence[DocumentRef], *arguments: Any, **named: Any) -> Any:
            fetched.append(len(refs))
            return await super().fetch(refs, *arguments, **named)

    engine, body = Fetching("main", {"docs": DOCUMENTS}), {**BODY, "_source": False}
    async with serve(WordOverlapScorer(), configured=settings({"mode": "shadow"}), connector=engine) as (client, app):
        async with busy(app.scheduler):
            live = asyncio.create_task(
                score(
                    app.scheduler,
                    app.models.get("default"),
                    [app.models.get("default").scorer.encode("a", ["b"])],
                    Deadline.earliest(time.monotonic(), 5.0),
                )
            )
            await asyncio.sleep(0)
            await client.search("docs", QUERY, body)
            await until(lambda: value(app, "calls_total", end="dropped") == 1)
        await live
        assert not fetched
        await client.search("docs", QUERY, body)
        await until(lambda: value(app, "calls_total", end="ranked") == 1)
        assert fetched, "which it does of an idle sidecar"
