"""Cancellation, deadlines and shutdown: what always holds, one invariant a test (F1 to F8 of the design)."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from connectors.hits import Hits, Json
from connectors.memory import MemoryConnector
from sidecar.app import App
from sidecar.batching import Limits
from sidecar.client import RerankClient, search_request
from sidecar.cost import CostModel
from sidecar.deadline import Deadline
from sidecar.errors import BudgetExhausted, Fallback, ModelError
from sidecar.loaded import LoadedModel
from sidecar.metrics import Metrics
from sidecar.scheduler import STALLED_AFTER_S, Scheduler
from sidecar.scoring.base import Pair, Scores
from sidecar.scoring.fake import WordOverlapScorer
from sidecar.v1 import rerank_pb2 as pb
from tests.calls import (
    BODY,
    BUDGET_S,
    PATIENCE_S,
    QUERY,
    Held,
    assert_engines_order,
    queued_pairs,
    quick,
    reply,
    request_id_of,
    score,
    search,
    status,
    until,
    within,
)
from tests.conftest import DOCUMENTS, Serve

SOURCES = Path(__file__).parents[2] / "sidecar"


class TestFacts:
    async def test_f1_the_fallback_is_there_before_the_clients_deadline(self, serve: Serve) -> None:
        """grpc cancels the handler at the client's deadline: the engine's order leaves ``reserve_ms`` before it."""
        configured = quick({"budget_ms": 5000}, server={"reserve_ms": 200})
        with Held() as hanging:
            async with serve(WordOverlapScorer(fault=hanging), configured=configured) as (client, _):
                page = await client.search("docs", QUERY, BODY, timeout_s=0.5)
                hanging.release()
        await assert_engines_order(reply(page.message), "ORIGINAL_ORDER", "BUDGET_EXHAUSTED")

    async def test_f2_without_a_client_deadline_the_policys_budget_holds(self, serve: Serve) -> None:
        """A call without a deadline has no ``time_remaining``; it is bounded by its policy all the same."""
        with Held() as hanging:
            async with serve(WordOverlapScorer(fault=hanging), configured=quick()) as (client, _):
                async with within(BUDGET_S):
                    message = await client.stub.Search(search_request("docs", QUERY, BODY))
                hanging.release()
        await assert_engines_order(reply(message), "ORIGINAL_ORDER", "BUDGET_EXHAUSTED")

    async def test_f3_a_shed_job_ends_with_a_typed_error_never_cancelled(self) -> None:
        """A job that is given up while it waits is answered at once, by an exception that a handler can catch."""
        with Held(first=1) as hanging:
            async with scheduler() as (made, _):
                model = model_of(WordOverlapScorer(fault=hanging))
                first = asyncio.create_task(score(made, model, groups(model, 2), in_s(PATIENCE_S)))
                await hanging.entered()
                late = asyncio.create_task(score(made, model, groups(model, 3), in_s(0.05)))
                await asyncio.sleep(0.1)
                hanging.release()
                await first
                with pytest.raises(BudgetExhausted):
                    await asyncio.wait_for(late, PATIENCE_S)

    async def test_f4_an_unforeseen_error_says_its_request_id_and_nothing_else(self, serve: Serve) -> None:
        """The text of an exception may hold anything; the client learns where to look in the log."""
        async with serve(connector=Unforeseen("main", {"docs": DOCUMENTS}), configured=quick()) as (client, _):
            for call in (
                client.search("docs", QUERY, BODY),
                anext(aiter(client.search_progressive("docs", QUERY, BODY))),
            ):
                failed = await status(call)
                assert failed.code() is grpc.StatusCode.INTERNAL
                assert failed.details() == f"an unforeseen fault; request id {request_id_of(failed)}"
                assert request_id_of(failed)

    def test_f5_only_the_interceptor_aborts(self) -> None:
        """``context.abort`` raises an Exception, which a broad except in a handler would swallow."""
        aborting = [path.name for path in SOURCES.rglob("*.py") if re.search(r"\.abort\(", path.read_text())]
        assert aborting == ["interceptors.py"]

    async def test_f6_stop_lets_calls_in_flight_finish_and_turns_new_ones_away(self, serve: Serve) -> None:
        """Health says NOT_SERVING first; a call in flight gets its reranked answer; a new one is UNAVAILABLE."""
        configured = quick({"budget_ms": 5000}, server={"shutdown_grace_s": 10})
        with Held() as hanging:
            async with serve(WordOverlapScorer(fault=hanging), configured=configured) as (client, app):
                async with health_watch(app) as watch:
                    assert (await anext(watch)).status == health_pb2.HealthCheckResponse.SERVING
                    in_flight = asyncio.create_task(search(client))
                    await hanging.entered()
                    stopping = asyncio.create_task(app.stop())
                    assert (await anext(watch)).status == health_pb2.HealthCheckResponse.NOT_SERVING
                    assert not in_flight.done()
                async with RerankClient(f"127.0.0.1:{app.port}") as another:
                    for newcomer in (client, another):
                        failed = await status(search(newcomer))
                        assert failed.code() is grpc.StatusCode.UNAVAILABLE
                assert not stopping.done()
                hanging.release()
                assert (await in_flight).outcome == "RERANKED"
                await asyncio.wait_for(stopping, PATIENCE_S)

    async def test_f7_one_callers_timeout_does_not_touch_who_shares_its_batch(self, serve: Serve) -> None:
        """Two calls wait for the same forward pass; the impatient one falls back, the other is reranked."""
        configured = quick({"budget_ms": 5000}, server={"reserve_ms": 0})
        with Held() as hanging:
            scorer = WordOverlapScorer(fault=hanging)
            async with serve(scorer, configured=configured) as (client, app):
                holds_the_device = asyncio.create_task(search(client))
                await hanging.entered()
                patient = asyncio.create_task(search(client))
                impatient = client.stub.Search(search_request("docs", QUERY, BODY, options=pb.Options(budget_ms=300)))
                await until(lambda: queued_pairs(app) == 10)
                assert reply(await impatient).reason == "BUDGET_EXHAUSTED"
                hanging.release()
                assert (await patient).outcome == "RERANKED"
                assert (await holds_the_device).outcome == "RERANKED"

    async def test_f7_a_result_for_a_caller_that_left_is_dropped(self) -> None:
        """Scores that come for a future already done do not end the thread of the device."""
        with Held(first=1) as hanging:
            async with scheduler() as (made, _):
                model = model_of(WordOverlapScorer(fault=hanging))
                leaving = asyncio.create_task(score(made, model, groups(model, 2), in_s(PATIENCE_S)))
                await hanging.entered()
                leaving.cancel()
                await asyncio.gather(leaving, return_exceptions=True)
                hanging.release()
                assert (await score(made, model, groups(model, 3), in_s(PATIENCE_S))).groups == 3

    @pytest.mark.parametrize("place", range(5))
    async def test_f8_one_nan_anywhere_gives_the_engines_order(self, serve: Serve, place: int) -> None:
        """A NaN misorders a sort without an error; wherever it is, none of the scores is used."""

        def fault(_: int, pairs: Sequence[Pair]) -> Scores:
            scores = np.arange(len(pairs), dtype=np.float32)
            scores[place] = np.nan
            return scores

        async with serve(WordOverlapScorer(fault=fault), configured=quick()) as (client, _):
            await assert_engines_order(await search(client), "ORIGINAL_ORDER", "NON_FINITE_SCORE")


class TestClientGone:
    async def test_while_it_waits_for_the_device(self, serve: Serve) -> None:
        """Nothing is left behind: no pair in the queue, no call counted, no work on the device."""
        configured = quick({"budget_ms": 5000}, server={"max_concurrent_calls": 2})
        with Held(first=1) as hanging:
            scorer = WordOverlapScorer(fault=hanging)
            async with serve(scorer, configured=configured) as (client, app):
                for callers_before in range(5):
                    call = asyncio.create_task(search(client))
                    await hanging.entered()
                    if callers_before:
                        await until(lambda: queued_pairs(app) == 5)
                    call.cancel()
                    await asyncio.gather(call, return_exceptions=True)
                    await until(lambda: queued_pairs(app) == 0)
                hanging.release()
                assert (await search(client)).outcome == "RERANKED"
                assert scorer.pairs_scored == 10

    @pytest.mark.parametrize("after", [0, 1])
    async def test_in_the_middle_of_a_stream(self, serve: Serve, after: int) -> None:
        """A stream that is left before or after its first message gives its place back."""
        configured = quick({"budget_ms": 5000}, server={"max_concurrent_calls": 1})
        with Held(first=1) as hanging:
            async with serve(WordOverlapScorer(fault=hanging), configured=configured) as (client, _app):
                stream = client.search_progressive("docs", QUERY, BODY)
                if after:
                    assert (await anext(stream)).outcome == "UNSPECIFIED"
                    await hanging.entered()
                else:
                    first = asyncio.ensure_future(anext(stream))
                    await asyncio.sleep(0)
                    first.cancel()
                    await asyncio.gather(first, return_exceptions=True)
                await stream.aclose()  # type: ignore[attr-defined]
                hanging.release()
                await until_served(client)

    async def test_with_a_first_message_that_is_never_read(self, serve: Serve) -> None:
        """The server waits to send a large message when the client leaves; the call's place is given back too."""
        large = {f"d{number}": {"body": "apple " * 400_000} for number in range(8)}
        configured = quick({"budget_ms": 5000}, server={"max_concurrent_calls": 1})
        connector = MemoryConnector("main", {"docs": large})
        async with serve(connector=connector, configured=configured) as (client, _):
            message = search_request("docs", QUERY, {})
            call = client.stub.SearchProgressive(pb.SearchProgressiveRequest(search=message))
            await asyncio.sleep(0.5)
            call.cancel()
            await until_served(client)


