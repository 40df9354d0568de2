"""The scheduler by itself, with a scorer that has no model."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence

import numpy as np
import pytest

from sidecar.cost import CostModel
from sidecar.deadline import Deadline
from sidecar.errors import BudgetExhausted, ModelError, Overloaded
from sidecar.loaded import LoadedModel
from sidecar.metrics import Metrics
from sidecar.scheduler import Scheduler
from sidecar.scoring.base import Pair, Scores
from sidecar.scoring.fake import WordOverlapScorer
from sidecar.settings import ModelSettings
from sidecar.tickets import Scored
from tests.calls import Held, score


@pytest.fixture
async def scheduler() -> AsyncIterator[Scheduler]:
    one = Scheduler(1000, Metrics())
    yield one
    one.stop()


def model(scorer: WordOverlapScorer, overhead_s: float = 1e-4) -> LoadedModel:
    return LoadedModel.of("default", scorer, CostModel(overhead_s=overhead_s), ModelSettings())


def groups(scorer: WordOverlapScorer, *passages: str) -> list[list[Pair]]:
    return [[pair] for pair in scorer.encode("red apple", passages)]


def within(seconds: float) -> Deadline:
    return Deadline.earliest(time.monotonic(), seconds)


async def test_scores_come_back_in_the_order_of_the_pairs(scheduler: Scheduler) -> None:
    scorer = WordOverlapScorer()
    pairs = groups(scorer, "green pear", "a long text about one red apple " * 5, "apple")
    scored = await score(scheduler, model(scorer), pairs, within(5))
    assert scored.scores.tolist() == [0.0, 1.0, 0.5]
    assert scored.groups == 3


async def test_a_prediction_that_is_far_too_high_does_not_refuse_for_ever() -> None:
    """A device that was slow for a while must not stay switched off: nothing admitted means nothing learnt."""
    now = [0.0]
    one = Scheduler(1000, Metrics(), clock=lambda: now[0])
    scorer = WordOverlapScorer(fault=lambda *_: now.__setitem__(0, now[0] + 0.001))
    slow = model(scorer, overhead_s=3.0)
    ends = []
    for _ in range(60):
        now[0] += 1.1
        try:
            await score(one, slow, groups(scorer, "apple"), Deadline(now[0] + 0.5))
            ends.append("scored")
        except Overloaded:
            ends.append("refused")
    one.stop()
    assert ends[0] == "scored", "the first one is tried although it is predicted to be late"
    assert ends[-1] == "scored"
    assert slow.cost.predict_s(1, 4) < 0.5, "what was tried has corrected the prediction"


async def test_a_budget_that_is_truly_too_small_is_tried_once_a_second_at_most(scheduler: Scheduler) -> None:
    scorer = WordOverlapScorer(seconds_per_token=0.02)
    slow = LoadedModel.of("default", scorer, CostModel(overhead_s=0, token_s=0.02), ModelSettings())
    for _ in range(20):
        with pytest.raises((Overloaded, BudgetExhausted)):
            await score(scheduler, slow, groups(scorer, "apple", "pear"), within(0.05))
    assert scorer.calls <= 1
    assert slow.cost.work_correction == pytest.approx(1.0, abs=0.3), "callers in a hurry do not spoil the prediction"


@pytest.mark.parametrize("nothing", [[], [[]]])
async def test_a_job_without_pairs_is_refused_before_it_can_do_harm(
    scheduler: Scheduler, nothing: list[list[Pair]]
) -> None:
    with pytest.raises(ValueError, match="at least one pair"):
        scheduler.submit(model(WordOverlapScorer()), nothing, within(5))
    assert scheduler.alive


async def test_more_pairs_than_may_ever_wait_are_refused_in_so_many_words(scheduler: Scheduler) -> None:
    scorer = WordOverlapScorer()
    with pytest.raises(Overloaded, match="1001 more came; at most 1000"):
        await score(scheduler, model(scorer), groups(scorer, *["apple"] * 1001), within(5))


async def test_the_window_shrinks_from_its_end_until_the_rest_fits(scheduler: Scheduler) -> None:
    scorer = WordOverlapScorer()
    costly = LoadedModel.of("default", scorer, CostModel(overhead_s=0, token_s=0.01), ModelSettings())
    pairs = groups(scorer, *["apple"] * 50)  # 4 tokens, 40 ms each
    scored = await score(scheduler, costly, pairs, within(1.0), min_groups=5)
    assert 5 <= scored.groups <= 30
    assert len(scored.scores) == scored.groups


async def test_one_bad_pair_fails_its_own_job_alone(scheduler: Scheduler) -> None:
    poison = 6

    def fault(_: int, pairs: Sequence[Pair]) -> Scores | None:
        time.sleep(0.02)
        if any(pair.tokens == poison for pair in pairs):
            raise RuntimeError("bad pair")
        return np.zeros(len(pairs), np.float32)

    scorer = WordOverlapScorer(fault=fault)
    loaded = model(scorer)
    texts = [["one"], ["one", "one two three"], ["one two"], ["two"]]
    calls = [score(scheduler, loaded, groups(scorer, *one), within(5)) for one in texts]
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(results[1], ModelError)
    assert [getattr(result, "groups", None) for result in results] == [1, None, 1, 1]


async def test_after_the_thread_has_ended_every_call_is_refused_at_once(scheduler: Scheduler) -> None:
    scorer = WordOverlapScorer()
    broken = model(scorer)
    object.__setattr__(broken, "cost", None)  # no forward can be observed any more
    with pytest.raises(ModelError, match="stopped"):
        await score(scheduler, broken, groups(scorer, "apple"), within(5))
    assert not scheduler.alive
    with pytest.raises(ModelError, match="stopped"):
        await score(scheduler, model(scorer), groups(scorer, "apple"), within(5))


async def test_a_slow_overloaded_model_leaves_a_fast_one_in_time(scheduler: Scheduler) -> None:
    """The slow one is asked for three times the device; the fast one, with a short budget, for a tenth of it."""
    slow_scorer, fast_scorer = WordOverlapScorer(seconds_per_token=1e-3), WordOverlapScorer(seconds_per_token=1e-4)
    slow = LoadedModel.of("slow", slow_scorer, CostModel(0, 1e-3), ModelSettings(max_batch_ms=20))
    fast = LoadedModel.of("fast", fast_scorer, CostModel(0, 1e-4), ModelSettings())
    heavy, light = groups(slow_scorer, *["apple pear"] * 20), groups(fast_scorer, *["apple pear"] * 10)  # 100, 5 ms

    async def timed() -> float:
        started = time.monotonic()
        await score(scheduler, fast, light, within(0.15))
        return time.monotonic() - started

    slow_calls, fast_calls = [], []
    for number in range(60):
        slow_calls.append(asyncio.create_task(score(scheduler, slow, heavy, within(0.6))))
        if number % 2:
            fast_calls.append(asyncio.create_task(timed()))
        await asyncio.sleep(0.033)
    ends = await asyncio.gather(*fast_calls, return_exceptions=True)
    served = [end for end in await asyncio.gather(*slow_calls, return_exceptions=True) if isinstance(end, Scored)]
    in_time = [end for end in ends if isinstance(end, float)]
    assert len(in_time) >= 0.9 * len(ends)
    assert sorted(in_time)[len(in_time) // 2] < 0.1
    assert len(served) >= 10, "the slow one has what is left"


async def test_under_load_windows_shrink_before_jobs_are_refused_and_say_how_far(scheduler: Scheduler) -> None:
    """Twenty jobs of 100 ms with 800 ms for them all: they are scored in part, from the top, before one is refused."""
    scorer = WordOverlapScorer(seconds_per_token=1e-3)
    loaded = LoadedModel.of("default", scorer, CostModel(0, 1e-3), ModelSettings())
    pairs = groups(scorer, "red apple", *["apple pear"] * 19)
    calls = [score(scheduler, loaded, pairs, within(0.8), min_groups=4) for _ in range(20)]
    ends = await asyncio.gather(*calls, return_exceptions=True)
    scored = [end for end in ends if isinstance(end, Scored)]
    assert len(scored) >= 18, "with 20 ms each at the least"
    assert sum(one.groups for one in scored) < 200
    for one in scored:
        assert one.groups >= 4
        assert len(one.scores) == one.groups
        assert one.scores.tolist() == [1.0] + [0.5] * (one.groups - 1), "the first documents, each with its own score"
    assert all(isinstance(end, (Scored, Overloaded, BudgetExhausted)) for end in ends)


async def test_a_job_that_turns_out_to_be_late_ends_in_time_with_its_first_documents(scheduler: Scheduler) -> None:
    """The device takes three times what was predicted: two documents of two passages each are needed."""
    scorer = WordOverlapScorer(seconds_per_token=3e-3)
    slowed = LoadedModel.of("default", scorer, CostModel(0, 1e-3), ModelSettings(max_batch_ms=8))
    passages = [[scorer.encode("apple", ["apple pear"])[0]] * 2 for _ in range(20)]
    started = time.monotonic()
    scored = await score(scheduler, slowed, passages, within(0.3), min_groups=2)
    assert time.monotonic() - started < 0.3
    assert 2 <= scored.groups < 20
    assert scored.scores.tolist() == [1.0] * (2 * scored.groups)
    assert scorer.pairs_scored < 40


async def test_metrics_tell_the_devices_time_what_was_wasted_and_how_good_predictions_were() -> None:
    metrics = Metrics()
    one = Scheduler(1000, metrics)
    poison = 6

    def fault(_: int, pairs: Sequence[Pair]) -> Scores | None:
        time.sleep(0.02)
        if any(pair.tokens == poison for pair in pairs):
            raise RuntimeError("bad pair")
        return None

    scorer = WordOverlapScorer(fault=fault)
    loaded = model(scorer, overhead_s=0.02)
    await score(one, loaded, groups(scorer, "apple"), within(5))
    with pytest.raises(ModelError):
        await score(one, loaded, groups(scorer, "one two three"), within(5))
    one.stop()

    def value(name: str) -> float:
        return metrics.registry.get_sample_value(f"sidecar_{name}", {"model": "default"}) or 0.0

    assert 0.02 <= value("device_seconds_total") < 0.2
    assert 0.02 <= value("wasted_device_seconds_total") < 0.2
    assert value("job_actual_to_predicted_count") == 1
    assert 0.8 < value("job_actual_to_predicted_sum") < 5


async def test_a_job_that_is_typically_too_long_is_refused_before_it_is_made_into_tokens(scheduler: Scheduler) -> None:
    with Held() as hanging:
        scorer = WordOverlapScorer(fault=hanging)
        loaded = LoadedModel.of("default", scorer, CostModel(0, 1e-3), ModelSettings())
        pairs = groups(scorer, *["apple pear"] * 20)  # 100 ms
        running = [asyncio.create_task(score(scheduler, loaded, pairs, within(0.48))) for _ in range(4)]
        await hanging.entered()
        assert scheduler.refusal(loaded, within(0.49)) is None
        assert scheduler.refusal(loaded, within(0.49), documents=2) is None
        assert isinstance(scheduler.refusal(loaded, within(0.49), documents=40), Overloaded)
        assert scheduler.refusal(loaded, within(5), documents=40) is None
        hanging.release()
        await asyncio.gather(*running, return_exceptions=True)


async def test_one_heavy_job_does_not_keep_all_of_its_policy_out(scheduler: Scheduler) -> None:
    """While others keep the queue full, jobs that are refused as typically too long are never seen: what is typical is
    doubted then."""
    with Held() as hanging:
        scorer = WordOverlapScorer(fault=hanging)
        loaded = LoadedModel.of("default", scorer, CostModel(0, 1e-3), ModelSettings())
        other = groups(scorer, *["apple pear"] * 4)
        running = [asyncio.create_task(score(scheduler, loaded, other, within(5))) for _ in range(4)]
        await hanging.entered()
        heavy = asyncio.create_task(score(scheduler, loaded, groups(scorer, "apple " * 400), within(0.1)))
        with pytest.raises(Overloaded):
            await heavy
        refused = 0
        while scheduler.refusal(loaded, within(0.3), documents=10):
            refused += 1
            assert refused < 20
        assert refused > 0, "one document is taken to be as heavy as the last one"
        hanging.release()
        await asyncio.gather(*running, return_exceptions=True)


async def test_a_model_is_tried_again_while_another_keeps_the_device_busy() -> None:
    now = [0.0]
    one = Scheduler(1000, Metrics(), clock=lambda: now[0])
    with Held() as hanging:
        busy_scorer, scorer = WordOverlapScorer(fault=hanging), WordOverlapScorer()
        busy = LoadedModel.of("busy", busy_scorer, CostModel(0, 1e-4), ModelSettings())
        slow = model(scorer, overhead_s=3.0)
        running = asyncio.create_task(score(one, busy, groups(busy_scorer, "apple"), Deadline(1e9)))
        await hanging.entered()
        tried = asyncio.create_task(score(one, slow, groups(scorer, "apple"), Deadline(now[0] + 0.5)))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await score(one, slow, groups(scorer, "apple"), Deadline(now[0] + 0.5))
        hanging.release()
        await asyncio.gather(running, tried)
    one.stop()
    assert slow.cost.predict_s(1, 4) < 3.0, "what was tried has corrected the prediction"
