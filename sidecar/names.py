"""The indices behind index expressions: resolved by the engine, cached, and corrected by what hits reveal."""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from cachetools import TLRUCache

from connectors.base import Connector, Member
from connectors.errors import ConnectorError
from sidecar.resolution import Resolution

_Key = tuple[str, str, str]
"""Connector's name, its identity (whose rights), expression: what one user may see is never shown to another."""

_PROBLEM_TTL_S = 1.0
_COOL_DOWN_S = 1.0
_STALE_TTLS = 10
_MOST_CALLS = 16
_CHARS_PER_NAME = 64


class Known:
    """The indices behind one expression; ``problem`` says why they could not be resolved, else empty.

    ``resolution`` is the policy that follows from them; None until it is worked out.

    >>> Known([Member("logs-1", ("logs",))]).knows("logs-2")
    False
    """

    __slots__ = ("_indices", "members", "problem", "resolution")

    def __init__(self, members: Sequence[Member] = (), problem: str = "") -> None:
        self.members = tuple(members)
        self.problem = problem
        self.resolution: Resolution | None = None
        self._indices = frozenset(member.index for member in self.members)

    def knows(self, index: str) -> bool:
        """Whether a hit from this index is expected: it is a member, or the members could not be resolved."""
        return bool(self.problem) or index in self._indices


class _Kept(NamedTuple):
    """A cached answer, its weight in names, and the times until which it is fresh, not to be doubted, and usable."""

    known: Known
    weight: int
    fresh_until: float
    firm_until: float
    stale_until: float


class Names:
    """Caches what expressions stand for, at most ``max_names`` index names in all, each for ``ttl_s`` seconds.

    A stale answer still serves until it is ten times ``ttl_s`` old, while the engine is asked again; so only the
    first call for an expression waits. Concurrent calls for the same expression share one call to the engine, which
    none of them can cancel; at most ``most_calls`` are under way at a time. A failure is remembered for a second at
    most, so that an engine in trouble is not asked by every call. With a ``ttl_s`` of 0 nothing is remembered.
    ``clock`` counts seconds. The shared call may take at least ``shared_timeout_s``: a caller in a hurry must not
    make it fail for all.
    """

    def __init__(
        self,
        ttl_s: float,
        max_names: int = 100_000,
        clock: Callable[[], float] = time.monotonic,
        *,
        shared_timeout_s: float = 2.0,
        most_calls: int = _MOST_CALLS,
    ) -> None:
        self._ttl_s = ttl_s
        self._max_names = max_names
        self._clock = clock
        self._shared_timeout_s = shared_timeout_s
        self._most_calls = most_calls
        self._asking: dict[_Key, asyncio.Task[Known]] = {}
        self._tasks: set[asyncio.Task[Known]] = set()
        self._known: TLRUCache[_Key, _Kept] = TLRUCache(
            max_names, lambda _key, kept, _now: kept.stale_until, clock, lambda kept: kept.weight
        )

    async def members(self, connector: Connector, expression: str, *, timeout_s: float, fresh: bool = False) -> Known:
        """The indices behind an expression, or why they are unknown; waits ``timeout_s`` seconds at most.

        ``fresh`` accepts no answer older than ``ttl_s``, and waits for a new one instead.
        A :class:`connectors.errors.ConnectorError` becomes ``problem``; it is not raised.
        """
        key = _key(connector, expression)
        kept = self._known.get(key)
        if kept is not None and self._clock() < kept.fresh_until:
            return kept.known
        task = self._asking.get(key) or self._ask(connector, key, timeout_s)
        if kept is not None and not fresh:
            return kept.known
        if task is None:
            return Known(problem="too many index names are being looked up at once")
        await asyncio.wait({task}, timeout=timeout_s)  # neither a timeout nor a cancellation cancels the task
        if not task.done():
            return Known(problem=f"no answer within {timeout_s:.3g} s")
        if task.cancelled():
            return Known(problem="the sidecar is stopping")
        return task.result()

    def forget(self, connector: Connector, expression: str, known: Known) -> None:
        """Drop an answer, ``known``, that a hit has disproved, and ask the engine again.

        Do nothing if it has been replaced since. The new answer is not doubted for a second (``ttl_s`` if that is
        less): otherwise an index that the engine never lists, or an alias that moves all the time, would make every
        call ask. The old answer stays while too many calls to the engine are under way.
        """
        key = _key(connector, expression)
        kept = self._known.get(key)
        if kept is None or kept.known is not known or self._clock() < kept.firm_until:
            return
        if self._ask(connector, key, self._shared_timeout_s, cool_down_s=min(self._ttl_s, _COOL_DOWN_S)):
            self._known.pop(key, None)

    async def close(self) -> None:
        """Cancel the calls under way; their waiters get a ``problem``. Safe to call twice."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _ask(
        self, connector: Connector, key: _Key, timeout_s: float, cool_down_s: float = 0.0
    ) -> asyncio.Task[Known] | None:
        """Start a call to the engine; None if too many are under way.

        Those who wait for an earlier call for the key still get its answer, but it is not remembered.
        """
        if len(self._tasks) >= self._most_calls:
            return None
        task = asyncio.create_task(_answer(connector, key[-1], max(timeout_s, self._shared_timeout_s)))
        self._asking[key] = task
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._remember(key, done, cool_down_s))
        return task

    def _remember(self, key: _Key, task: asyncio.Task[Known], cool_down_s: float) -> None:
        self._tasks.discard(task)
        failed = task.cancelled() or task.exception() is not None
        if self._asking.get(key) is not task:
            return  # a newer call replaced it, after a hit showed that the expression stands for something else
        del self._asking[key]
        if not failed:
            self._keep(key, task.result(), cool_down_s)

    def _keep(self, key: _Key, known: Known, cool_down_s: float) -> None:
        self._known.pop(key, None)
        weight, now = _weight(key, known), self._clock()
        fresh_s = min(self._ttl_s, _PROBLEM_TTL_S) if known.problem else self._ttl_s
        stale_s = fresh_s if known.problem else self._ttl_s * _STALE_TTLS
        if weight <= self._max_names:
            self._known[key] = _Kept(known, weight, now + fresh_s, now + cool_down_s, now + stale_s)


async def _answer(connector: Connector, expression: str, timeout_s: float) -> Known:
    try:
        async with asyncio.timeout(timeout_s):
            return Known(await connector.resolve(expression, timeout_s=timeout_s))
    except ConnectorError as error:
        return Known(problem=str(error))
    except TimeoutError:
        return Known(problem=f"no answer within {timeout_s:.3g} s")


def _key(connector: Connector, expression: str) -> _Key:
    return connector.name, connector.identity, expression


def _weight(key: _Key, known: Known) -> int:
    """How many index names an answer counts as: its indices and aliases, one more, and one per 64 characters of its
    expression."""
    return 1 + len(key[-1]) // _CHARS_PER_NAME + sum(1 + len(member.via) for member in known.members)