class TestStop:
    async def test_with_a_hung_scorer_ends_within_the_grace(self, serve: Serve) -> None:
        """A forward pass that never ends cannot hold the shutdown; its caller gets a status."""
        configured = quick({"budget_ms": 5000}, server={"shutdown_grace_s": 0.5})
        with Held() as hanging:
            async with serve(WordOverlapScorer(fault=hanging), configured=configured) as (client, app):
                call = asyncio.create_task(search(client))
                await hanging.entered()
                started = time.monotonic()
                await app.stop()
                assert time.monotonic() - started < 2.5
                assert (await status(call)).code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)

    async def test_with_an_open_health_watch_ends_within_the_grace(self, serve: Serve) -> None:
        """A health watcher that never leaves cannot hold the shutdown either."""
        configured = quick(server={"shutdown_grace_s": 0.5})
        async with serve(configured=configured) as (_, app), health_watch(app) as watch:
            await anext(watch)
            started = time.monotonic()
            await app.stop()
            assert time.monotonic() - started < 2.5

    async def test_when_idle_is_quick_and_can_be_repeated(self, serve: Serve) -> None:
        """There is nothing to wait for, and a second stop does no harm."""
        async with serve(configured=quick(server={"shutdown_grace_s": 60})) as (client, app):
            await search(client)
            started = time.monotonic()
            await app.stop()
            await app.stop()
            assert time.monotonic() - started < 5

    async def test_while_a_model_loads(self, serve: Serve) -> None:
        """A model that is still loading holds neither the shutdown nor the calls before it."""
        with Held() as hanging:

            def load(name: str, settings: object) -> LoadedModel:
                hanging(0, [])
                raise ValueError("too late")

            async with serve(load=load, configured=quick()) as (_, app):
                await hanging.entered()
                started = time.monotonic()
                await app.stop()
                assert time.monotonic() - started < 2.5

    async def test_the_scheduler_fails_its_waiters_and_refuses_new_jobs(self) -> None:
        """Stopping answers everyone who waits, with a typed error."""
        with Held() as hanging:
            async with scheduler() as (made, _):
                model = model_of(WordOverlapScorer(fault=hanging))
                waiters = [asyncio.create_task(score(made, model, groups(model, 2), in_s(60)))]
                await hanging.entered()
                waiters.append(asyncio.create_task(score(made, model, groups(model, 2), in_s(60))))
                await asyncio.sleep(0)
                made.stop()
                for waiter in waiters:
                    with pytest.raises(ModelError, match="stopped"):
                        await asyncio.wait_for(waiter, PATIENCE_S)
                with pytest.raises(ModelError, match="stopped"):
                    await score(made, model, groups(model, 2), in_s(60))


