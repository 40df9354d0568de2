"""What a caller of the scheduler waits for, and its results."""

import asyncio
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sidecar.batching import Job
from sidecar.errors import Fallback
from sidecar.loaded import LoadedModel
from sidecar.scoring.base import Pair, Scores


@dataclass(eq=False)
class Ticket:
    """What one caller waits for; the key of its :class:`Job`. Answered by the event loop or the device's thread."""

    model: LoadedModel
    pairs: Sequence[Pair]
    future: "asyncio.Future[Scores]"
    scores: Scores = field(init=False)
    missing: int = field(init=False)
    started_at: float | None = field(default=None, init=False)
    device_s: float = field(default=0.0, init=False)
    """Its part of the device's time so far, for scores that came."""
    late: Fallback | None = field(default=None, init=False)
    """Why some pairs will not be scored; None if all will."""
    _answered: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self.scores = np.full(len(self.pairs), np.nan, np.float32)
        self.missing = len(self.pairs)

    @property
    def is_over(self) -> bool:
        """Whether it is answered, or its future is done: the caller has gone."""
        return self._answered or self.future.done()

    def fail(self, error: Exception) -> None:
        """Answer with an error, unless answered or abandoned already."""
        self._answer(self.future.set_exception, error)

    def put(self, pairs: Sequence[int], scores: Scores, took_s: float) -> None:
        """Store the scores of some pairs, and the device time they took together; answer if none is missing now."""
        self.scores[pairs] = scores
        self.device_s += took_s
        self._count_down(len(pairs))

    def wasted_s(self, least: int | None) -> float:
        """Device time for scores nobody gets: none if answered in full; with ``least`` or more leading scores, the
        share of those behind them; else all."""
        if self.future.done() and not self.future.cancelled() and not self.future.exception() and not self.late:
            return 0.0
        there = np.isfinite(self.scores)
        first = len(there) if there.all() else int(there.argmin())
        return self.device_s * (1 - first / there.sum()) if least and first >= least else self.device_s

    def do_without(self, pairs: int, why: Fallback) -> None:
        """Note that so many pairs will not be scored, and why; answer if no others are missing."""
        self.late = why
        self._count_down(pairs)

    def _count_down(self, pairs: int) -> None:
        self.missing -= pairs
        if self.missing == 0:
            self._answer(self.future.set_result, self.scores)

    def _answer(self, complete: Callable[[Any], None], answer: object) -> None:
        self._answered = True
        try:
            self.future.get_loop().call_soon_threadsafe(self._complete, complete, answer)
        except RuntimeError:  # the loop is closed, and nobody waits any more
            return

    def _complete(self, complete: Callable[[Any], None], answer: object) -> None:
        if not self.future.done():
            complete(answer)


def sample_job(model: LoadedModel, loop: asyncio.AbstractEventLoop, deadline: float) -> Job[Ticket]:
    """A job of the model's sample pair alone, to try the model with; nobody waits for its scores."""
    future: asyncio.Future[Scores] = loop.create_future()
    future.add_done_callback(lambda over: over.cancelled() or over.exception())
    ticket = Ticket(model, [model.sample], future)
    return Job(ticket, model.name, [model.sample.tokens], deadline, model.limits, probe=True)


@dataclass(frozen=True, slots=True)
class Scored:
    """Scores of the pairs of the first ``groups`` groups; ``late`` says why some groups are missing, if the job was
    shortened in the queue."""

    scores: Scores
    groups: int
    late: Fallback | None = None


@dataclass(frozen=True, slots=True)
class Spent:
    """Milliseconds of a job: waiting for the device, from then until it was answered or given up, and of the device for
    the scores it got."""

    queue_ms: float
    score_ms: float
    device_ms: float


@dataclass(frozen=True, slots=True)
class Submitted:
    """A job that was queued at ``at``, predicted to end at ``ends_at`` (monotonic seconds); ``group_ends`` says where
    each of its groups ends among its pairs."""

    job: Job[Ticket]
    group_ends: Sequence[int]
    at: float
    ends_at: float

    @property
    def groups(self) -> int:
        """How many groups were queued."""
        return len(self.group_ends)

    @property
    def kept_groups(self) -> int:
        """How many of them are left, as the job may have been shortened since."""
        return bisect_right(self.group_ends, self.job.wanted)

    def spent(self, now: float) -> Spent:
        """Where the job's time went, up to ``now``."""
        ticket = self.job.ticket
        started = now if ticket.started_at is None else min(now, ticket.started_at)
        return Spent(1e3 * (started - self.at), 1e3 * (now - started), 1e3 * ticket.device_s)
