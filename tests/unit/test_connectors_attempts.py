"""Trying again inside the time limit."""

import asyncio
import time

import pytest

from connectors import ConnectorError, EngineTimeout, EngineUnavailable, MalformedAnswer
from connectors.attempts import Call, attempt

CALL = Call("test", "trying")


class Engine:
    """Fails as told, one error a call, then answers; remembers the time it was given."""

    def __init__(self, *errors: ConnectorError, delay_s: float = 0.0) -> None:
        self.errors = list(errors)
        self.delay_s = delay_s
        self.left: list[float] = []

    async def once(self, left_s: float) -> str:
        self.left.append(left_s)
        await asyncio.sleep(self.delay_s)
        if self.errors:
            raise self.errors.pop(0)
        return "fine"


async def test_what_is_left_shrinks() -> None:
    engine = Engine(EngineUnavailable("a"), EngineUnavailable("b"), delay_s=0.02)
    assert await attempt(CALL, engine.once, timeout_s=5, max_attempts=3) == "fine"
    assert len(engine.left) == 3
    assert engine.left == sorted(engine.left, reverse=True)
    assert engine.left[0] <= 5


@pytest.mark.parametrize("error", [EngineUnavailable("a", transient=False), MalformedAnswer("a"), EngineTimeout("a")])
async def test_only_what_may_help_is_tried_again(error: ConnectorError) -> None:
    engine = Engine(error)
    with pytest.raises(type(error)):
        await attempt(CALL, engine.once, timeout_s=5, max_attempts=3)
    assert len(engine.left) == 1


async def test_the_last_error_is_raised() -> None:
    engine = Engine(EngineUnavailable("first"), EngineUnavailable("second"), EngineUnavailable("third"))
    with pytest.raises(EngineUnavailable, match="second"):
        await attempt(CALL, engine.once, timeout_s=5, max_attempts=2)


async def test_late_is_a_timeout() -> None:
    engine = Engine(delay_s=30)
    started = time.monotonic()
    with pytest.raises(EngineTimeout, match=r"connector 'test': trying: no complete answer within 0\.05 s"):
        await attempt(CALL, engine.once, timeout_s=0.05)
    assert time.monotonic() - started < 0.3


async def test_waits_end_before_the_time_limit() -> None:
    engine = Engine(*(EngineUnavailable("down") for _ in range(100)))
    started = time.monotonic()
    with pytest.raises(EngineUnavailable, match="down"):
        await attempt(CALL, engine.once, timeout_s=0.3, max_attempts=100)
    assert time.monotonic() - started < 0.3
    assert len(engine.left) >= 2


async def test_the_engine_is_left_alone_as_long_as_it_asks() -> None:
    engine = Engine(EngineUnavailable("busy", retry_after_s=0.3))
    assert await attempt(CALL, engine.once, timeout_s=5, max_attempts=2) == "fine"
    assert 0.29 <= engine.left[0] - engine.left[1] < 2


async def test_no_try_where_the_engine_asks_for_more_than_is_left() -> None:
    engine = Engine(EngineUnavailable("busy", retry_after_s=10))
    started = time.monotonic()
    with pytest.raises(EngineUnavailable, match="busy"):
        await attempt(CALL, engine.once, timeout_s=1, max_attempts=5)
    assert (len(engine.left), time.monotonic() - started < 0.5) == (1, True)


@pytest.mark.parametrize("timeout_s", [0.0, -1.0, float("nan")])
async def test_no_time_no_call(timeout_s: float) -> None:
    engine = Engine()
    with pytest.raises(EngineTimeout, match="no time left"):
        await attempt(CALL, engine.once, timeout_s=timeout_s)
    assert engine.left == []


async def test_cancelling_passes() -> None:
    task = asyncio.create_task(attempt(CALL, Engine(delay_s=30).once, timeout_s=60, max_attempts=5))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
