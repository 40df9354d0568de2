"""An engine that gives no answer is left alone, told, and asked again until it answers, whatever it says."""

import time

import grpc
import pytest

from connectors import ConnectorError, EngineTimeout, EngineUnavailable, IndexNotFound, MalformedAnswer
from connectors.memory import Fault, MemoryConnector
from sidecar.breaker import FAILURES
from sidecar.client import error_details
from sidecar.metrics import Metrics
from sidecar.observed import LONG_ENOUGH_S, TRY_EVERY_S, ObservedConnector
from tests.calls import BODY, QUERY
from tests.conftest import DOCUMENTS, Serve

GONE = EngineUnavailable("refused")
SLOW = EngineTimeout("too slow")


class Clock:
    """Time that stands still unless it is moved."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


class Engine:
    """A connector whose searches end with ``error``, or well; ``asked`` counts those that reached the engine."""

    def __init__(self, error: ConnectorError | None) -> None:
        self.fault = Fault(error=error, on="search", always=True)
        self.memory = MemoryConnector("main", {"docs": DOCUMENTS}, faults=[self.fault])
        self.metrics, self.clock = Metrics(), Clock()
        self.observed = ObservedConnector(self.memory, "memory", self.metrics, clock=self.clock)

    async def search(self, timeout_s: float = LONG_ENOUGH_S, connector: ObservedConnector | None = None) -> str:
        """How a search ends: `ok`, or the kind of the error, with the engine's name of it."""
        try:
            await (connector or self.observed).search("docs", BODY, timeout_s=timeout_s)
        except ConnectorError as error:
            return error.error_type or type(error).__name__
        return "ok"

    async def ends(self, count: int, timeout_s: float = LONG_ENOUGH_S) -> list[str]:
        return [await self.search(timeout_s) for _ in range(count)]

    def is_open(self) -> bool:
        return self.metrics.registry.get_sample_value("sidecar_connector_open", {"connector": "main"}) == 1


@pytest.mark.parametrize("error", [GONE, SLOW])
async def test_after_failures_in_a_row_it_is_asked_once_in_a_while_until_it_answers(error: ConnectorError) -> None:
    engine = Engine(error)
    assert await engine.ends(FAILURES + 3) == [type(error).__name__] * FAILURES + ["circuit_open"] * 3
    assert engine.is_open()
    engine.clock.now += TRY_EVERY_S
    assert await engine.ends(2) == [type(error).__name__, "circuit_open"]
    engine.clock.now += TRY_EVERY_S
    engine.memory.script.clear()
    assert await engine.ends(3) == ["ok"] * 3
    assert not engine.is_open()
    refused = {"engine": "memory", "operation": "search", "outcome": "refused"}
    assert engine.metrics.registry.get_sample_value("sidecar_connector_requests_total", refused) == 4


@pytest.mark.parametrize(
    "error",
    [
        IndexNotFound("no such index", status=404),
        EngineUnavailable("busy", status=429),
        EngineUnavailable("no shard of this index", status=503),
        MalformedAnswer("not JSON"),
    ],
)
async def test_an_engine_that_answers_is_never_left_alone(error: ConnectorError) -> None:
    engine = Engine(error)
    assert "circuit_open" not in await engine.ends(3 * FAILURES)
    assert not engine.is_open()


async def test_callers_in_a_hurry_do_not_close_an_engine_to_others() -> None:
    engine = Engine(SLOW)
    assert "circuit_open" not in await engine.ends(3 * FAILURES, timeout_s=0.1)


async def test_an_answer_between_failures_starts_the_count_anew() -> None:
    engine = Engine(GONE)
    for _ in range(3):
        await engine.ends(FAILURES - 1)
        await engine.observed.resolve("docs", timeout_s=1)
    assert not engine.is_open()


async def test_views_for_other_users_share_it_and_asking_for_the_version_is_free() -> None:
    engine = Engine(GONE)
    await engine.ends(FAILURES)
    assert await engine.search(connector=engine.observed.acting_as("Bearer me")) == "circuit_open"
    await engine.observed.info(timeout_s=1)
    assert not engine.is_open(), "whoever answers is there"


async def test_callers_of_a_silent_engine_are_told_at_once_and_why(serve: Serve) -> None:
    engine = Engine(GONE)
    async with serve(connector=engine.observed) as (client, _):
        for _ in range(FAILURES):
            with pytest.raises(grpc.RpcError):
                await client.search("docs", QUERY, BODY)
        started = time.monotonic()
        with pytest.raises(grpc.aio.AioRpcError, match="gave no answer 5 times in a row") as caught:
            await client.search("docs", QUERY, BODY)
        assert time.monotonic() - started < 1
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        details = error_details(caught.value)
        assert details is not None
        assert (details.reason, details.metadata["connector"]) == ("circuit_open", "main")
        engine.memory.script.clear()
        engine.clock.now += TRY_EVERY_S
        assert (await client.search("docs", QUERY, BODY)).outcome == "RERANKED"
