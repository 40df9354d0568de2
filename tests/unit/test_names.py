"""What is remembered of names: one call for all who ask, a bound, nobody else's answer, and how a move is noticed."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from connectors.base import Connector, Member
from connectors.errors import EngineUnavailable
from sidecar.names import Known, Names

LOGS = (Member("logs-1", ("logs",)), Member("logs-2", ("logs",)))


@dataclass
class Engine:
    """The part of a connector that is used here; answers when it is let, and counts what it is asked."""

    name: str = "es"
    identity: str = ""
    members: Sequence[Member] = LOGS
    error: Exception | None = None
    asked: list[tuple[str, float]] = field(default_factory=list)
    started: asyncio.Event = field(default_factory=asyncio.Event)
    may_answer: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: bool = False

    async def resolve(self, expression: str, *, timeout_s: float) -> tuple[Member, ...]:
        self.asked.append((expression, timeout_s))
        self.started.set()
        answer, error, may_answer = tuple(self.members), self.error, self.may_answer
        try:
            await may_answer.wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        if error is not None:
            raise error
        return answer


class Clock:
    """A clock that is set by hand."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def connector(engine: Engine) -> Connector:
    return cast(Connector, engine)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def engine() -> Engine:
    """One that answers at once."""
    quick = Engine()
    quick.may_answer.set()
    return quick


async def ask(names: Names, engine: Engine, expression: str = "logs", timeout_s: float = 5) -> Known:
    return await names.members(connector(engine), expression, timeout_s=timeout_s)


async def settled(names: Names) -> None:
    """Wait until no call to an engine is under way."""
    while names._tasks:
        await asyncio.wait(set(names._tasks))


async def test_the_engine_is_asked_once_until_the_time_is_over(engine: Engine, clock: Clock) -> None:
    names = Names(30, clock=clock)
    first = await ask(names, engine)
    assert first.members == LOGS
    assert first.problem == ""
    clock.now += 29.9
    assert await ask(names, engine) is first
    assert len(engine.asked) == 1


async def test_an_old_answer_serves_while_the_engine_is_asked_again(clock: Clock) -> None:
    engine, names = Engine(), Names(30, clock=clock)
    engine.may_answer.set()
    first = await ask(names, engine)
    engine.may_answer.clear()
    engine.started.clear()
    engine.members = LOGS[:1]
    clock.now += 31
    assert await ask(names, engine) is first  # nobody waits
    await engine.started.wait()
    assert await ask(names, engine) is first  # and the engine is asked once for all
    assert len(engine.asked) == 2
    engine.may_answer.set()
    await settled(names)
    assert (await ask(names, engine)).members == LOGS[:1]
    clock.now += 29
    await ask(names, engine)
    assert len(engine.asked) == 2


async def test_who_opens_documents_by_an_answer_waits_for_a_fresh_one(engine: Engine, clock: Clock) -> None:
    names = Names(30, clock=clock)
    first = await ask(names, engine)
    clock.now += 29
    assert await names.members(connector(engine), "logs", timeout_s=5, fresh=True) is first
    clock.now += 2
    engine.members = LOGS[:1]
    assert (await names.members(connector(engine), "logs", timeout_s=5, fresh=True)).members == LOGS[:1]


async def test_an_answer_ten_times_too_old_does_not_serve(engine: Engine, clock: Clock) -> None:
    names = Names(30, clock=clock)
    first = await ask(names, engine)
    engine.members = LOGS[:1]
    clock.now += 301
    second = await ask(names, engine)
    assert (first.members, second.members) == (LOGS, LOGS[:1])
    assert len(engine.asked) == 2


async def test_a_failure_never_serves_longer_than_its_second(engine: Engine, clock: Clock) -> None:
    names = Names(30, clock=clock)
    await ask(names, engine)
    engine.error = EngineUnavailable("connector 'es': refused")
    clock.now += 31
    assert (await ask(names, engine)).members == LOGS
    await settled(names)
    assert (await ask(names, engine)).problem == "connector 'es': refused"
    engine.error = None
    clock.now += 1.1
    assert (await ask(names, engine)).members == LOGS


