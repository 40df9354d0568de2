"""Turns at what only a few may do at once, shared evenly by callers, however much each has waiting."""

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from time import monotonic
from typing import Any, TypeVar

from sidecar.errors import ModelError

T = TypeVar("T")
STALLED_AFTER_S = 10.0
"""Threads count as stuck if all are busy, and no turn has begun or ended for so long."""
_Line = deque["asyncio.Future[None]"]


class Turns:
    """At most ``at_once`` turns at a time, in one event loop.

    Waiters are served by host, then by policy, each in rotation, and within a policy in the order of arrival: a caller
    with a hundred waiting calls gets no more turns than one with a single call. Only waiters are remembered.
    """

    def __init__(self, at_once: int) -> None:
        self._free = at_once
        self._hosts: OrderedDict[str, OrderedDict[str, _Line]] = OrderedDict()

    @property
    def all_taken(self) -> bool:
        """Whether a caller would have to wait now."""
        return self._free == 0

    async def take(self, caller: tuple[str, ...]) -> None:
        """Wait for a turn of ``caller``: its host, or the name of its key, then its policy."""
        host, policy, *_ = (*caller, "", "")
        if self._free:
            self._free -= 1
        else:
            await self._wait(host, policy)

    async def _wait(self, host: str, policy: str) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._hosts.setdefault(host, OrderedDict()).setdefault(policy, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._leave(host, policy, turn)
            else:  # the turn came, but its waiter was cancelled
                self.give_back()
            raise

    def give_back(self) -> None:
        """Give a turn to the next waiter, if any; one is skipped if cancelled, though its task may not have run yet."""
        while self._hosts:
            host, policies = next(iter(self._hosts.items()))
            policy, line = next(iter(policies.items()))
            turn = line[0]
            self._leave(host, policy, turn)
            if not turn.cancelled():
                self._rotate(host, policy)
                turn.set_result(None)
                return
        self._free += 1

    def _rotate(self, host: str, policy: str) -> None:
        if policies := self._hosts.get(host):
            self._hosts.move_to_end(host)
            if policy in policies:
                policies.move_to_end(policy)

    def _leave(self, host: str, policy: str, turn: "asyncio.Future[None]") -> None:
        policies = self._hosts.get(host, OrderedDict())
        line = policies.get(policy, deque())
        if turn in line:
            line.remove(turn)
            if not line:
                del policies[policy]
            if not policies:
                del self._hosts[host]


class Threads:
    """A few threads that callers use in turns."""

    def __init__(self, count: int, name: str) -> None:
        self._turns = Turns(count)
        self._threads = ThreadPoolExecutor(count, thread_name_prefix=name)
        self._name = name
        self._moved_at = monotonic()

    @property
    def all_taken(self) -> bool:
        """Whether a caller would have to wait now."""
        return self._turns.all_taken

    @property
    def stalled(self) -> bool:
        """Whether all threads are busy, and no turn has begun or ended for :data:`STALLED_AFTER_S`."""
        return self.all_taken and monotonic() > self._moved_at + STALLED_AFTER_S

    def close(self) -> None:
        """Shut down the threads; work under way is not waited for."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    @asynccontextmanager
    async def turn(self, caller: tuple[str, ...]) -> "AsyncIterator[Turn]":
        """Wait for a turn at one of the threads; it lasts as long as the thread works, even if the caller leaves.

        Raises:
            ModelError: all threads are stuck.
        """
        if self.stalled:
            raise ModelError(f"no {self._name} thread has answered for more than {STALLED_AFTER_S:.0f} s")
        await self._turns.take(caller)
        turn, self._moved_at = Turn(self._threads), monotonic()
        try:
            yield turn
        finally:
            turn.end(self._free)

    def _free(self) -> None:
        self._moved_at = monotonic()
        self._turns.give_back()


class Turn:
    """One caller's use of a thread."""

    def __init__(self, threads: ThreadPoolExecutor) -> None:
        self._threads = threads
        self._work: Future[Any] | None = None

    async def run(self, work: Callable[..., T], *arguments: Any) -> T:
        """Run work in the thread, and return its result; once a turn."""
        self._work = self._threads.submit(work, *arguments)
        done: T = await asyncio.wrap_future(self._work)
        return done

    def end(self, then: Callable[[], None]) -> None:
        """Call ``then`` in the event loop as soon as the thread is free."""
        if self._work is None or self._work.done():
            then()
            return
        loop = asyncio.get_running_loop()

        def over(_: Future[Any]) -> None:
            with suppress(RuntimeError):  # the loop is closed, and nobody waits any more
                loop.call_soon_threadsafe(then)

        self._work.add_done_callback(over)
