"""A device in virtual time behind the real queue, admission and cost model: deterministic, and soon over."""

import heapq
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from sidecar import admission
from sidecar.batching import Batch, Job, Limits
from sidecar.cost import CostModel
from sidecar.job_queue import Queue
from sidecar.shares import Shares

Noise = Callable[[float], float]
"""What a forward pass at this time takes longer than the true cost model says, as a factor."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """A job that comes at a time, with its budget in s and the token counts of its pairs."""

    at: float
    budget_s: float
    lengths: Sequence[int]
    model: str = "m"
    caller: tuple[str, ...] = ()


@dataclass
class Run:
    """What became of each job: scored (in time), missed (scored too late), late (given up), refused, displaced."""

    ends: list[tuple[Arrival, str, float]] = field(default_factory=list)
    """Arrival, what became of it, and its answer's time."""
    used_s: float = 0.0
    wasted_s: float = 0.0
    over_at: float = 0.0

    def count(self, end: str, **of: object) -> int:
        """Jobs that ended so, of those with these attributes."""
        return sum(what == end and _is(arrival, of) for arrival, what, _ in self.ends)

    def share(self, end: str, **of: object) -> float:
        """The same as a share of those jobs."""
        return self.count(end, **of) / max(1, sum(_is(arrival, of) for arrival, _, _ in self.ends))

    @property
    def counts(self) -> Counter[str]:
        """How many ended each way."""
        return Counter(what for _, what, _ in self.ends)

    @property
    def wasted(self) -> float:
        """Share of the device's busy time spent on jobs that were not scored in time."""
        return self.wasted_s / max(1e-9, self.used_s)

    @property
    def useful_s(self) -> float:
        """Device time of the jobs that were scored in time."""
        return self.used_s - self.wasted_s

    def overrun_s(self) -> float:
        """How far beyond its budget the latest answer came; a caller that waits is answered at its deadline."""
        return max(answered - arrival.at - arrival.budget_s for arrival, _, answered in self.ends)


def _is(arrival: Arrival, of: Mapping[str, object]) -> bool:
    return all(getattr(arrival, name) == value for name, value in of.items())


class Simulation:
    """One run: ``truth`` is what each model really costs, ``believed`` what the server thinks at first."""

    def __init__(
        self,
        truth: Mapping[str, CostModel],
        *,
        believed: Mapping[str, CostModel] | None = None,
        noise: Noise = lambda _: 1.0,
        max_batch_s: float = 0.05,
        weights: Mapping[str, float] | None = None,
        max_pairs: int = 100_000,
    ) -> None:
        self._truth = truth
        self._cost = {name: _copy(cost) for name, cost in (believed or truth).items()}
        self._limits = {name: _limits(cost, max_batch_s) for name, cost in self._cost.items()}
        self._noise = noise
        self._queue: Queue[Arrival] = Queue(max_pairs, Shares(weights))
        self._free_at = 0.0
        self._device: tuple[float, float, Batch[Arrival]] | None = None
        self._spent: Counter[Job[Arrival]] = Counter()
        self._missing: Counter[Job[Arrival]] = Counter()
        self._run = Run()

    def run(self, arrivals: Iterable[Arrival]) -> Run:
        """Let all arrive, and serve until nobody waits."""
        coming = sorted(arrivals, key=lambda arrival: arrival.at)
        now, place = 0.0, 0
        while place < len(coming) or self._device or self._queue:
            ends_at = self._device[0] if self._device else float("inf")
            if place < len(coming) and coming[place].at <= ends_at:
                now = coming[place].at
                self._arrive(coming[place], now)
                place += 1
            else:
                now = ends_at
                self._finish(now)
            if not self._device:
                self._start(now)
        self._run.over_at = now
        return self._run

    def _arrive(self, arrival: Arrival, now: float) -> None:
        self._shed(now)
        limits = self._limits[arrival.model]
        deadline = arrival.at + arrival.budget_s
        job = Job(arrival, arrival.model, arrival.lengths, deadline, limits, arrival.caller)
        displaced = admission.admit(self._queue, job, now, max(now, self._free_at))
        if displaced is None:
            self._run.ends.append((arrival, "refused", now))
            return
        self._missing[job] = len(arrival.lengths)
        for other in displaced:
            self._end(other, "displaced", now)

    def _start(self, now: float) -> None:
        self._shed(now)
        if batch := self._queue.take(now):
            took_s = self._truth[batch.model].predict_s(len(batch.pairs), batch.length) * self._noise(now)
            self._free_at = now + batch.predicted_s
            self._device = (now + took_s, took_s, batch)

    def _finish(self, now: float) -> None:
        assert self._device
        _, took_s, batch = self._device
        self._device, self._free_at = None, now
        self._run.used_s += took_s
        self._queue.rescale(batch.model, self._cost[batch.model].observe(len(batch.pairs), batch.length, took_s))
        for job, _ in batch.pairs:
            self._spent[job] += took_s / len(batch.pairs)  # type: ignore[assignment]
            self._missing[job] -= 1
            if self._missing[job] == 0:
                self._end(job, "scored" if now <= job.deadline else "missed", now)

    def _shed(self, now: float) -> None:
        for job in self._queue.late(now):
            self._end(job, "late", now)

    def _end(self, job: Job[Arrival], how: str, now: float) -> None:
        spent_s = self._spent.pop(job, 0.0)
        if how != "scored":
            self._run.wasted_s += spent_s
        self._run.ends.append((job.ticket, how, min(now, job.deadline)))


def _limits(cost: CostModel, max_batch_s: float) -> Limits:
    return Limits(16_384, max_batch_s, cost.predict_s, lambda: cost.spread)


def _copy(cost: CostModel) -> CostModel:
    return CostModel(cost.overhead_s, cost.token_s, cost.attention_s)


def constant(rate: float, seconds: float, start: float = 0.0) -> Iterator[float]:
    """Times of arrivals at even distances."""
    return (start + number / rate for number in range(int(rate * seconds)))


def poisson(rate: float, seconds: float, seed: int) -> Iterator[float]:
    """Times of arrivals that know nothing of each other."""
    draw = random.Random(seed)
    now = draw.expovariate(rate)
    while now < seconds:
        yield now
        now += draw.expovariate(rate)


def lognormal_lengths(pairs: int, mean: float, draw: random.Random) -> list[int]:
    """Token counts as real documents have them: sigma 0.6, at most 512."""
    return [min(512, max(4, round(draw.lognormvariate(-0.18, 0.6) * mean))) for _ in range(pairs)]


def merged(*streams: Iterable[Arrival]) -> list[Arrival]:
    """Arrivals of several callers, in the order of time."""
    return list(heapq.merge(*streams, key=lambda arrival: arrival.at))
