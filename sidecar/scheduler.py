"""Admits jobs to the queue of the device, and hands their scores to the waiters.

There is no wait timer: a batch grows while the device is busy with the one before. Whatever happens to the device's
thread, every waiter gets an answer: a shed or failed job's future gets a typed error, and is never cancelled.
"""

import asyncio
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from typing import NoReturn

from sidecar import admission
from sidecar.batching import Job
from sidecar.deadline import Deadline
from sidecar.device import Device
from sidecar.errors import CircuitOpen, ModelError, Overloaded
from sidecar.job_queue import Queue
from sidecar.loaded import LoadedModel
from sidecar.metrics import Metrics
from sidecar.scoring.base import Pair
from sidecar.shares import Shares
from sidecar.tickets import Scored, Spent, Submitted, Ticket, sample_job

Refusal = Overloaded | ModelError | CircuitOpen
"""Why a call is refused before it is tokenised."""

STALLED_AFTER_S = 10.0
"""A device this long overdue counts as stuck; new jobs are then refused at once."""
_PROBE_EVERY_S = 1.0
"""At most one job of a model in this time is tried although it is predicted to be late."""
_TRIAL_WAITS_S = 60.0
"""How long a trial of a failing model may wait for its turn."""
_SETTLED_S = 0.015
"""A waiter cancelled so shortly before its deadline takes the partial scores; one cancelled earlier has left."""
_LEAST_OF_TYPICAL = 0.5
"""Share of a typical job's time that must fit into the queue, or a call is refused before it is tokenised."""
_TYPICAL_SMOOTHING = 0.3
"""Weight of the newest job in the typical time of a document."""
_TYPICAL_DOUBT = 0.8
"""Factor on the typical time with each call refused by it: what those calls would take is never learnt, and one heavy
job must not keep all of its policy out."""
_SHRINK_STEP = 0.8
"""Size of each smaller window that is tried, as a share of the one before."""


