"""Who gives up pairs for a job that would be refused else: 1 ms a token and 10 ms a pass, a pair of 90 tokens each."""

from collections.abc import Sequence

import pytest

from sidecar import admission
from sidecar.batching import Job, Limits
from sidecar.job_queue import Queue

LIMITS = Limits(1, 10.0, lambda pairs, length: 0.010 + 0.001 * pairs * length)
"""Each pair is a pass of its own, of 0.1 s."""


def job(pairs: int, deadline: float, *, least: int | None = None, caller: str = "one", ticket: str = "") -> Job[str]:
    return Job(ticket, "m", [90] * pairs, deadline, LIMITS, (caller, "policy"), least=least)


def queued(*jobs: Job[str]) -> Queue[str]:
    queue: Queue[str] = Queue(1000)
    for one in jobs:
        queue.add(one)
    return queue


def squeezed(queue: Queue[str], one: Job[str], now: float = 0.0) -> list[tuple[str, int]] | None:
    assert admission.admit(queue, one, now, free_at=now) is None, "it does not fit as it is"
    found = admission.squeeze_in(queue, one, now, free_at=now)
    return None if found is None else [(other.ticket, pairs) for other, pairs in found]


def test_those_with_the_most_pairs_give_some_up_until_the_job_fits() -> None:
    large, small = job(40, 6.5, least=5, ticket="large"), job(20, 6.6, least=5, ticket="small")
    queue, new = queued(large, small), job(5, 6.7, least=5, ticket="new")
    assert squeezed(queue, new) == [("large", 20)]
    assert (large.wanted, len(large.waiting), small.wanted) == (20, 20, 20)
    assert queue.of("m") == [large, small, new]
    more = [job(5, 6.8, least=5) for _ in range(8)]
    for one in more:
        if admission.admit(queue, one, 0.0, free_at=0.0) is None:
            assert admission.squeeze_in(queue, one, 0.0, free_at=0.0) is not None
    assert queue.ends_at(job(1, 9.0), 0.0) < 6.8
    assert min(one.wanted for one in queue) >= 5


def test_what_is_on_the_device_already_is_not_given_up() -> None:
    begun = job(10, 1.1, least=5, ticket="begun")
    queue = queued(begun)
    for _ in range(5):
        queue.take(0.0)
    assert squeezed(queue, job(2, 1.15, least=2), now=0.5) == [("begun", 5)]
    assert len(queue) == 1, "the new one alone waits"
    assert begun.wanted == 5


def unchanged(queue: Queue[str], one: Job[str]) -> None:
    before = [(other, other.waiting, other.wanted, round(other.remaining_s, 6)) for other in queue]
    assert squeezed(queue, one) is None
    assert [(other, other.waiting, other.wanted, round(other.remaining_s, 6)) for other in queue] == before


@pytest.mark.parametrize(
    "there",
    [
        [job(10, 1.2)],
        [job(10, 1.2, least=10)],
        [job(4, 0.5, least=1), job(4, 1.1, least=1)],
        [job(10, 1.2, least=5, caller="light"), *[job(2, 1.3, least=2) for _ in range(6)]],
    ],
    ids=["needed whole", "no more than is needed", "no larger ones", "of a caller who has less"],
)
def test_nothing_changes_where_nobody_has_pairs_to_give(there: Sequence[Job[str]]) -> None:
    unchanged(queued(*there), job(5, 1.25, least=5))


def test_nothing_changes_where_all_that_can_be_given_is_not_enough() -> None:
    unchanged(queued(job(20, 2.3, least=15)), job(10, 2.0, least=10))


def test_a_caller_is_not_squeezed_below_what_the_others_have() -> None:
    """Not in one go, either: each portion is taken of who has as much then."""
    modest = job(100, 12.0, least=10, caller="modest")
    unchanged(queued(modest), job(90, 11.5, least=90, caller="greedy"))


def test_who_is_due_later_does_not_give_for_those_before() -> None:
    front, behind = job(8, 1.0, least=2, ticket="front"), job(80, 100.0, least=5, ticket="behind")
    queue = queued(front, behind)
    assert squeezed(queue, job(4, 1.05, least=4)) == [("front", 4)]
    assert (front.wanted, behind.wanted) == (4, 80)


def test_a_job_that_would_be_late_by_itself_is_not_worth_looking_at() -> None:
    queue = queued(job(40, 5.0, least=5))
    assert not admission.could_squeeze_in(queue, job(20, 1.0, least=20), free_at=0.0)
    assert admission.could_squeeze_in(queue, job(5, 5.1, least=5), free_at=1.0)


def test_a_job_that_gave_up_pairs_may_still_be_displaced() -> None:
    shortened = job(20, 10.0, least=5)
    shortened.shorten(0.6)
    assert (shortened.wanted, shortened.mostly_waits) == (5, True)


def test_of_a_caller_who_has_more_the_others_pairs_are_taken() -> None:
    greedy = job(40, 4.5, least=5, caller="greedy", ticket="greedy")
    assert admission.squeeze_in(queued(greedy), job(5, 4.4, least=5, caller="modest"), 0.0, 0.0) == [(greedy, 20)]


def test_more_time_is_kept_free_the_further_passes_are_from_their_prediction() -> None:
    """Ten passes of 0.1 s, off by 30 % lately: what slows one of them down slows all, so 1.45 s may be needed."""

    def admitted(spread: float, deadline: float) -> bool:
        limits = Limits(1, 0.1, LIMITS.predict_s, lambda: spread)
        return admission.admit(Queue(1000), Job("", "m", [90] * 10, deadline, limits), 0.0, free_at=0.0) is not None

    assert [admitted(0.0, deadline) for deadline in (1.1, 1.12)] == [False, True]
    assert [admitted(0.3, deadline) for deadline in (1.44, 1.46)] == [False, True]
