"""Cuts the pairs of jobs into batches. Pure: no clock, no I/O.

A batch holds pairs of similar length, the longest first, so that little is lost to padding; a model that packs its
pairs end to end has no padding, and takes any length. Room that is left is filled from the next jobs of the same model.
"""

import math
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Generic, TypeVar

AnyTicket = TypeVar("AnyTicket")
PredictS = Callable[[int, float], float]
"""Predicts the seconds of a forward pass of (pairs, tokens of each)."""

_LEAST_GAIN = 0.25
"""A later job's pairs must save this share more device time than they add to a batch, since those in it wait longer."""
_MOST_JOBS = 16
"""Most jobs that one batch is filled from, so that the search for pairs takes negligible time."""
_DOUBT = 1.5
"""Mean distances from the prediction that an admitted job should survive. With 2 less is wasted under overload (2.6 %
of the device's time instead of 3.2 in tests/property/test_load.py), but more is refused below capacity."""
_GROWTH = 2
"""Each portion of a job ends at this many times the pair count at which the one before it ends."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one forward pass may hold: ``max_batch_tokens`` with padding, and ``max_batch_s`` of predicted time.

    ``spread`` returns the recent mean distance of passes from their prediction, as a share of it; ``packed``: there is
    no padding. Each loaded model has an instance of its own, also one that is loaded anew under the same name.
    """

    max_batch_tokens: int
    max_batch_s: float
    predict_s: PredictS
    spread: Callable[[], float] = lambda: 0.0
    packed: bool = False

    def fits(self, pairs: int, length: float) -> bool:
        """Whether one pass may hold that many pairs of that padded length; a single pair always fits."""
        if pairs == 1:
            return True
        return pairs * length <= self.max_batch_tokens and self.predict_s(pairs, length) <= self.max_batch_s

    def doubt_s(self, seconds: float) -> float:
        """Seconds by which that many predicted seconds may be off, in all passes alike: what slows one down, such as
        other work on the same cores, slows those after it down as well."""
        return _DOUBT * self.spread() * seconds

    def row_s(self, tokens: int) -> float:
        """Predicted seconds that one more pair of ``tokens`` adds to a pass of that padded length."""
        return self.predict_s(2, tokens) - self.predict_s(1, tokens)


@dataclass(slots=True)
class Load:
    """A batch that is being filled with pairs, longest first, until padding would cost more than a new pass.

    So padding and passes together cost at most twice what the best cut would, and mostly within 5 % of it. Assumes that
    the time of a pass is linear in its pairs.
    """

    limits: Limits
    longest: int
    pairs: int = 0
    tokens: int = 0
    """Tokens so far, with padding."""
    rows_s: float = 0.0
    padding_s: float = 0.0
    pass_s: float = field(init=False)
    """Predicted seconds of a pass without its pairs."""
    longest_row_s: float = field(init=False)
    """Predicted seconds that a pair of ``longest`` tokens adds."""

    def __post_init__(self) -> None:
        self.longest_row_s = self.limits.row_s(self.longest)
        self.pass_s = self.limits.predict_s(1, self.longest) - self.longest_row_s

    def take(self, tokens: int, longest_s: float = math.inf) -> bool:
        """Add a pair if it fits; whether it did. ``longest_s`` bounds the predicted time of the batch."""
        limits = self.limits
        width, row_s, padding_s = tokens, self._row_s(tokens), 0.0
        if not limits.packed:
            width, row_s, padding_s = self.longest, self.longest_row_s, self.longest_row_s - row_s
        if self.pairs and (
            tokens > width
            or not self._holds(width, row_s, min(longest_s, limits.max_batch_s))
            or self.padding_s + padding_s > self.pass_s
        ):
            return False
        self.pairs += 1
        self.tokens += width
        self.rows_s += row_s
        self.padding_s += padding_s
        return True

    def _row_s(self, tokens: int) -> float:
        """As :meth:`Limits.row_s`, by one prediction instead of two: called for each pair at each cut."""
        return self.limits.predict_s(1, tokens) - self.pass_s

    def _holds(self, tokens: int, row_s: float, bound_s: float) -> bool:
        return self.tokens + tokens <= self.limits.max_batch_tokens and self.pass_s + self.rows_s + row_s <= bound_s

    @property
    def full(self) -> bool:
        """Whether no pair of any length fits."""
        least = 1 if self.limits.packed else self.longest
        return self.pairs > 0 and not self._holds(least, self._row_s(least), self.limits.max_batch_s)

    @property
    def length(self) -> float:
        """Tokens that each pair costs: those of the longest if the others are padded to it; the mean if packed."""
        return self.tokens / self.pairs if self.pairs else self.longest

    @property
    def predicted_s(self) -> float:
        """Predicted seconds of the batch as it is; 0 while it is empty."""
        return self.pass_s + self.rows_s if self.pairs else 0.0


