"""A model whose passes all fail is left alone, told, and taken back as soon as one goes well."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from structlog.testing import capture_logs

from sidecar.app import _HEALTH_EVERY_S
from sidecar.breaker import FAILURES, OVERDUE_S, TRY_EVERY_S, Breaker
from sidecar.cost import CostModel
from sidecar.deadline import Deadline
from sidecar.errors import ModelError
from sidecar.loaded import LoadedModel
from sidecar.metrics import Metrics
from sidecar.scheduler import Scheduler
from sidecar.scoring.base import DeviceLost, Pair
from sidecar.scoring.fake import LaunchedScorer, WordOverlapScorer
from sidecar.settings import ModelSettings
from tests.calls import PATIENCE_S, QUERY, Held, reply, score, until
from tests.conftest import Serve, loader, settings

BODY = {"query": {"match": {"body": "apple"}}}
RERANKING = "sidecar.v1.RerankService"


def test_it_opens_after_failures_in_a_row_and_is_due_once_in_a_while() -> None:
    breaker = Breaker()
    for _ in range(3 * FAILURES):
        breaker.failed(0.0)
        breaker.went_well()
    for left in reversed(range(FAILURES)):
        assert (breaker.is_open, breaker.opens_next) == (False, left == 0)
        breaker.failed(0.0)
    assert breaker.is_open
    assert not breaker.is_due(TRY_EVERY_S - 0.1, idle=True)
    assert breaker.is_due(TRY_EVERY_S, idle=True)
    assert not breaker.is_due(OVERDUE_S - 0.1, idle=False)
    assert breaker.is_due(OVERDUE_S, idle=False)
    breaker.tried(TRY_EVERY_S)
    assert not breaker.is_due(TRY_EVERY_S + 0.1, idle=True)
    breaker.went_well()
    assert (breaker.is_open, breaker.is_due(1e9, idle=True)) == (False, False)


async def health(port: int) -> Any:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        answer = await stub.Check(health_pb2.HealthCheckRequest(service=RERANKING))
    return answer.status


async def until_health(port: int, told: int) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while await health(port) != told:  # noqa: ASYNC110 - asked as a balancer asks
            await asyncio.sleep(0.05)


def broken(*_: object) -> None:
    raise RuntimeError("CUDA error: device-side assert triggered")


async def test_a_failing_model_is_left_alone_health_turns_and_it_comes_back_although_nobody_calls(serve: Serve) -> None:
    scorer = WordOverlapScorer(fault=broken)
    async with serve(scorer) as (client, app):
        reasons = [(await client.search("docs", QUERY, BODY)).reason for _ in range(FAILURES + 20)]
        assert reasons[:FAILURES] == ["MODEL_ERROR"] * FAILURES
        assert set(reasons[FAILURES:]) == {"CIRCUIT_OPEN"}
        assert FAILURES < scorer.calls <= FAILURES + 3, "the device is not asked again and again"
        await until_health(app.port, health_pb2.HealthCheckResponse.NOT_SERVING)
        scorer.fault = None
        await until_health(app.port, health_pb2.HealthCheckResponse.SERVING)
        assert (await client.search("docs", QUERY, BODY)).outcome == "RERANKED"


async def test_it_is_tried_once_a_second_and_by_no_caller(serve: Serve) -> None:
    """Or whoever sends what no model takes could have every trial."""
    scorer = WordOverlapScorer(fault=broken)
    async with serve(scorer) as (client, app):
        for _ in range(FAILURES):
            await client.search("docs", QUERY, BODY)
        before, started = scorer.pairs_scored, time.monotonic()
        while time.monotonic() < started + 2.5 * TRY_EVERY_S:
            assert (await client.search("docs", QUERY, BODY)).reason == "CIRCUIT_OPEN"
        assert 1 <= scorer.pairs_scored - before <= 3, "a pair each"
        assert app.scheduler.failing == {"default"}


async def test_a_caller_whose_texts_no_pass_takes_falls_back_alone(serve: Serve) -> None:
    """On a quiet server all failures in a row are his."""
    scorer = WordOverlapScorer()
    poison = scorer.encode("poison", ["x"])[0].input_ids[0]

    def fault(_: int, pairs: Sequence[Pair]) -> None:
        if any(poison in pair.input_ids for pair in pairs):
            raise RuntimeError("index out of range")

    scorer.fault = fault
    async with serve(scorer) as (client, app):
        for number in range(4 * FAILURES):
            assert reply(await client.rerank(f"apple {number}", ["poison", "tea"])).reason == "MODEL_ERROR"
            assert not app.scheduler.failing
        assert reply(await client.rerank("apple", ["apple", "tea"])).outcome == "RERANKED"


async def test_a_model_without_a_sample_is_not_shut_off_for_good(serve: Serve) -> None:
    """Nothing would open it again. Whatever its tokenizer raises, the device's thread goes on."""

    class Panic(BaseException):
        pass

    class NoSample(WordOverlapScorer):
        def encode(self, query: str, passages: Sequence[str]) -> list[Pair]:
            if query == "a":
                raise Panic
            return super().encode(query, passages)

    scorer = NoSample(fault=broken)
    async with serve(scorer) as (client, _):
        reasons = [(await client.search("docs", QUERY, BODY)).reason for _ in range(3 * FAILURES)]
        assert set(reasons) == {"MODEL_ERROR"}
        scorer.fault = None
        assert (await client.search("docs", QUERY, BODY)).outcome == "RERANKED"


