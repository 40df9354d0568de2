"""Scores a call's pairs: from the cache, from other calls that have them under way, and the rest on the device."""

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
"""Bytes of a cached score, its tuple included."""
_MOST_WAITS = 3
"""Failures of other calls' pairs that a call bears; then it waits for no more and scores its pairs itself."""


@dataclass(frozen=True, slots=True)
class Terms:
    """How a call's pairs are scored: deadline, stopwatch, caller, fewest documents that suffice (None: all), and when
    partial scores do (None: never)."""

    deadline: Deadline
    watch: Stopwatch
    caller: tuple[str, ...] = ()
    min_groups: int | None = None
    settles_at: Deadline | None = None


@dataclass(frozen=True, slots=True)
class PairScores:
    """The score of each passage of the first ``groups`` documents, in order; possibly NaN or infinite.

    ``late`` says why there are no more; None if there are all, or if the job was shortened at admission.
    """

    scores: Sequence[float]
    groups: int
    late: Fallback | None = None


@dataclass(eq=False, slots=True)
class _Flight:
    """Pairs submitted to the device for one call, by their place in its job; ``landed`` is set however that ends."""

    due: Deadline
    places: Mapping[Key, int]
    submitted: Submitted
    landed: asyncio.Event = field(default_factory=asyncio.Event)
    left: bool = False
    """Whether its caller was cancelled, or ran out of time."""

    def brings(self, key: Key, by: Deadline) -> bool:
        """Whether the score of a pair is due by then, and the pair has not been given up."""
        return self.due <= by and self.places[key] < self.submitted.job.wanted

    def scores(self) -> dict[Key, float]:
        """The finite scores so far, also of a job that failed or was abandoned: others may wait for them."""
        scores = self.submitted.job.ticket.scores.tolist()
        return {key: scores[place] for key, place in self.places.items() if math.isfinite(scores[place])}


@dataclass(frozen=True, slots=True)
class _Flown:
    """The scores of a job's first ``groups`` groups; ``late`` says why not of more, if the job was shortened."""

    scores: Mapping[Key, float]
    groups: int
    late: Fallback | None


_Reach = tuple[Sequence[Sequence[Key]], Fallback | None]
"""The groups that a call covers (all, or the first ones for which there was time), and why not more, if its job was
shortened after admission."""


class PairScorer:
    """Scores pairs, each once where several calls ask for it.

    A call waits for another call's pair only if that is due no later than itself. If that caller leaves, the next
    waiter submits its pairs, and the others wait for that one. After too many failures a call scores its pairs itself.
    So it ends within its own deadline, and inherits no other call's failure or cancellation. If a pair it waits for is
    given up, it learns so only when that job ends.
    """

    def __init__(self, scheduler: Scheduler, max_bytes: int) -> None:
        """``max_bytes`` bounds the score cache; with 0 nothing is cached, and calls do not share pairs."""
        self.cache: BoundedCache[Kept] = BoundedCache(max_bytes, lambda _: SCORE_BYTES)
        self._scheduler = scheduler
        self._flying: dict[Key, _Flight] = {}

    @property
    def keeps(self) -> bool:
        """Whether scores are cached."""
        return self.cache.max_bytes > 0

    async def scores(self, job: PairJob, terms: Terms) -> PairScores:
        """The scores of all documents or, as far as ``terms`` allow, of as many of the first as there is time for.

        Raises:
            Overloaded: not enough documents could be admitted, or the job was displaced for another caller's.
            BudgetExhausted: not enough documents could be scored in time.
            ModelError: the scorer raised or miscounted, or the device is stuck or lost, or its thread has ended.
            CircuitOpen: the model's last passes have all failed.
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
        """The unknown pairs of these groups that another call, due no later, has under way."""
        if not self.keeps or not job.pairs:
            return {}
        flights = ((key, self._flying.get(key)) for key in chain(*groups) if key not in known)
        return {key: flight for key, flight in flights if flight and flight.brings(key, deadline)}

    async def _landed(self, flights: Iterable[_Flight], known: dict[Key, float], terms: Terms) -> None:
        """Wait for other calls' pairs; add their scores to ``known``, even if cancelled."""
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
        """Score on the device what is neither known nor awaited; add the scores to ``known``, even if it fails."""
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
        """Await a submitted job; meanwhile other calls may wait for its pairs."""
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
    """Record where a job's time went, even if it brought no scores: the times then help to find out why."""
    watch.ended("queue", spent.queue_ms, ago_ms=spent.score_ms)
    if spent.score_ms:
        watch.ended("score", spent.score_ms)
        watch.record("device", spent.device_ms)


def _worth_keeping(flight: _Flight) -> dict[bytes, Kept]:
    ticket = flight.submitted.job.ticket
    return {
        key: (score, is_cut(ticket.model, ticket.pairs[flight.places[key]]))
        for key, score in flight.scores().items()
        if isinstance(key, bytes)
    }


def _wanted(groups: Sequence[Sequence[Key]], there: set[Key]) -> dict[int, list[Key]]:
    """The keys of each group that are not in ``there``, each key once, by the group's place; no empty groups.

    Adds them to ``there``.
    """
    wanted: dict[int, list[Key]] = {}
    for place, group in enumerate(groups):
        keys = [key for key in dict.fromkeys(group) if key not in there]
        if keys:
            wanted[place] = keys
            there.update(keys)
    return wanted


def _settled(job: PairJob, known: Mapping[Key, float], terms: Terms, late: Fallback) -> Sequence[Sequence[Key]]:
    """The first groups whose scores are known; raises ``late`` if they do not suffice."""
    count = covered(job.groups, set(known))
    settles = terms.min_groups or terms.settles_at
    if not settles or count < (terms.min_groups or 1):
        raise late from None
    return job.groups[:count]
