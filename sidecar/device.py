"""The thread that owns the device: it takes one batch after the other from the queue, without the event loop.

So the device goes on while the loop parses a large message, and no batch waits for the loop to wake up. If a scorer
only launches its passes, as on CUDA, the next batch is chosen, packed and launched shortly before the one on the device
is predicted to end: one batch ahead, chosen as late as possible. A second thread then waits for the scores, to know
when a pass ended.
"""

import math
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from operator import itemgetter

import numpy as np

from sidecar.batching import Batch
from sidecar.breaker import Breaker
from sidecar.errors import BudgetExhausted, ModelError
from sidecar.job_queue import Queue
from sidecar.loaded import LoadedModel
from sidecar.logs import log
from sidecar.metrics import Metrics
from sidecar.scoring.base import DeviceLost, Launches, Pair, Scores
from sidecar.tickets import Ticket, sample_job

_COMPLAIN_EVERY_S = 10.0
"""Failed passes of one model are logged at most once in this time."""
_CAUSE_CHARS = 200
_LOST_ADVICE = "restart this sidecar: a device does not come back within a process; replies keep the engine's order"
_LEAD_S = 0.004
"""A batch ahead is chosen this long before the predicted end of the other one, or earlier by the prediction's doubt:
packing and launching a few hundred pairs takes so long."""


@dataclass(slots=True, eq=False)
class Flight:
    """A batch that went to the device at ``at`` (monotonic seconds). ``scores`` returns its scores: it waits for a
    ``launched`` pass, and runs any other. ``landed`` is the result and when it came; None until then."""

    batch: Batch[Ticket]
    at: float
    scores: Callable[[], Scores]
    launched: bool = False
    landed: "tuple[Scores | ModelError, float] | None" = None


