"""Who comes next where only a few may work at once."""

import asyncio
import random
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from sidecar.errors import ModelError
from sidecar.turns import Threads, Turns
from tests.calls import PATIENCE_S, until


@asynccontextmanager
async def turn(turns: Turns, *caller: str) -> AsyncIterator[None]:
    await turns.take(caller)
    try:
        yield
    finally:
        turns.give_back()


class Desk:
    """One turn at a time; whoever has it notes that and waits to be told to go on."""

    def __init__(self) -> None:
        self.turns = Turns(1)
        self.served: list[str] = []
        self._goes_on = asyncio.Semaphore(0)

    async def call(self, name: str, *caller: str) -> None:
        async with turn(self.turns, *caller):
            self.served.append(name)
            await self._goes_on.acquire()

    async def come(self, name: str, *caller: str) -> "asyncio.Task[None]":
        task = asyncio.create_task(self.call(name, *caller))
        await asyncio.sleep(0)
        return task

    async def next(self) -> None:
        self._goes_on.release()
        for _ in range(4):
            await asyncio.sleep(0)


@asynccontextmanager
async def taken() -> AsyncIterator[Desk]:
    """A desk with somebody at it."""
    desk = Desk()
    await desk.come("first", "someone")
    yield desk
    for _ in range(100):
        await desk.next()
    assert not desk.turns.all_taken
    assert not desk.turns._hosts


async def test_a_caller_with_much_waiting_takes_no_more_turns_than_one_with_little() -> None:
    async with taken() as desk:
        for number in range(5):
            await desk.come(f"big {number}", "big", "p")
        await desk.come("small", "small", "p")
        for _ in range(6):
            await desk.next()
    assert desk.served == ["first", "big 0", "small", "big 1", "big 2", "big 3", "big 4"]


async def test_policies_of_a_host_share_its_turns() -> None:
    async with taken() as desk:
        for number in range(3):
            await desk.come(f"deep {number}", "app", "deep")
        await desk.come("quick", "app", "quick")
        await desk.come("other", "other", "deep")
        for _ in range(5):
            await desk.next()
    assert desk.served == ["first", "deep 0", "other", "quick", "deep 1", "deep 2"]


async def test_who_leaves_while_he_waits_costs_nobody_a_turn() -> None:
    async with taken() as desk:
        gone = [await desk.come(f"gone {number}", "big", "p") for number in range(3)]
        await desk.come("stays", "big", "p")
        await desk.come("small", "small", "p")
        for task in gone:
            task.cancel()
        await asyncio.sleep(0)
        for _ in range(2):
            await desk.next()
    assert desk.served == ["first", "stays", "small"]


async def test_who_is_cancelled_as_his_turn_comes_hands_it_on() -> None:
    desk = Desk()
    async with turn(desk.turns, "first"):
        gone, _ = await desk.come("gone", "big"), await desk.come("next", "big")
    gone.cancel()  # the turn is his, and he has not noticed yet
    await desk.next()
    assert desk.served == ["next"]
    assert not desk.turns.all_taken


async def test_a_turn_passes_over_who_was_cancelled_the_moment_before() -> None:
    desk = Desk()
    async with turn(desk.turns, "first"):
        gone, _ = await desk.come("gone", "big"), await desk.come("next", "big")
        gone.cancel()  # and has not noticed yet
    await desk.next()
    assert desk.served == ["next"]
    assert gone.cancelled()
    assert not desk.turns.all_taken


async def test_a_turn_is_given_back_by_one_who_fails() -> None:
    turns = Turns(1)

    async def fail() -> None:
        async with turn(turns, "a", "b", "c"):
            assert turns.all_taken
            raise ValueError("no")

    for _ in range(3):
        with pytest.raises(ValueError, match="no"):
            await fail()
    assert not turns.all_taken


@pytest.mark.parametrize("seed", range(5))
async def test_whatever_comes_and_goes_no_turn_is_lost_and_no_more_are_taken_than_there_are(seed: int) -> None:
    draw, turns, under_way, most = random.Random(seed), Turns(3), 0, 0

    async def call() -> None:
        nonlocal under_way, most
        async with turn(turns, *draw.choices("abc", k=draw.randrange(4))):
            under_way += 1
            most = max(most, under_way)
            try:
                await asyncio.sleep(draw.random() * 1e-3)
            finally:
                under_way -= 1

    tasks = []
    for _ in range(300):
        tasks.append(asyncio.create_task(call()))
        if draw.random() < 0.3:
            draw.choice(tasks).cancel()
        if draw.random() < 0.2:
            await asyncio.sleep(0)
    ends = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(end) for end in ends} == {type(None), asyncio.CancelledError}
    assert most == 3
    assert turns._free == 3
    assert not turns._hosts


async def test_a_turn_lasts_as_long_as_its_thread_works_also_for_one_who_left() -> None:
    threads, entered, over = Threads(1, "one"), threading.Event(), threading.Event()
    done: list[str] = []

    def work() -> None:
        entered.set()
        over.wait(PATIENCE_S)

    async def call(name: str) -> None:
        async with threads.turn((name,)) as turn:
            await turn.run(work)
        done.append(name)

    first = asyncio.create_task(call("first"))
    assert await asyncio.to_thread(entered.wait, PATIENCE_S)
    second = asyncio.create_task(call("second"))
    first.cancel()
    await asyncio.sleep(0.02)
    assert first.cancelled()
    assert threads.all_taken
    assert threads._turns._hosts, "the second one still waits, and may be told that it is too late"
    over.set()
    await second
    assert done == ["second"]
    await until(lambda: not threads.all_taken)
    threads.close()


async def test_what_the_work_raises_is_raised_and_the_turn_given_back() -> None:
    threads = Threads(1, "one")
    for _ in range(2):
        async with threads.turn(("a",)) as turn:
            with pytest.raises(ZeroDivisionError):
                await turn.run(divmod, 1, 0)
    assert not threads.all_taken
    threads.close()


async def test_a_turn_without_work_is_given_back() -> None:
    threads = Threads(1, "one")
    async with threads.turn(()):
        meanwhile = threads.all_taken
    assert (meanwhile, threads.all_taken) == (True, False)
    threads.close()


async def test_threads_of_which_none_becomes_free_are_stuck_and_nobody_waits_for_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sidecar.turns.STALLED_AFTER_S", 0.05)
    threads, over = Threads(2, "one"), threading.Event()

    async def call() -> None:
        async with threads.turn(()) as turn:
            await turn.run(over.wait, PATIENCE_S)

    calls = [asyncio.create_task(call())]
    await asyncio.sleep(0.1)
    assert not threads.stalled, "the other one is free"
    calls.append(asyncio.create_task(call()))
    await asyncio.sleep(0.01)
    assert not threads.stalled, "it has just begun"
    await until(lambda: threads.stalled)
    with pytest.raises(ModelError, match="no one thread has answered"):
        await call()
    over.set()
    await asyncio.gather(*calls)
    assert not threads.stalled
    await call()
    threads.close()