async def test_an_unforeseen_error_while_nobody_waits_costs_nobody_an_answer(engine: Engine, clock: Clock) -> None:
    failures: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
    names = Names(30, clock=clock)
    first = await ask(names, engine)
    engine.error = ZeroDivisionError("a mistake of ours")
    clock.now += 31
    for _ in range(2):
        assert await ask(names, engine) is first
        await settled(names)
    assert len(engine.asked) == 3
    assert failures == []


async def test_nothing_is_remembered_for_a_time_of_zero(engine: Engine, clock: Clock) -> None:
    names = Names(0, clock=clock)
    for _ in range(3):
        await ask(names, engine)
    assert len(engine.asked) == 3


async def test_many_who_ask_at_once_share_one_call(clock: Clock) -> None:
    engine, names = Engine(), Names(30, clock=clock)
    tasks = [asyncio.create_task(ask(names, engine)) for _ in range(50)]
    await engine.started.wait()
    engine.may_answer.set()
    answers = await asyncio.gather(*tasks)
    assert len(engine.asked) == 1
    assert all(answer is answers[0] for answer in answers)


async def test_a_caller_who_leaves_takes_the_answer_from_nobody(clock: Clock) -> None:
    engine, names = Engine(), Names(30, clock=clock)
    first = asyncio.create_task(ask(names, engine))
    await engine.started.wait()
    second = asyncio.create_task(ask(names, engine))
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert not engine.cancelled
    engine.may_answer.set()
    assert (await second).members == LOGS
    assert len(engine.asked) == 1


async def test_the_answer_is_kept_even_when_everybody_has_left(clock: Clock) -> None:
    engine, names = Engine(), Names(30, clock=clock)
    only = asyncio.create_task(ask(names, engine))
    await engine.started.wait()
    only.cancel()
    with pytest.raises(asyncio.CancelledError):
        await only
    engine.may_answer.set()
    assert (await ask(names, engine)).members == LOGS
    assert len(engine.asked) == 1


async def test_a_caller_in_a_hurry_is_told_so_and_fails_nobody_else(clock: Clock) -> None:
    engine, names = Engine(), Names(30, clock=clock, shared_timeout_s=7)
    hurried = await ask(names, engine, timeout_s=0.01)
    assert hurried.members == ()
    assert hurried.problem == "no answer within 0.01 s"
    assert engine.asked == [("logs", 7)]  # the shared call has its own time
    patient = asyncio.create_task(ask(names, engine))
    await asyncio.sleep(0)
    engine.may_answer.set()
    assert (await patient).members == LOGS
    assert len(engine.asked) == 1


async def test_an_engine_that_never_answers_is_given_up_for_all(clock: Clock) -> None:
    engine, names = Engine(), Names(30, clock=clock, shared_timeout_s=0.02)
    hurried = asyncio.create_task(ask(names, engine, timeout_s=0.01))
    await engine.started.wait()
    assert (await ask(names, engine, timeout_s=60)).problem == "no answer within 0.02 s"
    assert (await hurried).problem == "no answer within 0.01 s"
    assert engine.cancelled
    engine.may_answer.set()
    clock.now += 1.1
    assert (await ask(names, engine)).members == LOGS


async def test_a_failure_is_told_and_remembered_for_a_second_only(engine: Engine, clock: Clock) -> None:
    names = Names(30, clock=clock)
    engine.error = EngineUnavailable("connector 'es': refused")
    failed = await ask(names, engine)
    assert (failed.members, failed.problem) == ((), "connector 'es': refused")
    engine.error = None
    clock.now += 0.9
    assert await ask(names, engine) is failed
    clock.now += 0.2
    assert (await ask(names, engine)).members == LOGS