class Device:
    """Scores the jobs of ``queue``, which may be used only with :attr:`lock` held."""

    def __init__(
        self,
        queue: Queue[Ticket],
        metrics: Metrics,
        clock: Callable[[], float],
        on_death: Callable[[BaseException], None],
    ) -> None:
        """``on_death`` is called in the thread when an unexpected error has ended it."""
        self.lock = threading.Condition()
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="device")
        self._arrivals = ThreadPoolExecutor(1, thread_name_prefix="arrivals")
        self._queue = queue
        self._metrics = metrics
        self._clock = clock
        self._on_death = on_death
        self._serving = False
        self._stopped = False
        self.lost = False
        """Whether the device is gone for this process."""
        self._flights: tuple[Flight, ...] = ()
        self._landed_at = 0.0
        self._complained_at: dict[str, float] = {}
        self.breakers: defaultdict[str, Breaker] = defaultdict(Breaker)
        """The breaker of each model's passes; use with :attr:`lock` held."""
        self._served: dict[str, LoadedModel | None] = {}
        """For each name whose model was replaced or dropped: the model whose passes still count, None for none."""
        self.failing: dict[str, LoadedModel] = {}
        """The models whose breakers are open; use with :attr:`lock` held."""

    @property
    def busy(self) -> bool:
        """Whether a batch is on the device."""
        return bool(self._flights)

    @property
    def models(self) -> set[str]:
        """Names of the models with a batch on the device."""
        return {flight.batch.model for flight in self._flights}

    @property
    def free_at(self) -> float:
        """When the batches on the device are predicted to end, or the last one ended; monotonic seconds."""
        flights = self._flights
        start = max(self._landed_at, flights[0].at) if flights else self._landed_at
        return start + sum(flight.batch.predicted_s for flight in flights)

    def wake(self) -> None:
        """Wake the thread, as a job was queued, or start it; call with the lock held."""
        self.lock.notify()
        if not self._serving and not self._stopped:
            self._serving = True
            self.thread.submit(self._serve)

    def forget(self, model: str, instead: LoadedModel | None) -> None:
        """Forget how a model's passes went, and count only those of ``instead`` (None: of none); needs the lock."""
        self._served[model] = instead
        self.failing.pop(model, None)
        self.breakers.pop(model, None)
        self._complained_at.pop(model, None)

    def stop(self) -> None:
        """Take no more batches; the one on the device is not waited for."""
        with self.lock:
            self._stopped = True
            self.lock.notify()
        self.thread.shutdown(wait=False, cancel_futures=True)
        self._arrivals.shutdown(wait=False)

    def shed_late(self) -> None:
        """Shorten the jobs that can no longer end whole in time, and fail those that cannot even so; needs the lock.

        So pairs that would be late never reach the device.
        """
        now = self._clock()
        for job, pairs in self._queue.shorten(now):
            self._metrics.shed_pairs.labels("late").inc(pairs)
            job.ticket.do_without(pairs, BudgetExhausted("the budget was too short to score all candidates"))
        for job in self._queue.late(now):
            self._metrics.shed_pairs.labels("late").inc(len(job.waiting))
            job.ticket.fail(BudgetExhausted("the job could no longer end within its budget"))

    def _serve(self) -> None:
        """Score one batch after the other until the queue is empty. An error of its own is logged, and ends it."""
        try:
            while (batch := self._next()) or self._flights:
                ahead = self._flights
                flight = self._launch(batch) if batch else None
                for one in ahead:
                    self._land(one)
                if flight and not flight.launched:
                    self._land(flight)
        except BaseException as error:  # noqa: BLE001 - if the thread ended silently, all would wait for ever
            log.critical("device_thread_ended", error=type(error).__name__, exc_info=error)
            self._on_death(error)

    def _next(self) -> Batch[Ticket] | None:
        """The next batch; None if there is none. Behind another batch it is chosen as late as possible, and is None if
        that ends before a job comes."""
        with self.lock:
            for ahead in self._flights:
                self._wait_for_end_of(ahead)
            self.shed_late()
            batch = None if self._stopped else self._queue.take(self._clock())
            self._serving = bool(batch or self._flights)
            return batch

    def _wait_for_end_of(self, flight: Flight) -> None:
        """Wait until a batch is about to end, and from then on until it has ended or a job waits."""
        batch = flight.batch
        lead_s = _LEAD_S + batch.pairs[0][0].limits.doubt_s(batch.predicted_s)
        self.lock.wait_for(lambda: self._stopped or flight.landed, max(0.0, self.free_at - lead_s - self._clock()))
        self.lock.wait_for(lambda: self._stopped or flight.landed or len(self._queue))

    def _launch(self, batch: Batch[Ticket]) -> Flight:
        now = self._clock()
        for job in dict.fromkeys(job for job, _ in batch.pairs):
            job.ticket.started_at = job.ticket.started_at or now
        pairs = [job.ticket.pairs[pair] for job, pair in batch.pairs]
        scorer = batch.pairs[0][0].ticket.model.scorer
        flight = Flight(batch, now, partial(scorer.score, pairs))
        self._flights = (*self._flights, flight)  # a launch may take its time, too
        if isinstance(scorer, Launches) and scorer.launches:
            flight.scores, flight.launched = _launched(scorer, pairs), True
            self._arrivals.submit(self._arrive, flight)
        return flight

    def _arrive(self, flight: Flight) -> None:
        """Wait for the scores of a batch, and note when they came.

        A launched pass is waited for in a thread of its own, to know when it ended, however far from its prediction.
        """
        scores = _scores_of(flight)
        with self.lock:
            flight.landed = scores, self._clock()
            self.lock.notify()

    def _land(self, flight: Flight) -> None:
        """Wait for the scores of a batch and hand them out; do nothing if it has landed before.

        A batch that failed is tried again job by job, after those launched meanwhile have landed.
        """
        if flight not in self._flights:
            return
        scores, took_s = self._awaited(flight)
        if isinstance(scores, ModelError):
            self._complain(flight.batch.model, scores)
            self._metrics.observe_waste(flight.batch.model, took_s)
            for behind in self._flights:
                self._land(behind)
            self._count_failure(flight.batch)
            self._isolate(flight.batch, scores)
        else:
            self._observe(flight.batch, took_s)
            self._hand_out(flight.batch, scores, took_s)

    def _awaited(self, flight: Flight) -> tuple[Scores | ModelError, float]:
        """Wait for a batch and take it off the device; return its scores or error, and its seconds on the device."""
        if not flight.launched:
            self._arrive(flight)
        with self.lock:
            self.lock.wait_for(lambda: flight.landed)
        assert flight.landed
        scores, now = flight.landed
        took_s = max(0.0, now - max(flight.at, self._landed_at))
        self._flights, self._landed_at = tuple(one for one in self._flights if one is not flight), now
        return scores, took_s

    def _count_failure(self, batch: Batch[Ticket]) -> None:
        """Count one more failed pass of its model.

        If that would open the breaker, the model first scores its sample: if it can, the callers' pairs are at fault
        and not the model, and the count begins anew.
        """
        ticket = batch.pairs[0][0].ticket
        if not self._counts(ticket.model):
            return
        with self.lock:
            doubtful = self.breakers[batch.model].opens_next and not self.lost
        sound = doubtful and self._takes_sample(ticket)
        with self.lock:
            breaker = self.breakers[batch.model]
            if sound:
                breaker.went_well()
            else:
                breaker.failed(self._clock())
            if breaker.is_open:
                self.failing[batch.model] = ticket.model

    def _counts(self, model: LoadedModel) -> bool:
        """Whether a model is the one served by its name: passes of an old one, for earlier calls, do not count."""
        return self._served.get(model.name, model) is model

    def _takes_sample(self, ticket: Ticket) -> bool:
        """Whether the model of a failed job can score its sample; True if it has none, as nothing could close the
        breaker then."""
        model = ticket.model
        try:
            job = sample_job(model, ticket.future.get_loop(), math.inf)
        except BaseException as error:  # noqa: BLE001 - a tokenizer that panics must not end the thread
            log.error("no_sample", model=model.name, error=type(error).__name__)
            return True
        (tokens,) = job.lengths
        batch = Batch(model.name, [(job, 0)], tokens, model.limits.predict_s(1, tokens))
        scores, took_s = self._awaited(self._launch(batch))
        if isinstance(scores, ModelError):
            self._complain(model.name, scores)
            self._metrics.observe_waste(model.name, took_s)
        return not isinstance(scores, ModelError)

    def _complain(self, model: str, error: ModelError) -> None:
        """Log why a pass failed, at most once in :data:`_COMPLAIN_EVERY_S` for each model.

        A pass sees token ids but no text, so its error message may be logged as it is.
        """
        self._metrics.failed_passes.labels(model).inc()
        now = self._clock()
        if now >= self._complained_at.get(model, -math.inf) + _COMPLAIN_EVERY_S:
            self._complained_at[model] = now
            cause = _said(error.__cause__)
            log.error("forward_failed", model=model, error=str(error), cause=cause, exc_info=error.__cause__)
        if isinstance(error.__cause__, DeviceLost) and not self.lost:
            self.lost = True
            self._metrics.device_lost.set(1)
            log.critical("device_lost", cause=_said(error.__cause__), advice=_LOST_ADVICE)

    def _observe(self, batch: Batch[Ticket], took_s: float) -> None:
        """Record a pass that succeeded, and correct predictions by the time it took."""
        model = batch.pairs[0][0].ticket.model
        with self.lock:
            if self._counts(model):
                self.breakers[batch.model].went_well()
                self.failing.pop(batch.model, None)
            self._queue.rescale(batch.model, model.cost.observe(len(batch.pairs), batch.length, took_s))
        self._metrics.observe_forward(batch.model, len(batch.pairs) * batch.length, batch.predicted_s, took_s)

    def _hand_out(self, batch: Batch[Ticket], scores: Scores, took_s: float) -> None:
        """Give each job its scores and its part of the time; a job's pairs are adjacent in a batch."""
        end = 0
        for job, pairs in groupby(batch.pairs, itemgetter(0)):
            places = [pair for _, pair in pairs]
            start, end = end, end + len(places)
            part_s = took_s * len(places) / len(batch.pairs)
            with self.lock:  # the job may be shortened meanwhile
                wasted = job.ticket.is_over
                if not wasted:
                    job.ticket.put(places, scores[start:end], part_s)
            if wasted:
                self._metrics.observe_waste(batch.model, part_s)

    def _isolate(self, batch: Batch[Ticket], error: ModelError) -> None:
        """Score each job of a failed batch alone, so that a bad pair fails only its job; a batch of one job fails."""
        jobs = list(dict.fromkeys(job for job, _ in batch.pairs))
        if len(jobs) == 1:
            with self.lock:
                self._queue.remove(jobs[0])
            jobs[0].ticket.fail(error)
            return
        for job in jobs:
            if not job.ticket.is_over:
                alone = [(other, pair) for other, pair in batch.pairs if other is job]
                predicted_s = job.limits.predict_s(len(alone), batch.length)
                self._land(self._launch(Batch(batch.model, alone, batch.length, predicted_s)))


