"""The second, cheap opinion on a call's documents, beside the cross-encoder's and never at its expense.

Documents whose vectors are kept cost the device a short query; they are compared while the cross-encoder works. The
others are read afterwards, while there is time left and nobody else wants the device, and else when the call is over.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from sidecar.deadline import Deadline
from sidecar.errors import Fallback
from sidecar.loaded import LoadedModel
from sidecar.logs import log
from sidecar.pair_scores import Terms
from sidecar.scheduler import Scheduler
from sidecar.scoring.base import Pair
from sidecar.spare_time import SpareTime

ORDERING_S = 0.005
"""Kept of the time left for making an order of what is there."""

Encode = Callable[[LoadedModel, str, Sequence[Sequence[str]], tuple[str, ...]], Awaitable[Sequence[Sequence[Pair]]]]
"""The pairs of each document's passages, for a caller; does not hold up the event loop."""


@dataclass(frozen=True, slots=True)
class Cosines:
    """Cosines of the passages of documents, by the document's original rank; those without any are left out."""

    version: str = ""
    passages: Mapping[int, Sequence[float]] = field(default_factory=dict)


NONE = Cosines()


@dataclass(frozen=True, slots=True)
class _Begun:
    """A call's documents: what is known of them, and the pairs of those that are still to be read."""

    known: Mapping[int, Sequence[float]]
    unread: Mapping[int, Sequence[Pair]]


class CosineScorer:
    """Compares queries with documents, through the scheduler like any other scoring."""

    def __init__(self, scheduler: Scheduler, encode: Encode, spare_time: SpareTime) -> None:
        self._scheduler = scheduler
        self._encode = encode
        self._spare_time = spare_time

    @asynccontextmanager
    async def beside(
        self,
        model: LoadedModel | None,
        query: str,
        passages: Mapping[int, Sequence[str]],
        terms: Terms,
        *,
        wait: bool = True,
    ) -> AsyncIterator[Callable[[], Awaitable[Cosines]]]:
        """Compare known documents while the block runs. Yields what gives all cosines that are there in time: with
        ``wait`` it reads documents that are new to the model first.

        It never raises for want of a cosine: what fails, or comes too late, is left out.
        """
        if model is None:
            yield _none
            return
        beginning = asyncio.create_task(self._begin(model, query, passages, terms))
        beginning.add_done_callback(_heard)
        try:
            yield lambda: self._finish(model, beginning, terms, wait=wait)
        finally:
            beginning.cancel()

    async def _begin(
        self, model: LoadedModel, query: str, passages: Mapping[int, Sequence[str]], terms: Terms
    ) -> _Begun:
        made = await self._encode(model, query, list(passages.values()), terms.caller)
        pairs = dict(zip(passages, made, strict=True))
        read = {rank: group for rank, group in pairs.items() if all(pair.is_read for pair in group)}
        unread = {rank: group for rank, group in pairs.items() if rank not in read}
        if not read:
            return _Begun({}, unread)
        submitted = self._scheduler.submit(model, list(read.values()), terms.deadline, caller=terms.caller)
        scores = (await self._scheduler.result(submitted)).scores
        return _Begun(_regrouped(read, scores.tolist()), unread)

    async def _finish(
        self, model: LoadedModel, beginning: "asyncio.Task[_Begun]", terms: Terms, *, wait: bool
    ) -> Cosines:
        deadline = terms.deadline.earlier_by(ORDERING_S)
        known: dict[int, Sequence[float]] = {}
        with terms.watch.stage("cosine"):
            try:
                async with asyncio.timeout(deadline.remaining_s()):
                    begun = await beginning
                    known.update(begun.known)
                    known.update(await self._read(model, begun.unread, deadline, wait=wait))
            except (TimeoutError, Fallback) as error:
                log.debug("cosines_missing", model=model.name, why=type(error).__name__)
            except Exception as error:  # noqa: BLE001 - whatever breaks here, the model's order is still a good one
                log.exception("cosines_failed", model=model.name, error=type(error).__name__)
        return Cosines(model.scorer.version, known) if known else NONE

    async def _read(
        self, model: LoadedModel, unread: Mapping[int, Sequence[Pair]], deadline: Deadline, *, wait: bool
    ) -> Mapping[int, list[float]]:
        pairs = [pair for group in unread.values() for pair in group]
        if not wait:
            self._spare_time.later(model, pairs)
        if not pairs or not wait:
            return {}
        scores = await self._spare_time.scores(model, pairs, deadline)
        return _regrouped(unread, scores) if scores else {}


def _heard(beginning: "asyncio.Task[_Begun]") -> None:
    """An error that nobody waits for any more is none."""
    if not beginning.cancelled():
        beginning.exception()


async def _none() -> Cosines:
    return NONE


def _regrouped(groups: Mapping[int, Sequence[Pair]], scores: Sequence[float]) -> dict[int, list[float]]:
    """Scores that stand one after the other, by the group they belong to."""
    rest = iter(scores)
    return {rank: [next(rest) for _ in group] for rank, group in groups.items()}
