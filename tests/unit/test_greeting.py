"""Engines that are greeted at start: what the log says, and how often they are asked."""

import pytest
import structlog

from connectors import ConnectorError, EngineRefused, EngineTimeout, EngineUnavailable, NotAuthenticated
from connectors.memory import Fault, MemoryConnector
from connectors.products import WRONG_PRODUCT
from sidecar.greeting import greet, wait_for

WRONG = EngineRefused("this is OpenSearch 3.8.0; use `type: opensearch`", error_type=WRONG_PRODUCT)
AWAY = EngineUnavailable("cannot connect")
IS_AWAY, IS_WRONG = "EngineUnavailable ", f"EngineRefused {WRONG_PRODUCT}"
INFO = {"version": {"number": "7.10.2", "distribution": "opensearch"}}


class Clock:
    """Sleeps without taking time, and remembers how long."""

    def __init__(self) -> None:
        self.waits: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)


def engine(*faults: Fault) -> MemoryConnector:
    return MemoryConnector("main", {}, faults=faults)


async def test_an_engine_that_answers_is_named() -> None:
    with structlog.testing.capture_logs() as logs:
        assert await greet(engine()) == ""
    assert [(line["event"], line["engine"], line["log_level"]) for line in logs] == [("engine_found", "memory", "info")]


async def test_an_untested_version_is_a_warning() -> None:
    with structlog.testing.capture_logs() as logs:
        assert await greet(engine(Fault(answer=INFO))) == ""
    assert [line["event"] for line in logs] == ["engine_found", "engine_version_untested"]
    assert logs[1]["advice"] == "OpenSearch 7.10.2 is not a tested version; tested: 2 and 3"


@pytest.mark.parametrize(
    ("error", "event", "level", "problem"),
    [
        (AWAY, "engine_not_found", "warning", IS_AWAY),
        (WRONG, "engine_refused", "error", IS_WRONG),
        (NotAuthenticated("401"), "engine_not_checked", "warning", ""),
    ],
)
async def test_what_is_not_the_engine_is_told_once(error: ConnectorError, event: str, level: str, problem: str) -> None:
    with structlog.testing.capture_logs() as logs:
        assert await greet(engine(Fault(error=error))) == problem
        assert not problem or await greet(engine(Fault(error=error)), problem) == problem
    assert [(line["event"], line["log_level"]) for line in logs] == [(event, level)]


async def test_one_that_is_away_is_asked_ever_more_seldom_and_greeted_once() -> None:
    clock = Clock()
    with structlog.testing.capture_logs() as logs:
        await wait_for(engine(*(Fault(error=AWAY) for _ in range(8))), IS_AWAY, clock.sleep)
    assert clock.waits == [1, 2, 4, 8, 16, 30, 30, 30, 30]
    assert [line["event"] for line in logs] == ["engine_found"]


async def test_the_right_engine_may_replace_a_wrong_one() -> None:
    clock = Clock()
    with structlog.testing.capture_logs() as logs:
        await wait_for(engine(Fault(error=WRONG), Fault(error=WRONG)), IS_WRONG, clock.sleep)
    assert len(clock.waits) == 3
    assert [line["event"] for line in logs] == ["engine_found"]


async def test_a_problem_that_becomes_another_one_is_told_each_time() -> None:
    late = EngineTimeout("no complete answer")
    answers = [Fault(error=error) for error in (AWAY, late, late, WRONG, WRONG, AWAY, AWAY)]
    with structlog.testing.capture_logs() as logs:
        await wait_for(engine(*answers), IS_AWAY, Clock().sleep)
    assert [(line["event"], line.get("error")) for line in logs] == [
        ("engine_not_found", str(late)),
        ("engine_refused", str(WRONG)),
        ("engine_not_found", str(AWAY)),
        ("engine_found", None),
    ]


async def test_credentials_are_not_tried_again_and_again() -> None:
    clock = Clock()
    denied = engine(Fault(error=NotAuthenticated("401"), always=True))
    with structlog.testing.capture_logs() as logs:
        await wait_for(denied, IS_AWAY, clock.sleep)
    assert (len(clock.waits), [line["event"] for line in logs]) == (1, ["engine_not_checked"])