class TestStuckDevice:
    async def test_new_jobs_are_refused_at_once(self) -> None:
        """A pass that is overdue by STALLED_AFTER_S is taken for stuck; when it ends, all is well again."""
        now = [time.monotonic()]
        with Held(first=1) as hanging:
            async with scheduler(now) as (made, _):
                model = model_of(WordOverlapScorer(fault=hanging))
                stuck = asyncio.create_task(score(made, model, groups(model, 2), in_s(1000)))
                await hanging.entered()
                stalled = []
                for _ in range(2):
                    now[0] += STALLED_AFTER_S * 0.75
                    stalled.append(made.stalled)
                assert stalled == [False, True]
                with pytest.raises(ModelError, match="has not answered"):
                    await score(made, model, groups(model, 2), in_s(1000))
                hanging.release()
                assert (await stuck).groups == 2
                assert (await score(made, model, groups(model, 2), in_s(1000))).groups == 2


class TestBadPair:
    async def test_fails_its_own_job_only(self) -> None:
        """Jobs that share a batch with one that makes the model raise are tried again without it."""

        def fault(number: int, pairs: Sequence[Pair]) -> None:
            if number == 0:
                hanging(0, pairs)
            elif any(pair.tokens == 7 for pair in pairs):
                raise RuntimeError("bad pair")

        with Held() as hanging:
            async with scheduler() as (made, _):
                model = model_of(WordOverlapScorer(fault=fault))
                first = asyncio.create_task(score(made, model, groups(model, 1), in_s(60)))
                await hanging.entered()
                texts = ["a b c", "a b c d e", "x y z"]
                jobs = [
                    asyncio.create_task(score(made, model, [model.scorer.encode("q", [text])], in_s(60)))
                    for text in texts
                ]
                await until(lambda: len(made._queue) == 3)
                hanging.release()
                ends: list[object] = list(await asyncio.gather(first, *jobs, return_exceptions=True))
        assert [isinstance(end, Fallback) for end in ends] == [False, False, True, False]


