"""A bi-encoder's cosines of a call's documents: a cheap second opinion, never at the cross-encoder's expense.

Documents with cached vectors cost the device only a short query; they are compared while the cross-encoder works. The
others are encoded afterwards, while there is time left and nobody else wants the device, or else after the call.
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
"""Seconds of the time left that are reserved for making the order."""

Encode = Callable[[LoadedModel, str, Sequence[Sequence[str]], tuple[str, ...]], Awaitable[Sequence[Sequence[Pair]]]]
"""Tokenises a query with each document's passages, for a caller, without blocking the event loop."""


@dataclass(frozen=True, slots=True)
class Cosines:
    """Cosines of each document's passages, by its original rank, without the documents that have none.

    ``version`` is the bi-encoder's; empty if there are no cosines.
    """

    version: str = ""
    passages: Mapping[int, Sequence[float]] = field(default_factory=dict)


NONE = Cosines()


@dataclass(frozen=True, slots=True)
class _Begun:
    """A call's documents by original rank: known cosines, and the pairs of those with a vector not cached yet."""

    known: Mapping[int, Sequence[float]]
    unread: Mapping[int, Sequence[Pair]]


class CosineScorer:
    """Computes cosines of queries and documents, through the scheduler like any other scoring."""

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
        """Compare documents with cached vectors while the block runs; yield a function that returns all cosines.

        With ``wait`` that function first encodes documents that are new to the model, else they are encoded after the
        call. With ``model`` None there are no cosines. What fails or is late is left out, not raised.
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
    """Retrieve the task's error, so that asyncio does not report one that nobody awaits any more."""
    if not beginning.cancelled():
        beginning.exception()


async def _none() -> Cosines:
    return NONE


def _regrouped(groups: Mapping[int, Sequence[Pair]], scores: Sequence[float]) -> dict[int, list[float]]:
    """Split a flat list of scores by the groups they belong to."""
    rest = iter(scores)
    return {rank: [next(rest) for _ in group] for rank, group in groups.items()}