async def test_an_error_that_nobody_foresaw_reaches_who_asked_and_is_not_remembered(
    engine: Engine, clock: Clock
) -> None:
    names = Names(30, clock=clock)
    engine.error = ZeroDivisionError("a mistake of ours")
    with pytest.raises(ZeroDivisionError):
        await ask(names, engine)
    engine.error = None
    assert (await ask(names, engine)).members == LOGS


async def test_users_and_connectors_never_share_an_answer(clock: Clock) -> None:
    names = Names(30, clock=clock)
    engines = [Engine(name, identity, [Member(f"{name}-{identity}")]) for name in "ab" for identity in ("", "u1", "u2")]
    for engine in engines:
        engine.may_answer.set()
    answers = [await ask(names, engine) for engine in engines]
    assert len({known.members for known in answers}) == 6
    assert [await ask(names, engine) for engine in engines] == answers


async def test_memory_is_bounded_by_names_not_by_answers(engine: Engine, clock: Clock) -> None:
    failures: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
    names = Names(30, 100, clock)
    engine.members = [Member(f"index-{number}", ("alias",)) for number in range(20)]  # 41 names each
    for expression in ("a", "b", "c"):
        await ask(names, engine, expression)
    assert len(engine.asked) == 3
    await ask(names, engine, "c")
    await ask(names, engine, "b")
    assert len(engine.asked) == 3
    await ask(names, engine, "a")
    assert len(engine.asked) == 4
    engine.members = [Member(f"index-{number}") for number in range(100)]
    assert len((await ask(names, engine, "huge")).members) == 100
    await ask(names, engine, "huge")
    assert len(engine.asked) == 6
    engine.members = ()
    for expression in ("x" * 4000, "y" * 4000):  # 63 names' worth each
        await ask(names, engine, expression)
    await ask(names, engine, "x" * 4000)
    assert len(engine.asked) == 9
    assert failures == []


async def test_callers_that_leave_cannot_pile_up_calls_without_bound(clock: Clock) -> None:
    engine, names = Engine(), Names(30, clock=clock, most_calls=3)
    told = [await ask(names, engine, f"logs-{number}", timeout_s=0.001) for number in range(5)]
    assert [known.problem for known in told[:3]] == ["no answer within 0.001 s"] * 3
    assert {known.problem for known in told[3:]} == {"too many index names are being looked up at once"}
    assert len(engine.asked) == 3
    joining = asyncio.create_task(ask(names, engine, "logs-0"))
    await asyncio.sleep(0)
    engine.may_answer.set()
    assert (await joining).members == LOGS
    await settled(names)
    assert (await ask(names, engine, "logs-4")).members == LOGS  # "too many" is not remembered


async def test_where_no_more_calls_fit_what_is_known_serves_on(clock: Clock) -> None:
    engine, names = Engine(), Names(30, clock=clock, most_calls=1)
    engine.may_answer.set()
    known = await ask(names, engine)
    engine.may_answer.clear()
    await ask(names, engine, "other", timeout_s=0.001)
    names.forget(connector(engine), "logs", known)
    assert await ask(names, engine) is known
    clock.now += 31
    assert await ask(names, engine) is known
    await names.close()


async def test_a_hit_from_a_new_index_shows_that_an_alias_has_moved(engine: Engine, clock: Clock) -> None:
    names = Names(30, clock=clock)
    known = await ask(names, engine)
    assert known.knows("logs-1")
    assert not known.knows("logs-3")
    engine.members = [Member("logs-3", ("logs",))]
    names.forget(connector(engine), "logs", known)
    moved = await ask(names, engine)
    assert moved.members == tuple(engine.members)
    assert moved.knows("logs-3")
    assert not moved.knows("logs-1")


