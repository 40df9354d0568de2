"""Jobs, cancellations, deadlines and faults at random: each caller has one end, in time, and nothing stays behind."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError

import numpy as np
import pytest

from sidecar.cost import CostModel
from sidecar.deadline import Deadline
from sidecar.errors import Fallback
from sidecar.loaded import LoadedModel
from sidecar.metrics import Metrics
from sidecar.scheduler import Scheduler
from sidecar.scoring.base import Pair, Scores
from sidecar.scoring.fake import LaunchedScorer, WordOverlapScorer
from sidecar.settings import ModelSettings
from tests.calls import PATIENCE_S, SLACK_S, until

RAISED: list[type[BaseException]] = [
    asyncio.CancelledError,
    CancelledError,
    GeneratorExit,
    KeyboardInterrupt,
    MemoryError,
    StopIteration,
    SystemExit,
]
CALLS = 600


class Stormy(LaunchedScorer):
    """Fails when a pass is launched, or when its scores are waited for."""

    draw: random.Random

    def launch(self, pairs: Sequence[Pair]) -> Callable[[], Scores]:
        now_and_then(self.draw)
        waiting = super().launch(pairs)

        def wait() -> Scores:
            scores = waiting()
            now_and_then(self.draw)
            return scores

        return wait


def now_and_then(draw: random.Random) -> None:
    if draw.random() < 0.03:
        raise draw.choice(RAISED)


def fault_of(draw: random.Random) -> Callable[[int, Sequence[Pair]], Scores | None]:
    def fault(_: int, pairs: Sequence[Pair]) -> Scores | None:
        time.sleep(0.03 if draw.random() < 0.02 else 0.004 * draw.random())
        now_and_then(draw)
        return np.zeros((len(pairs), 2), np.float32) if draw.random() < 0.02 else None

    return fault


async def call(scheduler: Scheduler, model: LoadedModel, draw: random.Random) -> str:
    """How one caller ends. All passages hold one word of the query's two."""
    passages = ["apple " * draw.randint(1, 40) for _ in range(draw.choice([1, 2, 5, 20, 60]))]
    groups = [[pair] for pair in model.scorer.encode("red apple", passages)]
    budget_s, caller = draw.choice([0.001, 0.01, 0.1, 0.5]), (draw.choice("ab"), draw.choice("pq"))
    least, started = draw.choice([None, 1]), time.monotonic()
    try:
        async with asyncio.timeout(budget_s):
            submitted = scheduler.submit(model, groups, Deadline(started + budget_s), least, caller)
            scored = await scheduler.result(submitted)
        assert scored.scores.tolist() == [0.5] * scored.groups
        end = "scored"
    except Fallback as error:
        end = error.reason.name
    except TimeoutError:
        end = "timeout"
    assert time.monotonic() - started < budget_s + SLACK_S
    return end


@pytest.mark.parametrize("stops", [False, True])
@pytest.mark.parametrize("kinds", [[WordOverlapScorer], [Stormy], [Stormy, WordOverlapScorer, LaunchedScorer]])
async def test_each_caller_has_one_end_in_time_and_nothing_stays_behind(
    kinds: list[type[WordOverlapScorer]], stops: bool
) -> None:
    draw, scheduler = random.Random(7), Scheduler(400, Metrics())
    models = []
    for number, kind in enumerate(kinds):
        scorer = kind(fault=fault_of(draw))
        if isinstance(scorer, Stormy):
            scorer.draw = draw
        cost = CostModel(overhead_s=0.003, token_s=1e-6)
        models.append(LoadedModel.of(f"m{number}", scorer, cost, ModelSettings(max_batch_ms=20)))
    calls: list[asyncio.Task[str]] = []
    while len(calls) < CALLS:
        calls += [asyncio.create_task(call(scheduler, draw.choice(models), draw)) for _ in range(draw.choice([1, 9]))]
        await asyncio.sleep(0.01 * draw.random())
        if draw.random() < 0.3:
            draw.choice(calls).cancel()
    if stops:
        scheduler.stop()
    ends = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), PATIENCE_S)
    counts = Counter(end if isinstance(end, str) else type(end).__name__ for end in ends)
    assert counts["scored"] > CALLS / 10
    assert set(counts) <= {"scored", "BUDGET_EXHAUSTED", "CancelledError", "MODEL_ERROR", "OVERLOADED", "timeout"}
    await until(lambda: not scheduler._device.busy)
    assert (len(scheduler._queue), len(scheduler._unanswered)) == (0, 0)
    assert scheduler.alive is not stops
    scheduler.stop()