def _said(error: BaseException | None) -> str:
    """The first line of an error's message, shortened; an error whose ``str`` raises must not end the thread."""
    try:
        return str(error or "").strip().split("\n")[0][:_CAUSE_CHARS]
    except BaseException as fault:  # noqa: BLE001 - whatever its code does
        return f"its text cannot be read: {type(fault).__name__}"


def _launched(scorer: Launches, pairs: Sequence[Pair]) -> Callable[[], Scores]:
    """Launch a pass; return a function that waits for its scores, or raises the error of the launch."""
    try:
        return scorer.launch(pairs)
    except BaseException as error:  # noqa: BLE001 - handled with the errors of the pass itself
        return partial(_raise, error)


def _raise(error: BaseException) -> Scores:
    raise error


def _scores_of(flight: Flight) -> Scores | ModelError:
    """The scores of a batch, or any failure as a :class:`ModelError`: even a model's interrupt or exit must not end the
    thread."""
    count = len(flight.batch.pairs)
    try:
        with np.errstate(over="ignore"):
            scores = np.asarray(flight.scores(), np.float32)
    except BaseException as cause:  # noqa: BLE001
        error = ModelError(f"the model raised {type(cause).__name__}")
        error.__cause__ = cause
        return error
    if scores.shape != (count,):
        return ModelError(f"the model returned scores of shape {scores.shape} for {count} pairs")
    return scores
