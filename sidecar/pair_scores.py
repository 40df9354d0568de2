"""The scores of a call's pairs: kept ones, those that another call waits for already, and the rest from the device."""

import asyncio
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

from sidecar.bounded_cache import BoundedCache
from sidecar.deadline import Deadline
from sidecar.errors import BudgetExhausted, Fallback, Overloaded
from sidecar.forgetting import forget_way
from sidecar.pair_job import Kept, Key, PairJob, covered, is_cut
from sidecar.scheduler import Scheduler
from sidecar.tickets import Spent, Submitted
from sidecar.timing import Stopwatch

SCORE_BYTES = 80
"""What a kept score takes, its tuple counted."""
_MOST_WAITS = 3
"""So often a call sees pairs fail that others had on their way, and waits for others again."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What a call leaves to its pairs: until when, where the time is told, who calls, how few documents are enough
    (None: all), and from when on what is there will do (None: never)."""

    deadline: Deadline
    watch: Stopwatch
    caller: tuple[str, ...] = ()
    min_groups: int | None = None
    settles_at: Deadline | None = None


@dataclass(frozen=True, slots=True)
class PairScores:
    """The score of each passage of the first ``groups`` documents, one after the other; they may be not finite.

    ``late`` says why there are no more, where it was not the queue that let no more in.
    """

    scores: Sequence[float]
    groups: int
    late: Fallback | None = None


@dataclass(eq=False, slots=True)
class _Flight:
    """Pairs on their way to the device for one call, by their place in its job. Whatever ends it, it lands."""

    due: Deadline
    places: Mapping[Key, int]
    submitted: Submitted
    landed: asyncio.Event = field(default_factory=asyncio.Event)
    left: bool = False
    """Whether its caller has gone, or had no more time."""

    def brings(self, key: Key, by: Deadline) -> bool:
        """Whether the score of a pair is to be expected by then: it has not been given up."""
        return self.due <= by and self.places[key] < self.submitted.job.wanted

    def scores(self) -> dict[Key, float]:
        """Those that are there and finite, also of a job that failed or was abandoned: others may wait for them."""
        scores = self.submitted.job.key.scores.tolist()
        return {key: scores[place] for key, place in self.places.items() if math.isfinite(scores[place])}


@dataclass(frozen=True, slots=True)
class _Flown:
    """The scores of a job's pairs, how many of its groups they are, and why not more, if it was shortened."""

    scores: Mapping[Key, float]
    groups: int
    late: Fallback | None


_Reach = tuple[Sequence[Sequence[Key]], Fallback | None]
"""The groups that a call covers: all, or the first ones where there was time for no more; and why no more, where that
showed only when they were under way."""


