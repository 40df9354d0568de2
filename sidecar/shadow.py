"""Ranks calls that were answered in the engine's order, in spare time, for metrics and the log only.

It cannot crowd out a call: it begins when the reply has left and the device is idle, tokenises in a thread of its own,
and scores passages in parts of 20 ms, each only while nobody else wants the device; it gives up as soon as somebody
does. At most four rankings are under way at once; others are dropped.
"""

import asyncio
from collections.abc import Awaitable, Callable

from sidecar import effect
from sidecar.deadline import Deadline
from sidecar.errors import Fallback
from sidecar.logs import log
from sidecar.metrics import Metrics
from sidecar.policy import Plan
from sidecar.task import Task
from sidecar.types import Ranking

_AT_ONCE = 4
_ENOUGH_S = 30.0
_REPLY_LEAVES_S = 0.05

Rank = Callable[[Task, Plan, Deadline], Awaitable[Ranking | None]]
"""Ranks a call in spare time, by a deadline; None if it gave up."""


class Shadow:
    """Ranks answered calls in the background."""

    def __init__(self, rank: Rank, metrics: Metrics) -> None:
        self._rank = rank
        self._metrics = metrics
        self._tasks: set[asyncio.Task[None]] = set()

    def follow(self, task: Task, plan: Plan) -> None:
        """Rank a call once it is answered; dropped if too many are under way."""
        if len(self._tasks) >= _AT_ONCE:
            self._metrics.shadows.labels(plan.policy, "dropped").inc()
            return
        following = asyncio.create_task(self._follow(task, plan))
        self._tasks.add(following)
        following.add_done_callback(self._tasks.discard)

    def close(self) -> None:
        """Cancel the rankings under way."""
        for task in self._tasks:
            task.cancel()

    async def _follow(self, task: Task, plan: Plan) -> None:
        await asyncio.sleep(_REPLY_LEAVES_S)
        started = asyncio.get_running_loop().time()
        try:
            ranking = await self._rank(task, plan, Deadline.earliest(started, _ENOUGH_S))
        except Fallback as error:
            self._metrics.shadows.labels(plan.policy, error.reason.name).inc()
            return
        except Exception as error:  # noqa: BLE001 - nobody waits for it
            log.exception("shadow_failed", policy=plan.policy, error=type(error).__name__)
            self._metrics.shadows.labels(plan.policy, "MODEL_ERROR").inc()
            return
        if ranking is None:
            self._metrics.shadows.labels(plan.policy, "dropped").inc()
            return
        found = effect.Effect.of(ranking)
        self._metrics.shadows.labels(plan.policy, "ranked").inc()
        self._metrics.shadow_displacement.labels(plan.policy).observe(found.displacement)
        self._metrics.shadow_overlap.labels(plan.policy).observe(found.overlap)
        took_ms = (asyncio.get_running_loop().time() - started) * 1e3
        log.info(
            "shadow",
            policy=plan.policy,
            moved=found.moved,
            displacement=round(found.displacement, 2),
            overlap_at_10=round(found.overlap, 2),
            scored=ranking.scored,
            took_ms=round(took_ms, 1),
        )