@pytest.mark.parametrize("launched", [False, True])
async def test_other_work_is_not_held_up_by_trials_for_long_nor_they_by_it(launched: bool) -> None:
    """A trial waits for an idle device, and where that never comes takes its turn like any other."""
    now = [0.0]
    scheduler = Scheduler(1000, Metrics(), clock=lambda: now[0])
    bad = (LaunchedScorer if launched else WordOverlapScorer)(fault=broken)
    model = LoadedModel.of("bad", bad, CostModel(1e-4), ModelSettings())
    with Held() as hanging:
        good = WordOverlapScorer(fault=hanging)
        other = LoadedModel.of("good", good, CostModel(1e-4), ModelSettings())
        for _ in range(FAILURES):
            with pytest.raises(ModelError):
                await score(scheduler, model, [bad.encode("a", ["b"])], Deadline(1e9))
        assert scheduler.failing == {"bad"}
        running = asyncio.create_task(score(scheduler, other, [good.encode("a", ["b"])], Deadline(1e9)))
        await hanging.entered()
        for now[0], waiting in ((TRY_EVERY_S, 0), (OVERDUE_S, 1), (3 * OVERDUE_S, 1)):
            scheduler.try_failing()
            assert len(scheduler._queue) == waiting
        bad.fault = None
        hanging.release()
        await running
        await until(lambda: not scheduler.failing)
    scheduler.stop()


async def test_a_model_that_is_no_longer_served_is_forgotten(serve: Serve) -> None:
    """It would keep health from turning back until the process ends."""

    def load(name: str, model: ModelSettings) -> LoadedModel:
        return loader(WordOverlapScorer(fault=broken if name == "bad" else None))(name, model)

    policy = {"text": {"fields": ["body"]}, "budget_ms": 2000, "fusion": {"method": "replace"}}
    models: dict[str, Any] = {"good": {}, "bad": {}}
    policies = {name: {**policy, "model": name} for name in models}
    both = settings(policies=policies, models=models, default_policy="bad")
    good_alone = settings(policies={"good": policies["good"]}, models={"good": {}}, default_policy="good")
    anew = settings(policies=policies, models={"good": {}, "bad": {"max_length": 128}}, default_policy="bad")
    async with serve(load=load, configured=both) as (client, app):
        await app.ready()
        for changed in (good_alone, anew):
            await app.apply(both)
            for _ in range(FAILURES):
                await client.search("docs", QUERY, BODY)
            assert app.scheduler.failing == {"bad"}
            await app.apply(changed)
            assert not app.scheduler.failing
            assert "bad" not in app.scheduler._device.breakers
        await app.apply(good_alone)
        await until_health(app.port, health_pb2.HealthCheckResponse.SERVING)


async def test_late_failures_of_a_model_say_nothing_of_the_one_in_its_place(serve: Serve) -> None:
    """Calls that began before may still be scored by it."""
    async with serve(WordOverlapScorer()) as (client, app):
        old = loader(WordOverlapScorer(fault=broken))("default", ModelSettings())
        app.scheduler.forget("default", instead=app.models.get("default"))
        pairs = [old.scorer.encode("a", ["b"])]
        for _ in range(2 * FAILURES):
            with pytest.raises(ModelError):
                await score(app.scheduler, old, pairs, Deadline.earliest(time.monotonic(), 5.0))
        assert not app.scheduler.failing
        assert (await client.search("docs", QUERY, BODY)).outcome == "RERANKED"


async def test_a_failing_bi_encoder_costs_its_opinion_and_not_health(serve: Serve) -> None:
    def load(name: str, model: ModelSettings) -> LoadedModel:
        return loader(WordOverlapScorer(fault=broken if name == "near" else None))(name, model)

    async with serve(load=load, configured=settings({"fusion": {"method": "linear"}})) as (client, app):
        await app.ready()
        async with asyncio.timeout(PATIENCE_S):
            while app.scheduler.failing != {"near"}:
                assert (await client.search("docs", QUERY, BODY)).outcome == "RERANKED"
        await asyncio.sleep(3 * _HEALTH_EVERY_S)
        assert await health(app.port) == health_pb2.HealthCheckResponse.SERVING


async def test_a_device_that_is_gone_turns_health_at_once_and_says_how_to_restart(serve: Serve) -> None:
    def gone(*_: object) -> None:
        raise DeviceLost("CUDA error: unspecified launch failure")

    scorer = WordOverlapScorer(fault=gone)
    with capture_logs() as told:
        await _serve_without_a_device(serve, scorer)
    lost = [line for line in told if line["event"] == "device_lost"]
    assert [line["log_level"] for line in lost] == ["critical"]
    assert "restart this sidecar" in lost[0]["advice"]


async def _serve_without_a_device(serve: Serve, scorer: WordOverlapScorer) -> None:
    async with serve(scorer) as (client, app):
        reply = await client.search("docs", QUERY, BODY)
        assert (reply.outcome, reply.reason) == ("ORIGINAL_ORDER", "MODEL_ERROR")
        scorer.fault = None
        for _ in range(20):
            reply = await client.search("docs", QUERY, BODY)
            assert (reply.outcome, reply.reason) == ("ORIGINAL_ORDER", "MODEL_ERROR"), "it does not come back"
        assert scorer.calls == 1
        await until_health(app.port, health_pb2.HealthCheckResponse.NOT_SERVING)
        assert app.metrics.registry.get_sample_value("sidecar_device_lost") == 1
        assert (await client.search("docs", QUERY, BODY)).hits, "search goes on"


async def test_one_bad_call_among_good_ones_opens_nothing(serve: Serve) -> None:
    number = 0

    def every_third(*_: object) -> None:
        nonlocal number
        number += 1
        if number % 3 == 0:
            raise RuntimeError("a bad one")

    async with serve(WordOverlapScorer(fault=every_third)) as (client, _):
        reasons = [(await client.search("docs", QUERY, BODY)).reason for _ in range(30)]
    assert reasons.count("MODEL_ERROR") == 10
    assert "CIRCUIT_OPEN" not in reasons
