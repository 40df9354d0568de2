"""The jobs that wait for the device: which is served next, which would end in time, which no longer can. Pure.

Models take turns by :mod:`sidecar.shares`; of one model the job with the earliest deadline comes first.
"""

import bisect
from collections.abc import Iterator
from typing import Generic

from sidecar.batching import AnyTicket, Batch, Job, next_batch
from sidecar.shares import Shares

_MARGIN = 0.1
"""Share of the time left that is kept free at admission, and more where predictions are in doubt."""
_OPTIMISM = 0.9
"""A job is given up when it would be late even if the device took only this share of the predicted time."""


class Queue(Generic[AnyTicket]):
    """The waiting jobs of each model, earliest deadline first; equal deadlines in the order of :meth:`add`."""

    def __init__(self, max_pairs: int, shares: Shares | None = None) -> None:
        self.max_pairs = max_pairs
        self.shares = shares or Shares()
        self._jobs: dict[str, list[Job[AnyTicket]]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._jobs.values()))

    def __iter__(self) -> Iterator[Job[AnyTicket]]:
        return (job for jobs in self._jobs.values() for job in jobs)

    def of(self, model: str) -> list[Job[AnyTicket]]:
        """The waiting jobs of one model, earliest deadline first."""
        return list(self._jobs.get(model, ()))

    @property
    def pairs(self) -> int:
        """Number of waiting pairs."""
        return sum(len(job.waiting) for job in self)

    def has_room(self, pairs: int) -> bool:
        """Whether so many more pairs may wait."""
        return self.pairs + pairs <= self.max_pairs

    def ends_at(self, job: Job[AnyTicket], free_at: float) -> float:
        """When a job added now is predicted to end, with the device free at ``free_at``; monotonic seconds."""
        jobs = self._jobs.get(job.model, [])
        place = bisect.bisect_right(jobs, job.deadline, key=lambda other: other.deadline)
        own_s = sum(other.remaining_s for other in jobs[:place]) + job.remaining_s
        return self._ends_at(job.model, own_s, free_at)

    def on_time(self, job: Job[AnyTicket], now: float, free_at: float) -> bool:
        """Whether ``job`` would end in time, and makes no job of its model late that would end in time without it.

        A margin of each job's time left is kept free.
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

    def add(self, job: Job[AnyTicket]) -> None:
        """Add a job behind those of its model with the same or an earlier deadline."""
        bisect.insort_right(self._jobs.setdefault(job.model, []), job, key=lambda other: other.deadline)

    def remove(self, job: Job[AnyTicket]) -> None:
        """Remove a job if it waits."""
        if job in (jobs := self._jobs.get(job.model, [])):
            jobs.remove(job)
            self._drop_empty()

    def shorten(self, now: float) -> list[tuple[Job[AnyTicket], int]]:
        """Make jobs with a ``least`` give up portions that can no longer end in time; return which, and how many pairs.

        A job without a waiting pair leaves the queue.
        """
        shortened = [(job, pairs) for jobs in self._jobs.values() for job, pairs in _shortened(jobs, now)]
        if shortened:
            self.drop_done()
        return shortened

    def drop_done(self) -> None:
        """Remove jobs without a waiting pair."""
        self._jobs = {model: [job for job in jobs if job.waiting] for model, jobs in self._jobs.items()}
        self._drop_empty()

    def late(self, now: float) -> list[Job[AnyTicket]]:
        """Remove and return the jobs that can no longer end in time behind those before them, to save device time."""
        late = [job for jobs in self._jobs.values() for job in _late(jobs, now)]
        for job in late:
            self._jobs[job.model].remove(job)
        self._drop_empty()
        return late

    def take(self, now: float) -> Batch[AnyTicket] | None:
        """Take the next batch; None if no job waits. Jobs whose last pair was taken leave the queue."""
        if not self._jobs:
            return None
        wanted = [model for model, jobs in self._jobs.items() if not all(job.is_spare for job in jobs)]
        model = self.shares.pick(wanted or self._jobs)
        batch = next_batch(self._jobs[model], now)
        self.drop_done()
        if not batch.pairs[0][0].is_spare:  # charging spare time would predict other models slower
            self.shares.charge(model, batch.predicted_s, now)
        return batch

    def rescale(self, model: str, factor: float) -> None:
        """Multiply the predicted time of a model's waiting jobs: above 1 if the device has become slower."""
        for job in self._jobs.get(model, ()):
            job.remaining_s *= factor

    def _ends_at(self, model: str, own_s: float, free_at: float) -> float:
        return free_at + own_s * self._slowdown(model, own_s, free_at) + self.shares.turn_s(model, free_at)

    def _slowdown(self, model: str, own_s: float, free_at: float) -> float:
        """The factor by which other models' waiting jobs or recent use stretch ``own_s`` seconds of a model.

        Meanwhile no other model gets more than its share.
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


def _margin_s(job: Job[AnyTicket], seconds: float, now: float) -> float:
    """Seconds kept free before the deadline of a job that is predicted to end in ``seconds``."""
    return max(_MARGIN * max(0.0, job.deadline - now), job.limits.doubt_s(seconds))


def _shortened(jobs: list[Job[AnyTicket]], now: float) -> Iterator[tuple[Job[AnyTicket], int]]:
    """Shorten ``jobs``, earliest deadline first, to what would end in time by an optimistic prediction; yield each
    that gave up pairs, and how many."""
    end = now
    for job in jobs:
        if job.least and (pairs := job.shorten((job.deadline - end) / _OPTIMISM)):
            yield job, pairs
        if end + _least_s(job) < job.deadline:
            end += _least_s(job)


def _late(jobs: list[Job[AnyTicket]], now: float) -> Iterator[Job[AnyTicket]]:
    """Those of ``jobs``, earliest deadline first, that would be late even by an optimistic prediction; the others are
    predicted without them."""
    end = now
    for job in jobs:
        if end + _least_s(job) >= job.deadline:
            yield job
        else:
            end += _least_s(job)


def _least_s(job: Job[AnyTicket]) -> float:
    return 0.0 if job.probe else _OPTIMISM * job.remaining_s