SPARE_TIME = ("spare time",)
"""The caller of spare-time work, which is submitted only while nobody else wants the device."""


@dataclass(eq=False)
class Job(Generic[AnyTicket]):
    """All pairs of one request. ``ticket`` is what its submitter knows it by; ``lengths[i]`` is the token count of pair
    ``i``; ``deadline`` a monotonic time in s.

    ``caller`` goes from the whole to the part (a host, then a policy); under overload capacity is shared evenly at each
    level. A ``probe`` was admitted although it is predicted to be late, to learn whether the prediction still holds.

    With ``least`` the scores of the first ``least`` pairs suffice (None: all are needed). These pairs go to the device
    first, the others behind them in portions, so that the scores that are there in time are those of the first pairs.
    """

    ticket: AnyTicket
    model: str
    lengths: Sequence[int]
    deadline: float
    limits: Limits
    caller: tuple[str, ...] = ()
    probe: bool = False
    least: int | None = None
    wanted: int = field(init=False)
    """How many of the first pairs are to be scored: all, unless the job was shortened."""
    waiting: list[int] = field(init=False)
    """Pairs not yet given to the device, in the order in which they go there: by portion, longest first in each."""
    remaining_s: float = field(init=False)
    """Predicted device time of those pairs, if no other job shares their batches."""

    def __post_init__(self) -> None:
        self.wanted = len(self.lengths)
        longest_first = sorted(range(self.wanted), key=self.lengths.__getitem__, reverse=True)
        self.keep(sorted(longest_first, key=self._ends_of) if self.least else longest_first)

    @property
    def is_spare(self) -> bool:
        """Whether it is spare-time work: other models' jobs go first, and are not predicted to be slowed by it."""
        return self.caller == SPARE_TIME

    @property
    def mostly_waits(self) -> bool:
        """Whether the device has had less than half of its pairs."""
        return 2 * len(self.waiting) > self.wanted

    def _ends_of(self, pair: int) -> int:
        """The pair count at which the portion of a pair ends; may exceed the job's."""
        end = self.least or len(self.lengths)
        while end <= pair:
            end *= _GROWTH
        return end

    @property
    def spare_pairs(self) -> int:
        """How many of the waiting pairs could be given up: those behind the first ``least``."""
        least = self.least
        return len(self.waiting) - bisect_left(self.waiting, True, key=lambda pair: pair >= least) if least else 0

    def give_up_portion(self) -> int:
        """Give up the last waiting portion; return how many pairs, 0 if it is the needed one.

        Pairs that went to the device are not given up.
        """
        end = self._ends_of(self.waiting[-1]) if self.waiting else 0
        if end <= (self.least or end):
            return 0
        before, self.wanted = len(self.waiting), end // _GROWTH
        self.keep([pair for pair in self.waiting if pair < self.wanted])
        return before - len(self.waiting)

    def shorten(self, seconds: float) -> int:
        """Give up the last waiting portions while the rest would take ``seconds`` or more; return how many pairs."""
        given_up = 0
        while self.remaining_s >= seconds and (pairs := self.give_up_portion()):
            given_up += pairs
        return given_up

    def keep(self, waiting: list[int]) -> None:
        """Replace the waiting pairs, in order, and predict their device time anew."""
        self.waiting = waiting
        lengths = [self.lengths[pair] for pair in waiting]
        if self.least:  # batches are filled across portions, as if there were none
            lengths.sort(reverse=True)
        self.remaining_s = sum(seconds for _, seconds in runs(lengths, self.limits))

    def drop_run(self, pairs: Sequence[int], seconds: float) -> None:
        """Remove waiting pairs that :func:`runs` would cut as one run of ``seconds``.

        So the rest need not be cut anew, which would take most of the time between two batches.
        """
        if self.waiting[: len(pairs)] == pairs:
            self.waiting = self.waiting[len(pairs) :]
        else:
            gone = set(pairs)
            self.waiting = [pair for pair in self.waiting if pair not in gone]
        self.remaining_s = max(0.0, self.remaining_s - seconds) if self.waiting else 0.0


