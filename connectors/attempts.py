"""Retries of a read within the time limit of its call."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception,
    stop_after_attempt,
    stop_before_delay,
    wait_random_exponential,
)

from connectors.errors import EngineTimeout, EngineUnavailable

T = TypeVar("T")

FIRST_WAIT_S = 0.05
LONGEST_WAIT_S = 0.5
LEAST_LEFT_S = 0.001


@dataclass(frozen=True, slots=True)
class Call:
    """The connector and what it tries, for error messages. It never holds a body or a document."""

    connector: str
    what: str

    def sentence(self, cause: str) -> str:
        """Return the message for an error of this call."""
        return f"connector {self.connector!r}: {self.what}: {cause}"


async def attempt(call: Call, once: Callable[[float], Awaitable[T]], *, timeout_s: float, max_attempts: int = 1) -> T:
    """Await ``once(seconds left)`` until it returns, at most ``max_attempts`` times and never past ``timeout_s``.

    Only a transient :class:`EngineUnavailable` is tried again, after a random wait of up to 50 ms, then 100 ms and so
    on (at most 500 ms), or longer if the engine asks for it (``retry_after_s``). If a wait would pass the time limit,
    the last error is raised at once.

    Raises:
        EngineTimeout: ``timeout_s`` is over, or was not positive.
        ConnectorError: whatever ``once`` raised last.
    """
    if not timeout_s > 0:
        raise EngineTimeout(call.sentence("there was no time left to ask"))
    clock = asyncio.get_running_loop().time
    deadline = clock() + timeout_s
    retrying = AsyncRetrying(
        stop=stop_after_attempt(max_attempts) | stop_before_delay(timeout_s),
        wait=_wait_s,
        retry=retry_if_exception(_may_help),
        reraise=True,
    )

    async def in_what_is_left() -> T:
        return await once(max(deadline - clock(), LEAST_LEFT_S))

    try:
        async with asyncio.timeout_at(deadline):
            return await retrying(in_what_is_left)
    except TimeoutError as error:
        raise EngineTimeout(call.sentence(f"no complete answer within {timeout_s:.3g} s")) from error


_random_wait = wait_random_exponential(FIRST_WAIT_S, LONGEST_WAIT_S)


def _wait_s(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    asked = error.retry_after_s if isinstance(error, EngineUnavailable) else None
    return max(_random_wait(state), asked or 0.0)


def _may_help(error: BaseException) -> bool:
    return isinstance(error, EngineUnavailable) and error.transient