class Scheduler:
    """The queue in front of one device, which its models share in proportion to their ``weights`` (default 1)."""

    def __init__(
        self,
        max_queued_pairs: int,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
        weights: Mapping[str, float] | None = None,
    ) -> None:
        self._queue: Queue[Ticket] = Queue(max_queued_pairs, Shares(weights))
        self._metrics = metrics
        self._clock = clock
        self._device = Device(self._queue, metrics, clock, self._on_death)
        metrics.queue_pairs.set_function(self._queued_pairs)
        self._unanswered: set[Job[Ticket]] = set()
        self._typical_s: dict[tuple[str, str], float] = {}
        self._probed_at: dict[str, float] = {}
        self._stopped: BaseException | None = None

    @property
    def device(self) -> ThreadPoolExecutor:
        """The one thread that may touch the device; for loading and warming up."""
        return self._device.thread

    @property
    def alive(self) -> bool:
        """Whether the scheduler serves; once it has stopped, or its thread has died, it never does again."""
        return self._stopped is None

    @property
    def stalled(self) -> bool:
        """Whether the device is busy more than :data:`STALLED_AFTER_S` after it was predicted to be free."""
        return self._device.busy and self._clock() > self._device.free_at + STALLED_AFTER_S

    def weigh(self, weights: Mapping[str, float]) -> None:
        """Replace the weights by which models share the device."""
        with self._device.lock:
            self._queue.shares.weigh(weights)

    @property
    def idle(self) -> bool:
        """Whether the device is idle, its queue is empty, and its thread serves."""
        with self._device.lock:
            return not self._device.busy and not len(self._queue) and self.alive

    def stop(self) -> None:
        """Fail all waiters and stop; a forward pass under way is not waited for."""
        self._device.stop()
        self._on_death(asyncio.CancelledError())

    @property
    def lost(self) -> bool:
        """Whether the device is gone for this process."""
        return self._device.lost

    @property
    def failing(self) -> set[str]:
        """Models whose last passes have all failed, that of their sample included."""
        with self._device.lock:
            return set(self._device.failing)

    def try_failing(self) -> None:
        """Queue a trial (the sample pair) of each failing model whose trial is due, unless it has work.

        Call it periodically, in the event loop: so models recover even without calls. Waiting work goes first.
        """
        now, loop = self._clock(), asyncio.get_running_loop()
        with self._device.lock:
            if self._broken():
                return
            idle = not self._device.busy and not len(self._queue)
            for name, model in self._device.failing.items():
                breaker = self._device.breakers[name]
                if breaker.is_due(now, idle=idle) and not self._has_work(name):
                    breaker.tried(now)
                    self._queue.add(sample_job(model, loop, now + _TRIAL_WAITS_S))
                    self._device.wake()

    def forget(self, model: str, *, instead: LoadedModel | None = None) -> None:
        """Forget how a model's passes went; it was dropped, or replaced by ``instead`` (None: dropped).

        Passes of the old model that are still to come no longer count.
        """
        with self._device.lock:
            self._device.forget(model, instead)
            self._probed_at.pop(model, None)
            self._typical_s = {kind: typical_s for kind, typical_s in self._typical_s.items() if kind[0] != model}

    def refusal(
        self,
        model: LoadedModel,
        deadline: Deadline,
        caller: tuple[str, ...] = (),
        documents: int = 0,
        *,
        shrinks: bool = False,
    ) -> Refusal | None:
        """Why a job submitted now would be refused, else None; asked before tokenising, which costs CPU time.

        ``documents``: its fewest. While jobs wait, it is refused too if half the recent typical time for so many (same
        model and policy) would be late. ``shrinks``: the window may shrink.
        """
        if broken := self._broken():
            return broken
        with self._device.lock:
            if model.name in self._device.failing:
                return _open(model)
            self._device.shed_late()
            late = self._would_be_late(model, deadline, caller, documents, shrinks=shrinks)
        return Overloaded("the jobs before it take longer than its budget") if late else None

    def refuse(self, refusal: Refusal, documents: int) -> NoReturn:
        """Raise a refusal; an Overloaded is counted as ``documents`` pairs that never reach the device."""
        if isinstance(refusal, Overloaded):
            self._metrics.shed_pairs.labels("refused").inc(documents)
        raise refusal

    def _broken(self) -> ModelError | None:
        if self._stopped:
            error = ModelError("the scheduler has stopped")
            error.__cause__ = self._stopped
            return error
        if self._device.lost:
            return ModelError("the device is gone; the sidecar has to be restarted")
        if self.stalled:
            return ModelError(f"the device has not answered for more than {STALLED_AFTER_S:.0f} s")
        return None

    def _would_be_late(
        self, model: LoadedModel, deadline: Deadline, caller: tuple[str, ...], documents: int, *, shrinks: bool
    ) -> bool:
        now = self._clock()
        free_at = max(now, self._device.free_at)
        if not len(self._queue):
            return free_at >= deadline.at
        pairs = [1] * (max(1, documents) if shrinks else 1)
        least: Job[None] = Job(None, model.name, pairs, deadline.at, model.limits, caller)
        least_s, kind = model.limits.predict_s(1, 1), _kind(model, caller)
        typical_s = self._typical_s.get(kind, 0.0) * documents
        least.remaining_s = max(least_s, _LEAST_OF_TYPICAL * typical_s)
        if admission.could_admit(self._queue, least, now, free_at):
            return False
        if shrinks and admission.could_squeeze_in(self._queue, least, free_at):
            return False
        if least.remaining_s > least_s:
            self._typical_s[kind] *= _TYPICAL_DOUBT
        return True

    def submit(
        self,
        model: LoadedModel,
        groups: Sequence[Sequence[Pair]],
        deadline: Deadline,
        min_groups: int | None = None,
        caller: tuple[str, ...] = (),
    ) -> Submitted:
        """Queue the pairs of each group (one document's); await :meth:`result` next.

        With ``min_groups`` (None: all are needed) only the first groups are queued, at least so many, if all would be
        late; others, down to ``min_groups``, may be given up while they wait. ``caller`` goes from the whole to the
        part (host, policy): under overload all callers of a level get the same.

        Raises:
            ValueError: there is no pair.
            Overloaded: the job would be late, or too many pairs wait.
            ModelError: the device is stuck or lost, or its thread has ended.
            CircuitOpen: the model's last passes have all failed.
        """
        if not any(groups):
            raise ValueError("a job has at least one pair")
        with self._device.lock:
            if broken := self._broken():
                raise broken
            if model.name in self._device.failing:
                raise _open(model)
            self._device.shed_late()
            submitted = self._admit(model, groups, deadline, min_groups, caller)
            self._unanswered.add(submitted.job)
            self._device.wake()
        return submitted

    async def result(self, submitted: Submitted) -> Scored:
        """Await the scores of a submitted job; if the waiter is cancelled, the job leaves the queue.

        Raises:
            BudgetExhausted: the job could no longer end in time.
            Overloaded: the job was displaced for another caller's.
            ModelError: the scorer raised or miscounted, or its thread has ended.
        """
        ticket = submitted.job.ticket
        try:
            scores = await ticket.future
        finally:
            self._forget(submitted.job)
        now = self._clock()
        self._metrics.observe_job(submitted.job.model, submitted.ends_at - submitted.at, now - submitted.at)
        groups = submitted.kept_groups
        kept = submitted.group_ends[groups - 1] if groups else 0
        return Scored(scores[:kept], groups, ticket.late)

    def spent(self, submitted: Submitted) -> Spent:
        """Where a submitted job's time went, up to now."""
        return submitted.spent(self._clock())

    def _admit(
        self,
        model: LoadedModel,
        groups: Sequence[Sequence[Pair]],
        deadline: Deadline,
        min_groups: int | None,
        caller: tuple[str, ...],
    ) -> Submitted:
        """Queue the largest window that would end in time, displacing or shortening jobs that have more if need be.

        Raises:
            Overloaded: too many pairs wait, or not even the smallest would end in time and it may not be a probe.
        """
        now = self._clock()
        free_at = max(now, self._device.free_at)
        for count in _sizes(len(groups), min_groups):
            job, ends = _job_of(model, groups[:count], deadline, min_groups, caller)
            if count == len(groups) > 0:
                self._learn_typical(model, caller, job.remaining_s / count)
            smallest = Submitted(job, ends, now, self._queue.ends_at(job, free_at))
            displaced = admission.admit(self._queue, job, now, free_at)
            if displaced is not None:
                self._displace(displaced)
                return smallest
        if min_groups and (shortened := admission.squeeze_in(self._queue, smallest.job, now, free_at)):
            self._shorten(shortened)
            return smallest
        pairs = len(smallest.job.lengths)
        has_room = self._queue.has_room(pairs)
        if has_room and self._probes(smallest.job):
            self._queue.add(smallest.job)
            return smallest
        self._metrics.shed_pairs.labels("refused").inc(sum(map(len, groups)))
        if has_room:
            raise Overloaded("the job would exceed its budget behind the queued jobs")
        waiting, most = self._queue.pairs, self._queue.max_pairs
        raise Overloaded(f"{waiting} pairs wait and {pairs} more came; at most {most} may wait")

    def _learn_typical(self, model: LoadedModel, caller: tuple[str, ...], document_s: float) -> None:
        kind = _kind(model, caller)
        before_s = self._typical_s.get(kind, document_s)
        self._typical_s[kind] = before_s + _TYPICAL_SMOOTHING * (document_s - before_s)

    def _displace(self, jobs: Sequence[Job[Ticket]]) -> None:
        for job in jobs:
            self._metrics.shed_pairs.labels("displaced").inc(len(job.waiting))
            job.ticket.fail(Overloaded("displaced: its caller has more waiting than the caller of a new job"))

    def _shorten(self, jobs: Sequence[tuple[Job[Ticket], int]]) -> None:
        for job, pairs in jobs:
            self._metrics.shed_pairs.labels("displaced").inc(pairs)
            job.ticket.do_without(pairs, Overloaded("shortened to make room for other calls"))

    def _probes(self, job: Job[Ticket]) -> bool:
        """Whether to try a job that is predicted to be late, since nothing else would ever correct the prediction.

        Only if its model has no work, and once in :data:`_PROBE_EVERY_S` for each model: one that was slow for a while
        must not stay switched off, and a budget that is truly too small must not keep the device busy. While other
        models have work, the model's share of the device bounds what a probe takes.
        """
        now = self._clock()
        if self._has_work(job.model) or now < self._probed_at.get(job.model, -math.inf) + _PROBE_EVERY_S:
            return False
        self._probed_at[job.model] = now
        job.probe = True
        return True

    def _has_work(self, model: str) -> bool:
        """Whether a job of the model is on the device or waits."""
        return model in self._device.models or bool(self._queue.of(model))

    def _forget(self, job: Job[Ticket]) -> None:
        """Remove a job that was answered, or whose caller has gone, and count what it wasted or shed."""
        future = job.ticket.future
        with self._device.lock:
            self._unanswered.discard(job)
            self._queue.remove(job)
        left = future.cancelled() and self._clock() < job.deadline - _SETTLED_S
        in_vain = left or (not future.cancelled() and isinstance(future.exception(), ModelError))
        self._metrics.observe_waste(job.model, job.ticket.wasted_s(None if in_vain else job.least))
        if job.waiting and future.cancelled():
            self._metrics.shed_pairs.labels("abandoned" if left else "late").inc(len(job.waiting))

    def _on_death(self, error: BaseException) -> None:
        """Fail all unanswered jobs, as the device's thread ends. Called in that thread, or by :meth:`stop`."""
        with self._device.lock:
            self._stopped = self._stopped or error
            for job in self._unanswered:
                job.ticket.fail(ModelError("the scheduler has stopped"))

    def _queued_pairs(self) -> int:
        with self._device.lock:
            return self._queue.pairs


