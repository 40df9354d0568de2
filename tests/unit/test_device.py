"""The device's thread: what it does by itself, and how it launches one batch ahead."""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
from structlog.testing import capture_logs

from sidecar.cost import CostModel
from sidecar.deadline import Deadline
from sidecar.errors import BudgetExhausted, ModelError
from sidecar.loaded import LoadedModel
from sidecar.metrics import Metrics
from sidecar.scheduler import STALLED_AFTER_S, Scheduler
from sidecar.scoring.base import Pair, Scores
from sidecar.scoring.fake import LaunchedScorer, WordOverlapScorer
from sidecar.settings import ModelSettings
from tests.calls import PATIENCE_S, Held, busy, score, until

PASS_S = 0.15


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def scheduler(metrics: Metrics) -> Iterator[Scheduler]:
    one = Scheduler(1000, metrics)
    yield one
    one.stop()


def model(scorer: WordOverlapScorer, predicted_s: float = PASS_S) -> LoadedModel:
    """One pass a job: a second pair of four tokens would take the pass over ``max_batch_ms``."""
    cost = CostModel(overhead_s=predicted_s - 0.04, token_s=0.01)
    return LoadedModel.of("m", scorer, cost, ModelSettings(max_batch_ms=60))


def job(scorer: WordOverlapScorer, *passages: str) -> list[list[Pair]]:
    return [[pair] for pair in scorer.encode("red apple", passages or ("apple",))]


def within(seconds: float) -> Deadline:
    return Deadline(time.monotonic() + seconds)


def slow(_: int, pairs: Sequence[Pair]) -> Scores:
    time.sleep(PASS_S)
    return np.zeros(len(pairs), np.float32)


async def test_the_device_goes_on_while_the_event_loop_is_busy(scheduler: Scheduler) -> None:
    scorer = WordOverlapScorer(fault=slow)
    jobs = [scheduler.submit(model(scorer), job(scorer), within(PATIENCE_S)) for _ in range(4)]
    time.sleep(8 * PASS_S)  # noqa: ASYNC251 - as a message of many megabytes would
    assert scorer.calls == 4
    assert [(await scheduler.result(one)).groups for one in jobs] == [1] * 4


@dataclass
class Watched(LaunchedScorer):
    """Tells when passes are launched, over, and waited for."""

    events: list[str] = field(default_factory=list)
    times: dict[str, float] = field(default_factory=dict)

    def launch(self, pairs: Sequence[Pair]) -> Callable[[], Scores]:
        number = sum(event.startswith("launch") for event in self.events)
        self._note(f"launch {number}")
        waiting = super().launch(pairs)

        def wait() -> Scores:
            scores = waiting()
            self._note(f"land {number}")
            return scores

        return wait

    def _note(self, event: str) -> None:
        self.events.append(event)
        self.times[event] = time.monotonic()


async def test_the_next_batch_is_launched_before_the_one_on_the_device_ends_and_no_third(scheduler: Scheduler) -> None:
    scorer = Watched(fault=slow)
    loaded = model(scorer)
    calls = [score(scheduler, loaded, job(scorer), within(PATIENCE_S)) for _ in range(6)]
    assert [end.groups for end in await asyncio.gather(*calls)] == [1] * 6
    expected = ["launch 0"]
    for number in range(1, 6):
        expected += [f"launch {number}", f"land {number - 1}"]
    assert scorer.events == [*expected, "land 5"]


async def test_the_batch_ahead_is_chosen_late(scheduler: Scheduler) -> None:
    """A job that comes in the first half of a pass and is due earlier goes before those that waited."""
    scorer = Watched(fault=lambda _, pairs: slow(_, pairs) if pairs else None)
    loaded = model(scorer)
    loose = [asyncio.create_task(score(scheduler, loaded, job(scorer), within(PATIENCE_S))) for _ in range(3)]
    await until(lambda: "launch 0" in scorer.events)
    await asyncio.sleep(PASS_S / 5)
    assert "launch 1" not in scorer.events
    urgent = asyncio.create_task(score(scheduler, loaded, job(scorer), within(PATIENCE_S / 2)))
    await urgent
    assert sum(one.done() for one in loose) <= 1
    await asyncio.gather(*loose)