@dataclass(frozen=True, slots=True)
class Batch(Generic[AnyTicket]):
    """Pairs of one model for one forward pass, as (job, pair) in order; ``predicted_s`` is its predicted time.

    ``length`` is the number of tokens that each pair costs, see :attr:`Load.length`.
    """

    model: str
    pairs: Sequence[tuple[Job[AnyTicket], int]]
    length: float
    predicted_s: float


def runs(lengths: Sequence[int], limits: Limits) -> Iterator[tuple[Sequence[int], float]]:
    """Cut descending lengths into the runs that are batched together, each with its predicted seconds."""
    start, end = 0, 0
    while start < len(lengths):
        load = Load(limits, lengths[start])
        while end < len(lengths) and load.take(lengths[end]):
            end += 1
        yield lengths[start:end], load.predicted_s
        start = end


def next_batch(jobs: Sequence[Job[AnyTicket]], now: float) -> Batch[AnyTicket]:
    """Move pairs out of ``jobs`` (at least one, all of one model, earliest deadline first) into one batch.

    Jobs share a batch only if they have the same limits object: while a model is replaced, earlier jobs are still
    scored by the old one. Pairs of a later job join only if that markedly shortens all work together, and as far as it
    makes no job before it late, if the device takes the predicted time. Without that gain jobs would only wait for each
    other, and all end late.
    """
    head = jobs[0]
    load, pairs = _first_run(head)
    taken = [(head, pair) for pair in pairs]
    end = now + head.remaining_s + load.predicted_s
    slack_s = max(0.0, head.deadline - end)
    for job in jobs[1:_MOST_JOBS]:
        if load.full:
            break
        before_s, end = load.predicted_s, end + job.remaining_s
        load, pairs = _joined(load, job, before_s + slack_s)
        taken += ((job, pair) for pair in pairs)
        slack_s = min(slack_s - (load.predicted_s - before_s), max(0.0, job.deadline - end))
    return Batch(head.model, taken, load.length, load.predicted_s)


def _joined(load: Load, job: Job[AnyTicket], longest_s: float) -> tuple[Load, list[int]]:
    """Fill the batch with pairs taken from a later job, and return both; the same batch and no pairs if that does not
    pay, or if one of the two is of a model that was replaced."""
    if job.limits is not load.limits:
        return load, []
    waiting, remaining_s, filled = job.waiting, job.remaining_s, copy(load)
    pairs = _fill(filled, job, longest_s)
    longer_s, shorter_s = filled.predicted_s - load.predicted_s, remaining_s - job.remaining_s
    if shorter_s >= (1 + _LEAST_GAIN) * longer_s:
        return filled, pairs
    job.waiting, job.remaining_s = waiting, remaining_s
    return load, []


def _first_run(job: Job[AnyTicket]) -> tuple[Load, list[int]]:
    """Move the first waiting pairs of ``job`` into a new batch, while they fit and are worth its padding.

    Unless packed, pairs of later portions that fit are taken too, or each portion would end a batch.
    """
    load = Load(job.limits, job.lengths[job.waiting[0]])
    taken = list(takewhile(lambda pair: load.take(job.lengths[pair]), job.waiting))
    if job.least and not load.limits.packed and not load.full:
        taken += [pair for pair in job.waiting[len(taken) :] if load.take(job.lengths[pair])]
    job.drop_run(taken, load.predicted_s)
    return load, taken


def _fill(load: Load, job: Job[AnyTicket], longest_s: float) -> list[int]:
    """Move pairs of ``job`` into the batch while they fit, are worth its padding, and keep it within ``longest_s``; but
    no spare pair while a needed one stays behind."""
    taken = []
    for pair in job.waiting:
        if load.take(job.lengths[pair], longest_s):
            taken.append(pair)
        elif job.least and pair < job.least:
            break
    if taken:
        gone = set(taken)
        job.keep([pair for pair in job.waiting if pair not in gone])
    return taken
