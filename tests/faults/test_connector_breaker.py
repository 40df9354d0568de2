"""An engine that gives no answer is left alone, told, and asked again until it answers, whatever it says."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from connectors import ConnectorError, EngineTimeout, EngineUnavailable, IndexNotFound, InvalidQuery, NotPermitted
from connectors.memory import Fault, MemoryConnector
from sidecar.client import error_details
from sidecar.metrics import Metrics
from sidecar.observed import ObservedConnector
from sidecar.silence import ASK_EVERY_S, SUSPICIOUS
from tests.calls import BODY, QUERY, until
from tests.conftest import DOCUMENTS, Serve

GONE = EngineUnavailable("refused")
SLOW = EngineTimeout("too slow")


class Engine:
    """A connector whose calls end with ``searches`` and ``versions``, or well where these are None."""

    def __init__(self, searches: ConnectorError | None = None, versions: ConnectorError | None = None) -> None:
        self.memory = MemoryConnector("main", {"docs": DOCUMENTS})
        self.end_with(searches, versions)
        self.metrics = Metrics()
        self.observed = ObservedConnector(self.memory, "memory", self.metrics)

    def end_with(self, searches: ConnectorError | None, versions: ConnectorError | None) -> None:
        self.memory.script.clear()
        if searches:
            self.memory.script.append(Fault(error=searches, on="search", always=True))
        if versions:
            self.memory.script.append(Fault(error=versions, on="info", always=True))

    async def search(self, connector: ObservedConnector | None = None) -> str:
        """How a search ends: `ok`, or the kind of the error, with the engine's name of it."""
        try:
            await (connector or self.observed).search("docs", BODY, timeout_s=1)
        except ConnectorError as error:
            return error.error_type or type(error).__name__
        return "ok"

    async def ends(self, count: int) -> list[str]:
        return [await self.search() for _ in range(count)]

    def is_open(self) -> bool:
        return self.metrics.registry.get_sample_value("sidecar_connector_open", {"connector": "main"}) == 1


@pytest.fixture
async def gone() -> AsyncIterator[Engine]:
    """An engine that is known to be silent."""
    engine = Engine(GONE, GONE)
    await engine.ends(SUSPICIOUS)
    await until(engine.is_open)
    yield engine
    await engine.observed.close()


@pytest.mark.parametrize("error", [GONE, SLOW])
async def test_a_silent_engine_is_asked_now_and_then_until_it_answers(error: ConnectorError) -> None:
    engine = Engine(error, error)
    assert await engine.ends(SUSPICIOUS) == [type(error).__name__] * SUSPICIOUS
    await until(engine.is_open)
    assert await engine.ends(3) == ["circuit_open"] * 3
    refused = {"connector": "main", "engine": "memory", "operation": "search", "outcome": "refused"}
    assert engine.metrics.registry.get_sample_value("sidecar_connector_requests_total", refused) == 3
    engine.end_with(None, None)
    started = time.monotonic()
    await until(lambda: not engine.is_open())
    assert time.monotonic() - started < ASK_EVERY_S + 1
    assert await engine.ends(3) == ["ok"] * 3


async def test_one_callers_slow_searches_do_not_close_an_engine_that_answers_others() -> None:
    engine = Engine(SLOW)
    assert await engine.ends(3 * SUSPICIOUS) == ["EngineTimeout"] * 3 * SUSPICIOUS
    await asyncio.sleep(0.1)
    assert not engine.is_open()
    assert await engine.search() == "EngineTimeout"


@pytest.mark.parametrize("answer", [NotPermitted("no", status=403), EngineUnavailable("busy", status=429)])
async def test_whoever_says_no_is_there(gone: Engine, answer: ConnectorError) -> None:
    gone.end_with(None, answer)
    await until(lambda: not gone.is_open())
    assert await gone.search() == "ok"


@pytest.mark.parametrize(
    "error", [IndexNotFound("no such index", status=404), EngineUnavailable("no shard of this index", status=503)]
)
async def test_an_engine_that_answers_is_never_left_alone(error: ConnectorError) -> None:
    engine = Engine(error, GONE)
    assert "circuit_open" not in await engine.ends(3 * SUSPICIOUS)
    assert not engine.is_open()


@pytest.mark.parametrize(("between", "suspected"), [(None, False), (InvalidQuery("not an index"), True)])
async def test_what_the_engine_has_said_starts_the_count_anew_and_what_never_reached_it_does_not(
    between: ConnectorError | None, *, suspected: bool
) -> None:
    engine = Engine(GONE, GONE)
    for _ in range(3):
        await engine.ends(SUSPICIOUS - 1)
        engine.end_with(between, GONE)
        await engine.search()
        engine.end_with(GONE, GONE)
    await asyncio.sleep(0.1)
    assert engine.is_open() is suspected
    await engine.observed.close()


async def test_views_for_other_users_share_it(gone: Engine) -> None:
    assert await gone.search(gone.observed.acting_as("Bearer me")) == "circuit_open"


async def test_one_that_is_closed_says_no_more(gone: Engine) -> None:
    await gone.observed.close()
    assert not gone.is_open()
    await gone.ends(SUSPICIOUS)
    await asyncio.sleep(ASK_EVERY_S + 0.1)
    assert not gone.is_open()


async def test_callers_of_a_silent_engine_are_told_at_once_and_why(
    serve: Serve, gone: Engine, logged: list[Any]
) -> None:
    async with serve(connector=gone.observed) as (client, _):
        started = time.monotonic()
        with pytest.raises(grpc.aio.AioRpcError, match="the engine does not answer") as caught:
            await client.search("docs", QUERY, BODY)
        assert time.monotonic() - started < 1
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        details = error_details(caught.value)
        assert details is not None
        assert (details.reason, details.metadata["connector"]) == ("circuit_open", "main")
        assert details.retry_after_s == ASK_EVERY_S
        (call,) = [line for line in logged if line["event"] == "call"]
        assert (call["outcome"], call["reason"], call["error"]) == ("ERROR", "UNAVAILABLE", "circuit_open")
        assert call["connector"] == "main"
        (silent,) = [line for line in logged if line["event"] == "connector_gives_no_answer"]
        assert silent["error"] == str(GONE), "what the log has of the cause"
        gone.end_with(None, None)
        await until(lambda: not gone.is_open())
        assert (await client.search("docs", QUERY, BODY)).outcome == "RERANKED"
