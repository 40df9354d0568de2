"""Scores pairs in spare time: in small parts, and only while nobody else wants the device.

A call may wait for its pairs. Those that it leaves unscored are scored later if their model caches what it reads, for
the benefit of later calls.
"""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import replace

from sidecar.batching import SPARE_TIME
from sidecar.deadline import Deadline
from sidecar.errors import CircuitOpen, Fallback
from sidecar.loaded import LoadedModel
from sidecar.scheduler import Scheduler
from sidecar.scoring.base import Pair

PART_S = 0.02
"""Predicted device time of one part at most: a call that comes meanwhile may have to wait so long."""
_LOOK_EVERY_S = 0.02
_MOST_WAITING = 4096
"""Most pairs that wait for spare time; beyond, those that have waited longest are forgotten."""
_ENOUGH_S = 60.0


class SpareTime:
    """Scores pairs while the device is idle, one part at a time; those of waiting calls go first."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._turn = asyncio.Lock()
        self._calls = 0
        self._waiting: dict[bytes, tuple[LoadedModel, Pair]] = {}
        self._worker: asyncio.Task[None] | None = None

    async def scores(self, model: LoadedModel, pairs: Sequence[Pair], deadline: Deadline) -> list[float] | None:
        """Scores of all pairs; None as soon as they would be late, or somebody else wants the device.

        However it ends, pairs still unscored are handed to :meth:`later`.

        Raises:
            Fallback: the scorer failed, or a part was refused or late.
        """
        parts = list(_parts(model, pairs))
        found: list[float] = []
        self._calls += 1
        try:
            while parts:
                async with self._turn:
                    if not self._scheduler.idle or _predicted_s(model, parts) > deadline.remaining_s():
                        return None
                    found += await self._score(model, parts[0], deadline)
                    parts.pop(0)
        finally:
            self._calls -= 1
            self.later(model, [pair for part in parts for pair in part])
        return found

    def later(self, model: LoadedModel, pairs: Sequence[Pair]) -> None:
        """Score pairs in spare time, if their model caches what it reads of them; others are ignored."""
        for pair in pairs:
            if pair.kept_as:
                self._waiting.setdefault(pair.kept_as, (model, pair))
        while len(self._waiting) > _MOST_WAITING:
            del self._waiting[next(iter(self._waiting))]
        if self._waiting and (self._worker is None or self._worker.done()):
            self._worker = asyncio.create_task(self._work())

    def close(self) -> None:
        """Forget what waits, and stop."""
        self._waiting.clear()
        if self._worker:
            self._worker.cancel()

    async def _work(self) -> None:
        """Score what waits while the device is idle and no call waits; parts that fail are forgotten."""
        while self._waiting and self._scheduler.alive:
            async with self._turn:
                if free := self._scheduler.idle and not self._calls and bool(self._waiting):
                    model, part = self._next_part()
                    try:
                        await self._score(model, part, Deadline.earliest(asyncio.get_running_loop().time(), _ENOUGH_S))
                    except CircuitOpen:
                        free = False  # the pairs are scored when the model works again
                    except Fallback:
                        self._forget(part)
            if not free:
                await asyncio.sleep(_LOOK_EVERY_S)

    def _next_part(self) -> tuple[LoadedModel, list[Pair]]:
        """The next part of the model whose pair has waited longest."""
        model, _ = next(iter(self._waiting.values()))
        return model, next(_parts(model, [pair for other, pair in self._waiting.values() if other is model]))

    async def _score(self, model: LoadedModel, part: Sequence[Pair], deadline: Deadline) -> list[float]:
        submitted = self._scheduler.submit(model, [part], deadline, caller=SPARE_TIME)
        scores = (await self._scheduler.result(submitted)).scores
        self._forget(part)
        return list(map(float, scores))

    def _forget(self, part: Sequence[Pair]) -> None:
        for pair in part:
            self._waiting.pop(pair.kept_as, None)


def _parts(model: LoadedModel, pairs: Sequence[Pair]) -> Iterator[list[Pair]]:
    """Split pairs, in order, into parts of at most :data:`PART_S` and what one pass may hold."""
    limits = replace(model.limits, max_batch_s=min(PART_S, model.limits.max_batch_s))
    part: list[Pair] = []
    for pair in pairs:
        if part and not limits.fits(len(part) + 1, _mean_tokens([*part, pair])):
            yield part
            part = []
        part.append(pair)
    if part:
        yield part


def _predicted_s(model: LoadedModel, parts: Sequence[Sequence[Pair]]) -> float:
    return sum(model.limits.predict_s(len(part), _mean_tokens(part)) for part in parts)


def _mean_tokens(pairs: Sequence[Pair]) -> float:
    return sum(pair.tokens for pair in pairs) / len(pairs)
