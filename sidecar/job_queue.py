"""The jobs that wait for the device: who is served next, who would end in time, who no longer can. Pure.

Models take turns as :mod:`sidecar.shares` says; of one model the job with the earliest deadline comes first.
"""

import bisect
from collections.abc import Iterator
from typing import Generic

from sidecar.batching import Batch, Job, Key, next_batch
from sidecar.shares import Shares

_MARGIN = 0.1
"""Share of the time left that is kept free at admission, and more where predictions are in doubt."""
_OPTIMISM = 0.9
"""A job is given up when it would be late even if the device took only this share of the predicted time."""


class Queue(Generic[Key]):
    """The jobs that wait; equal deadlines in the order they came."""

    def __init__(self, max_pairs: int, shares: Shares | None = None) -> None:
        self.max_pairs = max_pairs
        self.shares = shares or Shares()
        self._jobs: dict[str, list[Job[Key]]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._jobs.values()))

    def __iter__(self) -> Iterator[Job[Key]]:
        return (job for jobs in self._jobs.values() for job in jobs)

    def of(self, model: str) -> list[Job[Key]]:
        """The waiting jobs of one model, earliest deadline first."""
        return list(self._jobs.get(model, ()))

    @property
    def pairs(self) -> int:
        """Pairs that wait."""
        return sum(len(job.waiting) for job in self)

    def has_room(self, pairs: int) -> bool:
        """Whether that many more pairs may wait."""
        return self.pairs + pairs <= self.max_pairs

    def ends_at(self, job: Job[Key], free_at: float) -> float:
        """When a job that came now would end, with the device free at ``free_at``."""
        jobs = self._jobs.get(job.model, [])
        place = bisect.bisect_right(jobs, job.deadline, key=lambda other: other.deadline)
        own_s = sum(other.remaining_s for other in jobs[:place]) + job.remaining_s
        return self._ends_at(job.model, own_s, free_at)

    def on_time(self, job: Job[Key], now: float, free_at: float) -> bool:
        """Whether ``job`` would end in time, and no other of its model that would end in time became late by it.

        Some of the time left to each is kept as a margin.
        """
        ends_at = self.ends_at(job, free_at)
        if ends_at + _margin_s(job, ends_at - free_at, now) > job.deadline:
            return False
        own_s = 0.0
        for other in self._jobs.get(job.model, ()):
            own_s += other.remaining_s
            if other.deadline > job.deadline:
                delayed = self._ends_at(job.model, own_s + job.remaining_s, free_at)
                undelayed = self._ends_at(job.model, own_s, free_at)
                margin_s = _margin_s(other, undelayed - free_at, now)
                if any(undelayed <= due < delayed for due in (other.deadline - margin_s, other.deadline)):
                    return False
        return True

    def add(self, job: Job[Key]) -> None:
        """Let a job wait for its turn."""
        bisect.insort_right(self._jobs.setdefault(job.model, []), job, key=lambda other: other.deadline)

    def remove(self, job: Job[Key]) -> None:
        """Forget a job: its caller has gone, or it failed. Nothing happens when it does not wait."""
        if job in (jobs := self._jobs.get(job.model, [])):
            jobs.remove(job)
            self._drop_empty()

    def shorten(self, now: float) -> list[tuple[Job[Key], int]]:
        """Have the jobs that may be shortened give up what can no longer end in time; those that did, and how many
        pairs. One whose last waiting pair is gone leaves the queue."""
        shortened = [(job, pairs) for jobs in self._jobs.values() for job, pairs in _shortened(jobs, now)]
        if shortened:
            self.drop_done()
        return shortened

    def drop_done(self) -> None:
        """Let the jobs leave of which no pair waits any more."""
        self._jobs = {model: [job for job in jobs if job.waiting] for model, jobs in self._jobs.items()}
        self._drop_empty()

    def late(self, now: float) -> list[Job[Key]]:
        """Take out the jobs that can no longer end in time behind those before them: the device does no wasted work."""
        late = [job for jobs in self._jobs.values() for job in _late(jobs, now)]
        for job in late:
            self._jobs[job.model].remove(job)
        self._drop_empty()
        return late

    def take(self, now: float) -> Batch[Key] | None:
        """The next batch, or None when nobody waits. Jobs whose last pair was taken leave the queue."""
        if not self._jobs:
            return None
        wanted = [model for model, jobs in self._jobs.items() if not all(job.is_spare for job in jobs)]
        model = self.shares.pick(wanted or self._jobs)
        batch = next_batch(self._jobs[model], now)
        self.drop_done()
        if not batch.pairs[0][0].is_spare:  # or who reads for later would leave half of the device to who is asked now
            self.shares.charge(model, batch.predicted_s, now)
        return batch

    def rescale(self, model: str, factor: float) -> None:
        """The device has turned out slower (above 1) or faster for this model than it was when its jobs came."""
        for job in self._jobs.get(model, ()):
            job.remaining_s *= factor

    def _ends_at(self, model: str, own_s: float, free_at: float) -> float:
        return free_at + own_s * self._slowdown(model, own_s, free_at) + self.shares.turn_s(model, free_at)

    def _slowdown(self, model: str, own_s: float, free_at: float) -> float:
        """How many times longer ``own_s`` seconds of a model take because of what others have waiting or lately used.

        Until they are over, no other model gets more than its share beside them.
        """
        others_s = (
            min(sum(job.remaining_s for job in jobs if not job.is_spare), own_s * self.shares.ratio(other, model))
            for other, jobs in self._jobs.items()
            if other != model
        )
        waiting = 1 + sum(others_s) / own_s if own_s > 0 else 1.0
        return max(waiting, 1 / self.shares.left_to(model, free_at))

    def _drop_empty(self) -> None:
        self._jobs = {model: jobs for model, jobs in self._jobs.items() if jobs}


def _margin_s(job: Job[Key], seconds: float, now: float) -> float:
    """What is kept free before the deadline of a job that is predicted to end in so many seconds."""
    return max(_MARGIN * max(0.0, job.deadline - now), job.limits.doubt_s(seconds))


def _shortened(jobs: list[Job[Key]], now: float) -> Iterator[tuple[Job[Key], int]]:
    """Those of ``jobs``, earliest deadline first, that gave up pairs, as far as an optimist would too; and how many."""
    end = now
    for job in jobs:
        if job.least and (pairs := job.shorten((job.deadline - end) / _OPTIMISM)):
            yield job, pairs
        if end + _least_s(job) < job.deadline:
            end += _least_s(job)


def _late(jobs: list[Job[Key]], now: float) -> Iterator[Job[Key]]:
    """Those of ``jobs``, earliest deadline first, that even an optimist gives up; they do not hold up the others."""
    end = now
    for job in jobs:
        if end + _least_s(job) >= job.deadline:
            yield job
        else:
            end += _least_s(job)


def _least_s(job: Job[Key]) -> float:
    return 0.0 if job.probe else _OPTIMISM * job.remaining_s