def _open(model: LoadedModel) -> CircuitOpen:
    return CircuitOpen(f"the last passes of model {model.name!r} have all failed: it is tried once a second")


def _kind(model: LoadedModel, caller: tuple[str, ...]) -> tuple[str, str]:
    """The model and policy of a job, by which typical times are kept: a policy's documents are alike, and policies,
    unlike callers, are limited in number by the configuration."""
    return model.name, caller[-1] if caller else ""


def _job_of(
    model: LoadedModel,
    groups: Sequence[Sequence[Pair]],
    deadline: Deadline,
    min_groups: int | None,
    caller: tuple[str, ...],
) -> tuple[Job[Ticket], list[int]]:
    """A job of the pairs of these groups, and where each group ends among them."""
    pairs = [pair for group in groups for pair in group]
    ends = list(accumulate(map(len, groups)))
    least = ends[min(min_groups, len(groups)) - 1] if min_groups else None
    ticket = Ticket(model, pairs, asyncio.get_running_loop().create_future())
    lengths = [pair.tokens for pair in pairs]
    return Job(ticket, model.name, lengths, deadline.at, model.limits, caller, least=least), ends


def _sizes(count: int, minimum: int | None) -> Iterator[int]:
    """The window sizes to try: all ``count``, then ever fewer down to ``minimum``; only ``count`` without a minimum."""
    yield count
    while minimum is not None and count > minimum:
        count = max(minimum, int(count * _SHRINK_STEP))
        yield count
