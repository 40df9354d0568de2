"""Who gives way when not all can be served: the callers that already have the most. Pure.

A caller alone may use everything. Where a job does not fit, those who hold more than its caller would give up their
last jobs for it, so that in the end all hold the same or have all they want ("longest queue drop", Wei, Coyle and
Hsiao, 1991). Before a job is refused that is no more than its call needs, waiting jobs with more pairs that need not
have them all give some up: rather fewer hits for each call than none for some. Nothing is remembered of callers but
their waiting jobs, so nobody can make it grow.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

from sidecar.batching import Job, Key
from sidecar.job_queue import Queue

_MOST_DISPLACED = 32
"""A job is not worth more of others than these."""
_MOST_PORTIONS = 16
"""Nor more of their portions than these."""


def admit(queue: Queue[Key], job: Job[Key], now: float, free_at: float) -> list[Job[Key]] | None:
    """Let a job wait, or return None and change nothing. Returned are the jobs that were taken out to make room."""
    out: list[Job[Key]] = []
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


def squeeze_in(queue: Queue[Key], job: Job[Key], now: float, free_at: float) -> list[tuple[Job[Key], int]] | None:
    """Let a job wait that fits once others of its model have given up pairs; or return None and change nothing.

    Those due before it give first, of these the one with the most to give. Returned are they, and how many pairs each
    gave up.
    """
    if not could_squeeze_in(queue, job, free_at):
        return None
    before: dict[Job[Key], tuple[list[int], int]] = {}
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
    """Whether a job would end in time if others gave up all that they need not have; roughly, as lengths differ."""
    rivals = _rivals(queue, job)
    if not rivals or free_at + job.remaining_s >= job.deadline:
        return False
    ahead = (one for one in rivals if one.deadline <= job.deadline)
    spare_s = sum(one.remaining_s * one.spare_pairs / len(one.waiting) for one in ahead)
    return queue.ends_at(job, free_at) - spare_s < job.deadline


def _rivals(queue: Queue[Key], job: Job[Key]) -> list[Job[Key]]:
    """Jobs of the same model that have pairs to give and more than this one, of its own caller or of one that has as
    much waiting."""
    jobs, held = queue.of(job.model), defaultdict[tuple[str, ...], float](float)
    for one in jobs:
        held[one.caller[:1]] += one.remaining_s
    own = job.caller[:1]
    least = held[own] + job.remaining_s
    giving = {caller for caller, seconds in held.items() if caller == own or seconds >= least}
    return [one for one in jobs if one.spare_pairs and one.wanted > len(job.lengths) and one.caller[:1] in giving]


def could_admit(queue: Queue[Any], job: Job[Any], now: float, free_at: float) -> bool:
    """Whether :func:`admit` would let the job wait; changes nothing."""
    displaced = admit(queue, job, now, free_at)
    if displaced is None:
        return False
    queue.remove(job)
    for other in displaced:
        queue.add(other)
    return True


def _spares(queue: Queue[Key], job: Job[Key], other: Job[Key], now: float, free_at: float) -> bool:
    """Put back a job that was taken out in vain: it was not the one in the way."""
    queue.add(other)
    if fits(queue, job, now, free_at):
        return True
    queue.remove(other)
    return False


def fits(queue: Queue[Key], job: Job[Key], now: float, free_at: float) -> bool:
    """Whether there is room for its pairs, and it would end in time without making others late."""
    return queue.has_room(len(job.waiting)) and queue.on_time(job, now, free_at)


def _victim(queue: Queue[Key], job: Job[Key]) -> Job[Key] | None:
    """Whom the job may displace next: for room anyone, for time only jobs of its own model, as models take turns."""
    if not queue.has_room(len(job.waiting)):
        return _largest(queue, job, lambda one: (one.model, *one.caller), lambda one: len(one.waiting))
    return _largest(queue.of(job.model), job, lambda one: one.caller, lambda one: one.remaining_s)


def _largest(
    jobs: Iterable[Job[Key]],
    job: Job[Key],
    path: Callable[[Job[Key]], tuple[str, ...]],
    size: Callable[[Job[Key]], float],
) -> Job[Key] | None:
    """The last job, of those that mostly wait, of whoever holds the most where the paths part; None if that is unfair.

    It is fair as long as, the jobs swapped, they still hold no less than the newcomer.
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
