"""A model whose passes all fail is left alone, told, and taken back as soon as one goes well."""

import asyncio
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from structlog.testing import capture_logs

from sidecar.breaker import FAILURES, TRY_EVERY_S, Breaker
from sidecar.scoring.base import DeviceLost
from sidecar.scoring.fake import WordOverlapScorer
from tests.calls import PATIENCE_S, QUERY, until
from tests.conftest import Serve

BODY = {"query": {"match": {"body": "apple"}}}
RERANKING = "sidecar.v1.RerankService"


def test_it_opens_after_failures_in_a_row_and_lets_one_try_in_a_while() -> None:
    breaker = Breaker()
    for _ in range(3 * FAILURES):
        breaker.failed(0.0)
        breaker.went_well()
    assert breaker.allows(0.0)
    for _ in range(FAILURES):
        assert breaker.allows(0.0)
        breaker.failed(0.0)
    assert [breaker.allows(at) for at in (0.1, TRY_EVERY_S, TRY_EVERY_S + 0.1, 2.5 * TRY_EVERY_S)] == [
        False,
        True,
        False,
        True,
    ]
    breaker.went_well()
    assert [breaker.allows(2.6) for _ in range(3)] == [True] * 3


async def health(port: int) -> Any:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        answer = await stub.Check(health_pb2.HealthCheckRequest(service=RERANKING))
    return answer.status


async def until_health(port: int, told: int) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while await health(port) != told:  # noqa: ASYNC110 - asked as a balancer asks
            await asyncio.sleep(0.05)


async def test_a_failing_model_is_left_alone_health_turns_and_it_comes_back(serve: Serve) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("CUDA error: device-side assert triggered")

    scorer = WordOverlapScorer(fault=broken)
    async with serve(scorer) as (client, app):
        reasons = [(await client.search("docs", QUERY, BODY)).reason for _ in range(FAILURES + 20)]
        assert reasons[:FAILURES] == ["MODEL_ERROR"] * FAILURES
        assert set(reasons[FAILURES:]) == {"CIRCUIT_OPEN"}
        assert scorer.calls == FAILURES, "the device is not asked again and again"
        await until_health(app.port, health_pb2.HealthCheckResponse.NOT_SERVING)
        scorer.fault = None
        await asyncio.sleep(TRY_EVERY_S)
        assert (await client.search("docs", QUERY, BODY)).outcome == "RERANKED"
        assert (await client.search("docs", QUERY, BODY)).outcome == "RERANKED"
        await until(lambda: not app.scheduler.failing)


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