class PairScorer:
    """Gives each pair its score, and has it computed once where several calls ask for it.

    A call waits for another one's pair only where that is due no later than itself. What does not come of it, as its
    caller has gone, is scored for the next one that waits, and the others wait for that. Where it failed too often, a
    call scores its pairs itself, as if there had been nobody else. So it ends within its own deadline, and inherits no
    one's failure or cancellation. That a pair is given up which it waits for already, it learns when that job ends.
    """

    def __init__(self, scheduler: Scheduler, max_bytes: int) -> None:
        """``max_bytes`` for scores that are kept; with 0 every call is by itself."""
        self.cache: BoundedCache[Kept] = BoundedCache(max_bytes, lambda _: SCORE_BYTES)
        self._scheduler = scheduler
        self._flying: dict[Key, _Flight] = {}

    @property
    def keeps(self) -> bool:
        """Whether scores are kept at all."""
        return self.cache.max_bytes > 0

    async def scores(self, job: PairJob, terms: Terms) -> PairScores:
        """The scores of all documents or, with ``min_groups``, of as many of the first ones as there is time for.

        Raises:
            Overloaded: there is no time for all, or for ``min_groups``.
            BudgetExhausted: the job could no longer end in time, nor so much of it as is enough.
            ModelError: the scorer raised or miscounted, or its thread has ended.
        """
        known = dict(job.known)
        try:
            async with asyncio.timeout(terms.settles_at.remaining_s() if terms.settles_at else None):
                groups, late = await self._all(job, known, terms)
        except (TimeoutError, BudgetExhausted, Overloaded) as error:
            over = BudgetExhausted("the budget ended before all scores were there")
            late = over if isinstance(error, TimeoutError) else error
            groups = _settled(job, known, terms, late)
            forget_way(error)
        if len(groups) == len(job.groups):
            late = late or job.late
        return PairScores([known[key] for group in groups for key in group], len(groups), late)

    async def _all(self, job: PairJob, known: dict[Key, float], terms: Terms) -> _Reach:
        groups, late, waits = job.groups, None, _MOST_WAITS
        while True:
            others = self._others(job, groups, known, terms.deadline) if waits else {}
            groups, later = await self._score(job, groups, known, others.keys(), terms)
            late = late or later
            if not others:
                return groups, late
            await self._landed(set(others.values()), known, terms)
            waits -= any(key not in known and not flight.left for key, flight in others.items())

    def _others(
        self, job: PairJob, groups: Sequence[Sequence[Key]], known: Mapping[Key, float], deadline: Deadline
    ) -> dict[Key, _Flight]:
        """The pairs of these groups that another call waits for, which is due no later."""
        if not self.keeps or not job.pairs:
            return {}
        flights = ((key, self._flying.get(key)) for key in chain(*groups) if key not in known)
        return {key: flight for key, flight in flights if flight and flight.brings(key, deadline)}

    async def _landed(self, flights: Iterable[_Flight], known: dict[Key, float], terms: Terms) -> None:
        """Wait for the calls that have pairs on their way, and add what came of them to ``known``, whatever ends it."""
        with terms.watch.stage("queue"):
            try:
                for flight in flights:
                    await flight.landed.wait()
            finally:
                for flight in flights:
                    known.update(flight.scores())

    async def _score(
        self,
        job: PairJob,
        groups: Sequence[Sequence[Key]],
        known: dict[Key, float],
        awaited: Iterable[Key],
        terms: Terms,
    ) -> _Reach:
        """Have the device score what is neither known nor awaited, and add it to ``known``, whatever ends it."""
        wanted = _wanted(groups, {*known, *awaited}) if job.pairs else {}
        if not wanted:
            return groups, None
        rows = [[job.pairs[key] for key in keys] for keys in wanted.values()]
        min_groups = terms.min_groups
        least = min_groups and max(1, sum(place < min_groups for place in wanted))
        submitted = self._scheduler.submit(job.model, rows, terms.deadline, least, terms.caller)
        sent = list(wanted.values())[: submitted.groups]
        flight = _Flight(terms.deadline, {key: place for place, key in enumerate(chain(*sent))}, submitted)
        try:
            scored = await self._flown(flight, sent, terms)
        except (Fallback, asyncio.CancelledError):
            known.update(flight.scores())
            raise
        known.update(scored.scores)
        covered = groups if scored.groups == len(wanted) else groups[: list(wanted)[scored.groups]]
        return covered, scored.late

    async def _flown(self, flight: _Flight, sent: Sequence[Sequence[Key]], terms: Terms) -> _Flown:
        """What came of a submitted job, which other calls may wait for meanwhile."""
        if self.keeps:
            self._flying.update(dict.fromkeys(flight.places, flight))
        try:
            scored = await self._scheduler.result(flight.submitted)
            done = [key for group in sent[: scored.groups] for key in group]
            found = dict(zip(done, scored.scores.tolist(), strict=True))
            return _Flown(found, scored.groups, scored.late)
        except asyncio.CancelledError:
            flight.left = True
            raise
        finally:
            if self.keeps:
                self.cache.keep(_worth_keeping(flight))
            self._land(flight)
            _tell(terms.watch, self._scheduler.spent(flight.submitted))

    def _land(self, flight: _Flight) -> None:
        for key in flight.places:
            if self._flying.get(key) is flight:
                del self._flying[key]
        flight.landed.set()


def _tell(watch: Stopwatch, spent: Spent) -> None:
    """Where a job's time went, also of one that came to nothing: that is where it is to be looked for."""
    watch.ended("queue", spent.queue_ms, ago_ms=spent.score_ms)
    if spent.score_ms:
        watch.ended("score", spent.score_ms)
        watch.record("device", spent.device_ms)


def _worth_keeping(flight: _Flight) -> dict[bytes, Kept]:
    ticket = flight.submitted.job.key
    return {
        key: (score, is_cut(ticket.model, ticket.pairs[flight.places[key]]))
        for key, score in flight.scores().items()
        if isinstance(key, bytes)
    }


def _wanted(groups: Sequence[Sequence[Key]], there: set[Key]) -> dict[int, list[Key]]:
    """The keys of each group that are not there, each key once, by the group's place; groups without any left out."""
    wanted: dict[int, list[Key]] = {}
    for place, group in enumerate(groups):
        keys = [key for key in dict.fromkeys(group) if key not in there]
        if keys:
            wanted[place] = keys
            there.update(keys)
    return wanted


def _settled(job: PairJob, known: Mapping[Key, float], terms: Terms, late: Fallback) -> Sequence[Sequence[Key]]:
    """The first groups, as far as their scores are there; raises ``late`` where those are not enough."""
    count = covered(job.groups, set(known))
    settles = terms.min_groups or terms.settles_at
    if not settles or count < (terms.min_groups or 1):
        raise late from None
    return job.groups[:count]