async def test_a_job_that_comes_while_a_pass_is_awaited_is_launched_behind_it(scheduler: Scheduler) -> None:
    scorer = Watched(fault=slow)
    loaded = model(scorer)
    first = asyncio.create_task(score(scheduler, loaded, job(scorer), within(PATIENCE_S)))
    await until(lambda: "launch 0" in scorer.events)
    await asyncio.sleep(0.7 * PASS_S)
    second = asyncio.create_task(score(scheduler, loaded, job(scorer), within(PATIENCE_S)))
    await asyncio.gather(first, second)
    assert scorer.events.index("launch 1") < scorer.events.index("land 0")


async def test_a_pass_that_ends_before_its_prediction_is_answered_then_and_corrects_it(scheduler: Scheduler) -> None:
    """Or a prediction that was once too high would stay so, and be the time of every call."""
    scorer = LaunchedScorer()
    loaded = model(scorer, predicted_s=1.0)
    started = time.monotonic()
    for _ in range(3):
        await score(scheduler, loaded, job(scorer), within(PATIENCE_S))
    assert time.monotonic() - started < 0.5
    assert loaded.cost.predict_s(1, 4) < 0.9


async def test_time_on_the_device_is_counted_once(scheduler: Scheduler, metrics: Metrics) -> None:
    scorer = LaunchedScorer(fault=slow)
    loaded = model(scorer)
    started = time.monotonic()
    await asyncio.gather(*(score(scheduler, loaded, job(scorer), within(PATIENCE_S)) for _ in range(6)))
    took_s = time.monotonic() - started
    busy_s = metrics.registry.get_sample_value("sidecar_device_seconds_total", {"model": "m"})
    assert busy_s is not None
    assert 6 * PASS_S * 0.9 <= busy_s <= took_s


async def test_wasted_time_is_counted_once_however_late_the_event_loop_hears_of_it(
    scheduler: Scheduler, metrics: Metrics
) -> None:
    with Held() as hanging:
        scorer = WordOverlapScorer(fault=hanging)
        loaded = model(scorer)
        given_up = asyncio.create_task(score(scheduler, loaded, job(scorer, "apple", "pear"), within(0.2)))
        await hanging.entered()
        await asyncio.sleep(0.2)
        scheduler.refusal(loaded, within(PATIENCE_S))  # which sheds what is late
        hanging.release()
        time.sleep(0.1)  # noqa: ASYNC251 - the pass ends meanwhile
        with pytest.raises(BudgetExhausted):
            await given_up
    used, wasted = (
        metrics.registry.get_sample_value(f"sidecar_{name}_seconds_total", {"model": "m"})
        for name in ("device", "wasted_device")
    )
    assert wasted == pytest.approx(used)


async def test_a_pass_that_fails_when_it_is_launched_fails_its_own_job_alone(scheduler: Scheduler) -> None:
    class Refusing(LaunchedScorer):
        def launch(self, pairs: Sequence[Pair]) -> Callable[[], Scores]:
            if any(pair.tokens > 4 for pair in pairs):
                raise RuntimeError("no memory")
            return super().launch(pairs)

    scorer = Refusing()
    loaded = LoadedModel.of("m", scorer, CostModel(overhead_s=1e-4), ModelSettings())
    jobs = [job(scorer), job(scorer, "apple", "a far longer apple"), job(scorer)]
    async with busy(scheduler):
        calls = [asyncio.create_task(score(scheduler, loaded, one, within(PATIENCE_S))) for one in jobs]
        await asyncio.sleep(0)
    ends = await asyncio.gather(*calls, return_exceptions=True)
    assert [isinstance(end, ModelError) for end in ends] == [False, True, False]


async def test_what_failed_is_tried_again_when_the_pass_launched_behind_it_is_over(scheduler: Scheduler) -> None:
    """Or the first job alone would have that pass's time on its account, and the pass none."""

    def fault(number: int, pairs: Sequence[Pair]) -> Scores:
        scores = slow(number, pairs)
        return np.zeros(0, np.float32) if len(pairs) == 2 else scores

    scorer = LaunchedScorer(fault=fault)
    shared = LoadedModel.of("shared", scorer, CostModel(overhead_s=PASS_S), ModelSettings(max_batch_ms=200))
    async with busy(scheduler):
        jobs = [scheduler.submit(one, job(scorer), within(PATIENCE_S)) for one in (shared, shared, model(scorer))]
        await asyncio.sleep(0)
    for one in jobs:
        await scheduler.result(one)
    assert [scheduler.spent(one).device_ms for one in jobs] == pytest.approx([PASS_S * 1e3] * 3, rel=0.3)


