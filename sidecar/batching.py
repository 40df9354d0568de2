"""Which pairs go to the device next, which jobs can still make it, which are shed. Pure: no clock, no I/O.

Jobs are served earliest deadline first. A batch holds pairs of similar length, the longest first, so that little is
lost to padding; what room is left is filled from the next jobs of the same model.
"""

import bisect
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Key = TypeVar("Key")
PredictS = Callable[[int, int], float]
"""Seconds that (pairs, padded length) will take."""

_OPTIMISM = 0.7
"""A job is given up when it would be late even if the device took only this share of the predicted time."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one forward pass may hold: ``max_batch_tokens`` with padding, and ``max_batch_s`` of predicted time."""

    max_batch_tokens: int
    max_batch_s: float
    predict_s: PredictS

    def fits(self, pairs: int, length: int) -> bool:
        """Whether one pass may hold that many pairs of that padded length; a single pair always may."""
        if pairs == 1:
            return True
        return pairs * length <= self.max_batch_tokens and self.predict_s(pairs, length) <= self.max_batch_s

    def worth_padding(self, pairs: int, length: int, tokens: int) -> bool:
        """Whether a pair of ``tokens`` costs no more padded into a batch of ``pairs`` x ``length`` than by itself."""
        joined = self.predict_s(pairs + 1, length) - self.predict_s(pairs, length)
        return joined <= self.predict_s(1, tokens)


@dataclass(eq=False)
class Job(Generic[Key]):
    """All pairs of one request. ``lengths[i]`` is the token count of pair ``i``; ``deadline`` a monotonic time in s.

    A ``probe`` was admitted although it is predicted to be late, to learn whether the prediction still holds.
    """

    key: Key
    model: str
    lengths: Sequence[int]
    deadline: float
    limits: Limits
    probe: bool = False
    waiting: list[int] = field(init=False)
    """Pairs not yet given to the device, longest first."""
    remaining_s: float = field(init=False)
    """Predicted device time of those pairs, if no other job shares their batches."""

    def __post_init__(self) -> None:
        self.keep(sorted(range(len(self.lengths)), key=lambda pair: -self.lengths[pair]))

    def keep(self, waiting: list[int]) -> None:
        """Let only these pairs wait, longest first."""
        self.waiting = waiting
        lengths = [self.lengths[pair] for pair in waiting]
        self.remaining_s = sum(self.limits.predict_s(len(run), run[0]) for run in runs(lengths, self.limits))


@dataclass(frozen=True, slots=True)
class Batch(Generic[Key]):
    """Pairs of one model for one forward pass, as (job, pair) in order; ``predicted_s`` is its expected time."""

    model: str
    pairs: Sequence[tuple[Job[Key], int]]
    length: int
    predicted_s: float


def runs(lengths: Sequence[int], limits: Limits) -> Iterator[Sequence[int]]:
    """Cut descending lengths into the runs that are batched together."""
    start = 0
    while start < len(lengths):
        end = start + 1
        while end < len(lengths) and _joins(end - start, lengths[start], lengths[end], limits):
            end += 1
        yield lengths[start:end]
        start = end


def _joins(pairs: int, length: int, tokens: int, limits: Limits) -> bool:
    return limits.fits(pairs + 1, length) and limits.worth_padding(pairs, length, tokens)


class Queue(Generic[Key]):
    """The jobs that wait, earliest deadline first; equal deadlines in the order they came."""

    def __init__(self, max_pairs: int) -> None:
        self.max_pairs = max_pairs
        self._jobs: list[Job[Key]] = []

    def __len__(self) -> int:
        return len(self._jobs)

    @property
    def pairs(self) -> int:
        """Pairs that wait."""
        return sum(len(job.waiting) for job in self._jobs)

    def has_room(self, pairs: int) -> bool:
        """Whether that many more pairs may wait."""
        return self.pairs + pairs <= self.max_pairs

    def ahead_s(self, deadline: float) -> float:
        """Predicted device time of the jobs that would be served before one with this deadline."""
        place = bisect.bisect_right(self._jobs, deadline, key=lambda other: other.deadline)
        return sum(other.remaining_s for other in self._jobs[:place])

    def on_time(self, job: Job[Key], free_at: float) -> bool:
        """Whether ``job`` would end in time behind those before its deadline, with the device free at ``free_at``."""
        return free_at + self.ahead_s(job.deadline) + job.remaining_s <= job.deadline

    def add(self, job: Job[Key]) -> None:
        """Let a job wait for its turn."""
        bisect.insort_right(self._jobs, job, key=lambda other: other.deadline)

    def remove(self, job: Job[Key]) -> None:
        """Forget a job: its caller has gone, or it failed. Nothing happens when it does not wait."""
        if job in self._jobs:
            self._jobs.remove(job)

    def late(self, now: float) -> list[Job[Key]]:
        """Take out the jobs that can no longer end in time even if served next; the device does no wasted work."""
        late = [job for job in self._jobs if now + (0 if job.probe else _OPTIMISM * job.remaining_s) >= job.deadline]
        for job in late:
            self._jobs.remove(job)
        return late

    def take(self, now: float) -> Batch[Key] | None:
        """The next batch, or None when nobody waits. Jobs whose last pair was taken leave the queue.

        The pairs of a later job fill the batch only as far as that makes no job before it late.
        """
        if not self._jobs:
            return None
        head = self._jobs[0]
        length, limits = head.lengths[head.waiting[0]], head.limits
        taken: list[tuple[Job[Key], int]] = []
        slack_s, end = math.inf, now
        for job in self._jobs:
            end += job.remaining_s
            before_s = limits.predict_s(len(taken), length)
            if job.model == head.model:
                _fill(taken, job, length, limits, before_s + slack_s)
            slack_s = min(slack_s - (limits.predict_s(len(taken), length) - before_s), max(0.0, job.deadline - end))
        self._jobs = [job for job in self._jobs if job.waiting]
        return Batch(head.model, taken, length, limits.predict_s(len(taken), length))


def _fill(taken: list[tuple[Job[Key], int]], job: Job[Key], length: int, limits: Limits, longest_s: float) -> None:
    """Move pairs of ``job`` into the batch while they fit, are worth its padding, and keep it within ``longest_s``."""
    left: list[int] = []
    for pair in job.waiting:
        tokens = job.lengths[pair]
        joins = tokens <= length and (not taken or _joins(len(taken), length, tokens, limits))
        if joins and limits.predict_s(len(taken) + 1, length) <= longest_s:
            taken.append((job, pair))
        else:
            left.append(pair)
    if len(left) < len(job.waiting):
        job.keep(left)