async def test_many_who_notice_a_move_at_once_ask_once_more(clock: Clock) -> None:
    engine, names = Engine(), Names(30, clock=clock)
    engine.may_answer.set()
    known = await ask(names, engine)
    engine.may_answer.clear()

    async def notice() -> Known:
        names.forget(connector(engine), "logs", known)
        return await ask(names, engine)

    engine.members = [Member("logs-3")]
    tasks = [asyncio.create_task(notice()) for _ in range(20)]
    await asyncio.sleep(0)
    engine.may_answer.set()
    assert {answer.members for answer in await asyncio.gather(*tasks)} == {(Member("logs-3"),)}
    names.forget(connector(engine), "logs", known)  # one who comes late, with what was known before
    await ask(names, engine)
    assert len(engine.asked) == 2


@pytest.mark.parametrize(("ttl_s", "pause_s"), [(30, 1.0), (0.5, 0.5)])
async def test_an_index_that_the_engine_never_lists_makes_it_be_asked_once_a_second_and_not_each_time(
    engine: Engine, clock: Clock, ttl_s: float, pause_s: float
) -> None:
    names = Names(ttl_s, clock=clock)

    async def search() -> None:
        known = await ask(names, engine)
        assert not known.knows(".hidden")
        names.forget(connector(engine), "logs", known)
        await ask(names, engine)

    for _ in range(20):
        await search()
    assert len(engine.asked) == 2
    clock.now += pause_s * 0.99
    await search()
    assert len(engine.asked) == 2
    clock.now += pause_s * 0.02
    for _ in range(20):
        await search()
    await settled(names)
    assert len(engine.asked) <= 4  # of a `ttl_s` below a second, once more since the time is over


async def test_an_alias_that_moves_to_and_fro_is_noticed_each_time_but_once_a_second(
    engine: Engine, clock: Clock
) -> None:
    names = Names(30, clock=clock)
    known = await ask(names, engine, "current")
    for turn in range(6):
        index = f"logs-{turn % 2 + 3}"
        engine.members = [Member(index, ("current",))]
        for _ in range(3):  # the hits of three calls, with what each went by
            if not known.knows(index):
                names.forget(connector(engine), "current", known)
            known = await ask(names, engine, "current")
            assert known.knows(index)
        engine.members = [Member("elsewhere", ("current",))]
        names.forget(connector(engine), "current", known)
        assert await ask(names, engine, "current") is known
        clock.now += 1.01
    assert len(engine.asked) == 7


async def test_what_was_asked_before_the_move_was_seen_is_not_remembered_after_it(clock: Clock) -> None:
    engine, names = Engine(), Names(30, clock=clock)
    engine.may_answer.set()
    known = await ask(names, engine)
    early = engine.may_answer = asyncio.Event()
    engine.started.clear()
    clock.now += 31
    assert await ask(names, engine) is known  # asks again meanwhile
    await engine.started.wait()
    engine.may_answer = asyncio.Event()
    engine.may_answer.set()
    engine.members = [Member("logs-3")]
    names.forget(connector(engine), "logs", known)
    assert (await ask(names, engine)).members == (Member("logs-3"),)
    early.set()
    await settled(names)
    assert (await ask(names, engine)).members == (Member("logs-3"),)
    assert len(engine.asked) == 3


async def test_closing_leaves_nobody_waiting(clock: Clock) -> None:
    engine, names = Engine(), Names(30, clock=clock)
    waiting = asyncio.create_task(ask(names, engine))
    await engine.started.wait()
    await names.close()
    assert (await waiting).problem == "the sidecar is stopping"
    assert engine.cancelled
    await names.close()


def test_a_hit_is_news_unless_the_engine_could_not_say_what_to_expect() -> None:
    assert Known(problem="timeout").knows("anything")
    assert not Known(LOGS).knows("anything")
    assert not Known().knows("created a moment ago")


def test_an_answer_cannot_be_confused_with_another() -> None:
    same: Any = Known(LOGS)
    assert same != Known(LOGS)