async def test_a_launch_that_hangs_is_known_as_a_pass_that_does() -> None:
    with Held() as hanging:

        class Hanging(LaunchedScorer):
            def launch(self, pairs: Sequence[Pair]) -> Callable[[], Scores]:
                hanging(0, pairs)
                return super().launch(pairs)

        ahead = [0.0]
        one = Scheduler(1000, Metrics(), lambda: time.monotonic() + ahead[0])
        scorer = Hanging()
        first = asyncio.create_task(score(one, model(scorer), job(scorer), within(600)))
        await hanging.entered()
        assert one._device.free_at > time.monotonic(), "those who come reckon with it"
        ahead[0] = STALLED_AFTER_S + 1
        assert one.stalled
        hanging.release()
        await first
        one.stop()


async def test_stopping_with_a_batch_in_flight_answers_everyone(scheduler: Scheduler) -> None:
    scorer = LaunchedScorer(fault=slow)
    loaded = model(scorer)
    calls = [asyncio.create_task(score(scheduler, loaded, job(scorer), within(PATIENCE_S))) for _ in range(4)]
    await until(lambda: scorer.calls == 1)
    scheduler.stop()
    ends = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(end, ModelError) for end in ends)


async def test_an_error_that_cannot_even_say_what_it_is_fails_its_own_job_alone(scheduler: Scheduler) -> None:
    class Unspeakable(RuntimeError):
        def __str__(self) -> str:
            raise KeyboardInterrupt

    def fault(number: int, _: Sequence[Pair]) -> Scores | None:
        if number == 0:
            raise Unspeakable
        return None

    scorer = WordOverlapScorer(fault=fault)
    with capture_logs() as logged, pytest.raises(ModelError, match="Unspeakable"):
        await score(scheduler, model(scorer), job(scorer), within(PATIENCE_S))
    assert [one["cause"] for one in logged] == ["its text cannot be read: KeyboardInterrupt"]
    assert (await score(scheduler, model(scorer), job(scorer), within(PATIENCE_S))).groups == 1


async def test_jobs_of_a_model_and_of_the_one_that_replaces_it_are_each_scored_by_their_own(
    scheduler: Scheduler,
) -> None:
    def scoring(score: float) -> LoadedModel:
        scorer = WordOverlapScorer(fault=lambda _, pairs: np.full(len(pairs), score, np.float32))
        return LoadedModel.of("replaced", scorer, CostModel(overhead_s=PASS_S), ModelSettings(max_batch_ms=1000))

    before, anew = scoring(1.0), scoring(2.0)
    async with busy(scheduler):
        models = [before, anew, before, anew]
        jobs = [scheduler.submit(one, job(WordOverlapScorer()), within(PATIENCE_S)) for one in models]
    scores = [(await scheduler.result(one)).scores.tolist() for one in jobs]
    assert scores == [[1.0], [2.0], [1.0], [2.0]]


async def test_who_ends_without_scores_is_told_where_the_time_went() -> None:
    """In the queue if it never began, else on the device; what ended before its deadline waits for nobody."""
    with Held() as hanging:
        one = Scheduler(1000, Metrics())
        scorer = WordOverlapScorer(fault=hanging)
        jobs = []
        try:
            for _ in range(2):
                jobs.append(one.submit(model(scorer), job(scorer), within(PATIENCE_S)))
                await hanging.entered()
            await asyncio.sleep(0.05)
            begun, waiting = map(one.spent, jobs)
        finally:
            hanging.release()
            one.stop()
            await asyncio.gather(*map(one.result, jobs), return_exceptions=True)
    assert begun.score_ms >= 50 > begun.queue_ms
    assert waiting.queue_ms >= 50
    assert waiting.score_ms == 0
