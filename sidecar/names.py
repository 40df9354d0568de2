"""What index expressions stand for: asked of the engine once, remembered for a while, corrected by what hits reveal."""

import asyncio
import copy
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

from cachetools import TLRUCache, TTLCache

from connectors.base import Connector, Member
from connectors.errors import ConnectorError
from sidecar.errors import RequestError

Outcome = TypeVar("Outcome")

_Key = tuple[str, str, str]
"""Connector's name, whose rights, expression: what one user may see is never shown to another."""

_PROBLEM_TTL_S = 1.0
_CHARS_PER_NAME = 64
_MOST_STRANGERS = 32
_MOST_KEYS_WITH_STRANGERS = 1024


class Known:
    """The indices behind one expression; ``problem`` says in a few words why the engine could not tell, else empty.

    >>> Known([Member("logs-1", ("logs",))]).knows("logs-2")
    False
    """

    __slots__ = ("_indices", "_refusal", "_settled", "_strangers", "members", "problem")

    def __init__(self, members: Sequence[Member] = (), problem: str = "", strangers: frozenset[str] = frozenset()):
        self.members = tuple(members)
        self.problem = problem
        self._strangers = strangers
        self._indices = frozenset(member.index for member in self.members)
        self._settled: object = None
        self._refusal: RequestError | None = None

    def knows(self, index: str) -> bool:
        """Whether a hit from this index is no news.

        It is none either where asking again has not explained it (a hidden index, say), or could not.
        """
        return (
            bool(self.problem)
            or index in self._indices
            or index in self._strangers
            or len(self._strangers) >= _MOST_STRANGERS
        )

    def settle(self, decide: Callable[[], Outcome]) -> Outcome:
        """What follows from this answer, or the refusal, worked out once; for a decision that depends on nothing else.

        Raises:
            RequestError: what ``decide`` raised.
        """
        if self._refusal is not None:
            raise copy.copy(self._refusal)  # a traceback of its own for each call
        if self._settled is None:
            try:
                self._settled = decide()
            except RequestError as error:
                self._refusal = copy.copy(error)
                raise
        return self._settled  # type: ignore[return-value]  # the one caller's type


class _Kept(NamedTuple):
    """An answer and how many names it counts for."""

    known: Known
    weight: int


class Names:
    """Remembers what expressions stand for, at most ``max_names`` index names in all, each for ``ttl_s`` seconds.

    Concurrent calls for the same expression share one call to the engine, which none of them can cancel. A failure is
    remembered for a second at most, so that an engine in trouble is not asked by every call. With a ``ttl_s`` of 0
    nothing is remembered. ``clock`` counts seconds; ``shared_timeout_s`` is what the shared call may take at least, for
    a caller in a hurry must not make it fail for all.
    """

    def __init__(
        self,
        ttl_s: float,
        max_names: int = 100_000,
        clock: Callable[[], float] = time.monotonic,
        *,
        shared_timeout_s: float = 2.0,
    ) -> None:
        self._shared_timeout_s = shared_timeout_s
        self._asking: dict[_Key, asyncio.Task[Known]] = {}
        self._tasks: set[asyncio.Task[Known]] = set()

        def until(_: _Key, kept: _Kept, now: float) -> float:
            return now + (min(ttl_s, _PROBLEM_TTL_S) if kept.known.problem else ttl_s)

        self._max_names = max_names
        self._known: TLRUCache[_Key, _Kept] = TLRUCache(max_names, until, clock, lambda kept: kept.weight)
        self._strangers: TTLCache[_Key, frozenset[str]] = TTLCache(_MOST_KEYS_WITH_STRANGERS, max(ttl_s, 1.0), clock)

    async def members(self, connector: Connector, expression: str, *, timeout_s: float) -> Known:
        """The indices behind an expression, or why they are not known after ``timeout_s`` seconds at most.

        Raises nothing but what is not a :class:`connectors.errors.ConnectorError`.
        """
        key = _key(connector, expression)
        kept = self._known.get(key)
        if kept is not None:
            return kept.known
        task = self._asking.get(key)
        if task is None:
            task = self._ask(connector, key, max(timeout_s, self._shared_timeout_s))
        await asyncio.wait({task}, timeout=timeout_s)  # neither its timeout nor our being cancelled cancels the task
        if not task.done():
            return Known(problem=f"no answer within {timeout_s:.3g} s")
        if task.cancelled():
            return Known(problem="the sidecar is stopping")
        return task.result()

    def knows(self, connector: Connector, expression: str, index: str) -> bool:
        """Whether a hit from this index fits what is remembered; true where nothing is. See :meth:`Known.knows`."""
        kept = self._known.get(_key(connector, expression))
        return kept is None or kept.known.knows(index)

    def forget(self, connector: Connector, expression: str, known: Known | None = None, stranger: str = "") -> None:
        """Ask again next time: the expression no longer stands for what it did, as a hit from ``stranger`` shows.

        ``known`` is what the caller went by: if others have made the same discovery by now, nothing is asked twice.
        Where even the next answer does not account for ``stranger``, hits from it are no longer news for ``ttl_s``, or
        every call would ask.
        """
        key = _key(connector, expression)
        kept = self._known.get(key)
        if known is not None and (kept.known is not known if kept else key in self._asking):
            return
        self._known.pop(key, None)
        self._asking.pop(key, None)  # who waits gets that answer; it is not remembered
        if stranger:
            self._strangers[key] = self._strangers.get(key, frozenset()) | {stranger}

    async def close(self) -> None:
        """End the calls that are under way; who waits for one is told so. Safe to call twice."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _ask(self, connector: Connector, key: _Key, timeout_s: float) -> asyncio.Task[Known]:
        task = asyncio.create_task(self._answer(connector, key, timeout_s))
        self._asking[key] = task
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._remember(key, done))
        return task

    async def _answer(self, connector: Connector, key: _Key, timeout_s: float) -> Known:
        try:
            async with asyncio.timeout(timeout_s):
                members = await connector.resolve(key[-1], timeout_s=timeout_s)
        except ConnectorError as error:
            return Known(problem=str(error))
        except TimeoutError:
            return Known(problem=f"no answer within {timeout_s:.3g} s")
        return Known(members, strangers=self._unexplained(key, members))

    def _unexplained(self, key: _Key, members: Sequence[Member]) -> frozenset[str]:
        """What hits have revealed and this answer does not list; what it lists is news again when it has left."""
        strangers = self._strangers.pop(key, frozenset()).difference(member.index for member in members)
        if strangers:
            self._strangers[key] = strangers
        return strangers

    def _remember(self, key: _Key, task: asyncio.Task[Known]) -> None:
        self._tasks.discard(task)
        if self._asking.get(key) is not task:
            return  # it was asked before the expression was forgotten
        del self._asking[key]
        if task.cancelled() or task.exception() is not None:
            return
        kept = _Kept(task.result(), _weight(key, task.result()))
        if kept.weight <= self._max_names:
            self._known[key] = kept


def _key(connector: Connector, expression: str) -> _Key:
    return connector.name, connector.identity, expression


def _weight(key: _Key, known: Known) -> int:
    """How many index names an answer counts for; a long expression counts for the memory it takes."""
    return 1 + len(key[-1]) // _CHARS_PER_NAME + sum(1 + len(member.via) for member in known.members)
