"""Admits jobs when not all can be served; the callers that hold the most give way. Pure.

A single caller may use everything. If a job does not fit, callers that hold more than its own would give up their last
jobs for it, so that in the end all hold the same or have all they want ("longest queue drop", Wei, Coyle and Hsiao,
1991). Before a job of only the pairs that its call needs is refused, larger waiting jobs give up pairs that they do
not need: fewer hits for each call are better than none for some. Only waiting jobs are remembered of callers, so
callers cannot make the memory grow.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

from sidecar.batching import AnyTicket, Job
from sidecar.job_queue import Queue

_MOST_DISPLACED = 32
"""Most jobs displaced for one."""
_MOST_PORTIONS = 16
"""Most portions taken for one."""


def admit(queue: Queue[AnyTicket], job: Job[AnyTicket], now: float, free_at: float) -> list[Job[AnyTicket]] | None:
    """Queue a job that fits; return the jobs displaced for it, or None if it cannot be admitted.

    A job that is taken out and put back goes behind others with an equal deadline.
    """
    out: list[Job[AnyTicket]] = []
    while not fits(queue, job, now, free_at):
        victim = _victim(queue, job) if len(out) < _MOST_DISPLACED else None
        if victim is None:
            for other in out:
                queue.add(other)
            return None
        queue.remove(victim)
        out.append(victim)
    spared = [other for other in out if _spares(queue, job, other, now, free_at)]
    queue.add(job)
    return [other for other in out if other not in spared]


def squeeze_in(
    queue: Queue[AnyTicket], job: Job[AnyTicket], now: float, free_at: float
) -> list[tuple[Job[AnyTicket], int]] | None:
    """Queue a job that fits once others of its model have given up pairs; else restore them and return None.

    Return each job that gave up pairs, and how many. Those due no later than the job give first, the one with the most
    spare pairs before the others.
    """
    if not could_squeeze_in(queue, job, free_at):
        return None
    before: dict[Job[AnyTicket], tuple[list[int], int]] = {}
    for _ in range(_MOST_PORTIONS):
        rivals = _rivals(queue, job)
        if not rivals:
            break
        rival = max(rivals, key=lambda one: (one.deadline <= job.deadline, one.spare_pairs))
        before.setdefault(rival, (rival.waiting, rival.wanted))
        rival.give_up_portion()
        if fits(queue, job, now, free_at):
            queue.drop_done()
            queue.add(job)
            return [(one, len(waiting) - len(one.waiting)) for one, (waiting, _) in before.items()]
    for one, (waiting, wanted) in before.items():
        one.wanted = wanted
        one.keep(waiting)
    return None


def could_squeeze_in(queue: Queue[Any], job: Job[Any], free_at: float) -> bool:
    """Whether a job would end in time if others gave up all spare pairs; an estimate, as lengths differ."""
    rivals = _rivals(queue, job)
    if not rivals or free_at + job.remaining_s >= job.deadline:
        return False
    ahead = (one for one in rivals if one.deadline <= job.deadline)
    spare_s = sum(one.remaining_s * one.spare_pairs / len(one.waiting) for one in ahead)
    return queue.ends_at(job, free_at) - spare_s < job.deadline


def _rivals(queue: Queue[AnyTicket], job: Job[AnyTicket]) -> list[Job[AnyTicket]]:
    """Jobs of the same model with spare pairs and more wanted pairs than this one has; of its own host, or of one with
    at least as much device time waiting as its own host would have with this job."""
    jobs, held = queue.of(job.model), defaultdict[tuple[str, ...], float](float)
    for one in jobs:
        held[one.caller[:1]] += one.remaining_s
    own = job.caller[:1]
    least = held[own] + job.remaining_s
    giving = {caller for caller, seconds in held.items() if caller == own or seconds >= least}
    return [one for one in jobs if one.spare_pairs and one.wanted > len(job.lengths) and one.caller[:1] in giving]


def could_admit(queue: Queue[Any], job: Job[Any], now: float, free_at: float) -> bool:
    """Whether :func:`admit` would queue the job. Changes only the order of jobs with an equal deadline."""
    displaced = admit(queue, job, now, free_at)
    if displaced is None:
        return False
    queue.remove(job)
    for other in displaced:
        queue.add(other)
    return True


def _spares(queue: Queue[AnyTicket], job: Job[AnyTicket], other: Job[AnyTicket], now: float, free_at: float) -> bool:
    """Put back a job that was taken out if the new one fits all the same; whether it does."""
    queue.add(other)
    if fits(queue, job, now, free_at):
        return True
    queue.remove(other)
    return False


def fits(queue: Queue[AnyTicket], job: Job[AnyTicket], now: float, free_at: float) -> bool:
    """Whether the queue has room for its pairs, and it would end in time without making others late."""
    return queue.has_room(len(job.waiting)) and queue.on_time(job, now, free_at)


def _victim(queue: Queue[AnyTicket], job: Job[AnyTicket]) -> Job[AnyTicket] | None:
    """The job to displace next: for room any, for time only one of the same model, as models take turns."""
    if not queue.has_room(len(job.waiting)):
        return _largest(queue, job, lambda one: (one.model, *one.caller), lambda one: len(one.waiting))
    return _largest(queue.of(job.model), job, lambda one: one.caller, lambda one: one.remaining_s)


def _largest(
    jobs: Iterable[Job[AnyTicket]],
    job: Job[AnyTicket],
    path: Callable[[Job[AnyTicket]], tuple[str, ...]],
    size: Callable[[Job[AnyTicket]], float],
) -> Job[AnyTicket] | None:
    """The job to displace: the one due last, of those that mostly wait, of the largest holder; None if that is unfair.

    The holder is found at the first level of the path where the newcomer's own branch is not the largest. It is fair
    if the holder, after the swap, still holds no less than the newcomer's branch.
    """
    rivals, own = list(jobs), path(job)
    for depth in range(len(own)):
        held: defaultdict[str, float] = defaultdict(float)
        for rival in rivals:
            held[path(rival)[depth]] += size(rival)
        most = max(held, key=lambda name: held[name], default=own[depth])
        if most != own[depth]:
            last = max(
                (rival for rival in rivals if path(rival)[depth] == most and rival.mostly_waits),
                key=lambda rival: rival.deadline,
                default=None,
            )
            fair = last and held[most] - size(last) >= held[own[depth]] + size(job)
            return last if fair else None
        rivals = [rival for rival in rivals if path(rival)[depth] == most]
    return None
