"""Turns at what only a few may do at once: callers take them evenly, however much each has waiting."""

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
"""Threads that are all at work, and none has been free for so long, are taken for stuck."""
_Line = deque["asyncio.Future[None]"]


class Turns:
    """So many turns at once, of one event loop.

    Who waits is served by host, then by policy, each in rotation, and of one policy in the order of coming: a caller
    with a hundred calls waiting takes no more turns than one with a single call. Nothing is remembered of who does not
    wait.
    """

    def __init__(self, at_once: int) -> None:
        self._free = at_once
        self._hosts: OrderedDict[str, OrderedDict[str, _Line]] = OrderedDict()

    @property
    def all_taken(self) -> bool:
        """Whether who comes now has to wait."""
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
            else:  # it came, and nobody is there to use it
                self.give_back()
            raise

    def give_back(self) -> None:
        """Hand a turn on; not to one who was cancelled this moment, which his future knows and he himself not yet."""
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
    """A few threads, at which callers take turns."""

    def __init__(self, count: int, name: str) -> None:
        self._turns = Turns(count)
        self._threads = ThreadPoolExecutor(count, thread_name_prefix=name)
        self._name = name
        self._moved_at = monotonic()

    @property
    def all_taken(self) -> bool:
        """Whether who comes now has to wait."""
        return self._turns.all_taken

    @property
    def stalled(self) -> bool:
        """Whether none of them has been free for :data:`STALLED_AFTER_S`."""
        return self.all_taken and monotonic() > self._moved_at + STALLED_AFTER_S

    def close(self) -> None:
        """Let go of the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    @asynccontextmanager
    async def turn(self, caller: tuple[str, ...]) -> "AsyncIterator[Turn]":
        """A turn of ``caller`` at one of the threads; it lasts as long as the thread works, also for one who left.

        Raises:
            ModelError: all of them are stuck.
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
    """What one caller has of a thread."""

    def __init__(self, threads: ThreadPoolExecutor) -> None:
        self._threads = threads
        self._work: Future[Any] | None = None

    async def run(self, work: Callable[..., T], *arguments: Any) -> T:
        """Have it done; once a turn."""
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
