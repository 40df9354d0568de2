"""Work for the device that may wait: done in small parts, each handed in only when nobody else wants the device."""

import asyncio
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace

from sidecar.batching import Limits
from sidecar.deadline import Deadline
from sidecar.errors import Fallback
from sidecar.loaded import LoadedModel
from sidecar.scheduler import Scheduler
from sidecar.scoring.base import Pair

PART_S = 0.02
"""Predicted device time of one part: so long a call that comes meanwhile may have to wait."""
_LOOK_EVERY_S = 0.02
_MOST_WAITING = 64
"""Jobs that wait for spare time; of more, the longest waiting are forgotten."""
_ENOUGH_S = 60.0
_CALLER = ("spare time",)


class SpareTime:
    """Scores pairs on what the device has left."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._waiting: deque[tuple[LoadedModel, list[Pair]]] = deque(maxlen=_MOST_WAITING)
        self._worker: asyncio.Task[None] | None = None

    async def scores(self, model: LoadedModel, pairs: Sequence[Pair], deadline: Deadline) -> list[float] | None:
        """Scores of all pairs, or None as soon as they will not be there in time, or somebody else wants the device;
        what is missing is then scored later, for the sake of what the model keeps.

        Raises:
            Fallback: the scorer failed.
        """
        parts = list(_parts(model, pairs))
        left_s = sum(model.limits.predict_s(len(part), _mean_tokens(part)) for part in parts)
        found: list[float] = []
        while parts:
            if not self._scheduler.idle or left_s > deadline.remaining_s():
                self.later(model, [pair for part in parts for pair in part])
                return None
            part = parts.pop(0)
            left_s -= model.limits.predict_s(len(part), _mean_tokens(part))
            found += await self._score(model, part, deadline)
        return found

    def later(self, model: LoadedModel, pairs: Sequence[Pair]) -> None:
        """Score them some time, for the sake of what the model keeps of them."""
        if not pairs:
            return
        self._waiting.append((model, list(pairs)))
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())

    def close(self) -> None:
        """Forget what waits."""
        self._waiting.clear()
        if self._worker:
            self._worker.cancel()

    async def _work(self) -> None:
        """Whatever fails is forgotten: nobody waits for it."""
        while self._waiting and self._scheduler.alive:
            model, pairs = self._waiting.popleft()
            for part in _parts(model, pairs):
                while not self._scheduler.idle and self._scheduler.alive:  # noqa: ASYNC110 - the device tells nobody
                    await asyncio.sleep(_LOOK_EVERY_S)
                try:
                    await self._score(model, part, Deadline.earliest(asyncio.get_running_loop().time(), _ENOUGH_S))
                except Fallback:
                    break

    async def _score(self, model: LoadedModel, part: Sequence[Pair], deadline: Deadline) -> list[float]:
        submitted = self._scheduler.submit(model, [part], deadline, caller=_CALLER)
        return list(map(float, (await self._scheduler.result(submitted)).scores))


def _parts(model: LoadedModel, pairs: Sequence[Pair]) -> Iterator[list[Pair]]:
    """Neighbouring pairs, as many as one part may hold."""
    limits: Limits = replace(model.limits, max_batch_s=min(PART_S, model.limits.max_batch_s))
    rest = list(pairs)
    while rest:
        count = 1
        while count < len(rest) and limits.fits(count + 1, _mean_tokens(rest[: count + 1])):
            count += 1
        yield rest[:count]
        rest = rest[count:]


def _mean_tokens(pairs: Sequence[Pair]) -> float:
    return sum(pair.tokens for pair in pairs) / len(pairs)