class Unforeseen(MemoryConnector):
    """An engine whose connector has a bug."""

    async def search(
        self, index: str, body: Json, *, timeout_s: float, params: Mapping[str, str] | None = None
    ) -> Hits:
        raise KeyError("secret-password")


@asynccontextmanager
async def scheduler(now: list[float] | None = None) -> AsyncIterator[tuple[Scheduler, LoadedModel]]:
    """A scheduler that serves, by the real clock or the one given, and a model for it."""
    made = Scheduler(1000, Metrics(), (lambda: now[0]) if now else time.monotonic)
    try:
        yield made, model_of(WordOverlapScorer())
    finally:
        made.stop()


def model_of(scorer: WordOverlapScorer) -> LoadedModel:
    cost = CostModel(overhead_s=1e-4)
    return LoadedModel("default", scorer, cost, Limits(16_384, 0.05, cost.predict_s))


def groups(model: LoadedModel, count: int) -> list[list[Pair]]:
    return [[pair] for pair in model.scorer.encode("apple", [f"apple {number}" for number in range(count)])]


def in_s(seconds: float) -> Deadline:
    return Deadline(time.monotonic() + seconds)


@asynccontextmanager
async def health_watch(app: App) -> AsyncIterator[AsyncIterator[health_pb2.HealthCheckResponse]]:
    """What the health of the whole server is, and what it becomes."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{app.port}") as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        call = stub.Watch(health_pb2.HealthCheckRequest(service=""))
        try:
            yield aiter(call)
        finally:
            call.cancel()


async def until_served(client: RerankClient) -> None:
    """Wait until the one place of the server is free again."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                await client.rerank("a", ["a", "b"])
            except grpc.aio.AioRpcError as error:
                assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED  # noqa: PT017 - until it is no longer
                await asyncio.sleep(0.02)
            else:
                return
