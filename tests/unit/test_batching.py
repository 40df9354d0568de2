"""Which pairs go next, which jobs are refused, which are shed; with a cost of 1 ms a token and 10 ms a pass.

Jobs made by ``small`` are of a model whose passes cost 100 ms: for those it pays to share a batch.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import pytest

from sidecar.batching import SPARE_TIME, Job, Limits, runs
from sidecar.job_queue import Queue


def predict_s(pairs: int, length: float) -> float:
    return 0.010 + 0.001 * pairs * length


@lru_cache
def limits(max_batch_tokens: int = 1000, max_batch_s: float = 10.0) -> Limits:
    return Limits(max_batch_tokens, max_batch_s, predict_s)


COSTLY = Limits(1000, 10.0, lambda pairs, length: 0.1 + 0.001 * pairs * length)


def job(*lengths: int, deadline: float = 100.0, model: str = "m", ticket: str = "") -> Job[str]:
    return Job(ticket, model, lengths, deadline, limits())


def small(*lengths: int, deadline: float = 100.0, ticket: str = "") -> Job[str]:
    return Job(ticket, "m", lengths, deadline, COSTLY)


def cut(lengths: list[int], limits: Limits) -> list[Sequence[int]]:
    """The runs without their predicted time."""
    return [run for run, _ in runs(lengths, limits)]


def test_a_batch_takes_the_longest_pairs_first_and_no_more_tokens_than_allowed() -> None:
    bounded = limits(max_batch_tokens=200)
    assert cut([90, 88, 85, 50], bounded) == [[90, 88], [85], [50]]


def test_a_short_pair_does_not_join_a_long_one_when_padding_costs_more_than_a_pass_of_its_own() -> None:
    assert cut([100, 89, 50], limits()) == [[100], [89], [50]]
    assert cut([100, 97, 94], limits()) == [[100, 97, 94]]


def test_padding_is_added_up_over_a_batch_and_never_exceeds_what_one_more_pass_costs() -> None:
    assert cut([100, 95, 91], limits()) == [[100, 95], [91]], "5 ms and 9 ms of padding, 10 ms a pass"


def test_a_batch_is_bounded_in_predicted_time() -> None:
    assert [len(run) for run in cut([10] * 10, limits(max_batch_s=0.041))] == [3, 3, 3, 1]


def test_a_pair_over_every_limit_still_goes_alone() -> None:
    assert cut([5000], limits(max_batch_tokens=100, max_batch_s=0.001)) == [[5000]]


def test_the_earliest_deadline_goes_first_and_its_room_is_filled_from_the_next() -> None:
    queue: Queue[str] = Queue(100)
    late, early = small(50, 49, deadline=9, ticket="late"), small(52, deadline=5, ticket="early")
    queue.add(late)
    queue.add(early)
    batch = queue.take(0.0)
    assert batch is not None
    assert [(one.ticket, pair) for one, pair in batch.pairs] == [("early", 0), ("late", 0), ("late", 1)]
    assert batch.length == 52
    assert queue.take(0.0) is None


def test_a_model_that_was_loaded_anew_shares_no_batch_with_the_one_before() -> None:
    before, anew = small(50, deadline=1, ticket="before"), small(50, deadline=2, ticket="anew")
    anew.limits = replace(COSTLY)
    queue: Queue[str] = Queue(100)
    for one in (before, anew, small(49, deadline=3, ticket="before, too")):
        queue.add(one)
    taken = [[one.ticket for one, _ in batch.pairs] for batch in iter(lambda: queue.take(0.0), None)]
    assert taken == [["before", "before, too"], ["anew"]]


def test_a_batch_holds_one_model_only() -> None:
    queue: Queue[str] = Queue(100)
    queue.add(job(50, deadline=1, model="small"))
    queue.add(job(50, deadline=2, model="large"))
    models = [batch.model for batch in iter(lambda: queue.take(0.0), None)]
    assert models == ["small", "large"]


def test_longer_pairs_of_the_next_job_wait_for_their_own_batch() -> None:
    queue: Queue[str] = Queue(1000)
    queue.add(small(50, deadline=1, ticket="a"))
    queue.add(small(*[300] * 3, *[45] * 3, deadline=9, ticket="b"))
    first, second = queue.take(0.0), queue.take(0.0)
    assert first is not None
    assert second is not None
    assert [(one.ticket, pair) for one, pair in first.pairs] == [("a", 0), ("b", 3), ("b", 4), ("b", 5)]
    assert [(one.ticket, pair) for one, pair in second.pairs] == [("b", 0), ("b", 1), ("b", 2)]


def test_nobody_waits_for_pairs_of_another_job_that_gain_little_by_coming_along() -> None:
    """Both would take as long together as one after the other, and the first one would end with the second."""
    queue: Queue[str] = Queue(100)
    queue.add(job(50, deadline=1, ticket="a"))
    queue.add(job(50, deadline=2, ticket="b"))
    batch = queue.take(0.0)
    assert batch is not None
    assert [one.ticket for one, _ in batch.pairs] == ["a"]


def test_a_job_is_on_time_only_behind_those_before_it() -> None:
    queue: Queue[str] = Queue(100)
    assert queue.on_time(job(100, deadline=0.2), 0.0, free_at=0.0)  # 0.11 s alone
    queue.add(job(100, deadline=0.15))
    assert not queue.on_time(job(100, deadline=0.2), 0.0, free_at=0.0)
    assert queue.on_time(job(100, deadline=0.25), 0.0, free_at=0.0)


def test_a_job_with_a_loose_deadline_does_not_keep_urgent_ones_out() -> None:
    queue: Queue[str] = Queue(1000)
    queue.add(job(*[100] * 40, deadline=4.7))
    assert queue.on_time(job(100, deadline=0.2), 0.0, free_at=0.0)


def test_later_jobs_fill_a_batch_only_as_far_as_the_job_before_them_stays_on_time() -> None:
    for deadline, joined in [
        (0.3, ["head", "later", "later", "later"]),
        (0.26, ["head", "later", "later"]),
        (0.16, ["head"]),
    ]:
        queue: Queue[str] = Queue(100)
        queue.add(small(50, deadline=deadline, ticket="head"))  # 0.15 s alone
        queue.add(small(50, deadline=8.0, ticket="later"))
        queue.add(small(50, deadline=9.0, ticket="later"))
        queue.add(small(50, deadline=9.5, ticket="later"))
        batch = queue.take(0.0)
        assert batch is not None
        assert [one.ticket for one, _ in batch.pairs] == joined
        assert batch.predicted_s <= deadline


def test_a_probe_is_given_up_only_at_its_deadline() -> None:
    queue: Queue[str] = Queue(100)
    probe = Job("", "m", [100], 0.05, limits(), probe=True)
    queue.add(probe)
    assert queue.late(now=0.04) == []
    assert queue.late(now=0.05) == [probe]


def test_jobs_that_can_no_longer_end_in_time_are_taken_out() -> None:
    queue: Queue[str] = Queue(100)
    queue.add(job(100, deadline=1.0, ticket="lost"))
    queue.add(job(100, deadline=2.0, ticket="fine"))
    assert [one.ticket for one in queue.late(now=0.95)] == ["lost"]
    assert queue.pairs == 1


class TestShortened:
    """Jobs for which the scores of the first pairs are an answer; 0.11 s a pair, each a batch of its own."""

    @staticmethod
    def job(*lengths: int, least: int, deadline: float = 100.0, ticket: str = "") -> Job[str]:
        return Job(ticket, "m", lengths, deadline, limits(max_batch_tokens=1), least=least)

    def test_the_pairs_that_are_needed_go_first_and_ever_larger_portions_behind_them(self) -> None:
        lengths = [10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 96]
        assert self.job(*lengths, least=2).waiting == [1, 0, 3, 2, 7, 6, 5, 4, 10, 9, 8]
        assert self.job(*lengths, least=11).waiting == job(*lengths).waiting == list(range(10, -1, -1))

    def test_portions_that_would_be_late_are_given_up_from_the_end(self) -> None:
        queue: Queue[str] = Queue(100)
        late = self.job(*[100] * 10, least=2, deadline=1.0)
        queue.add(late)
        assert queue.shorten(now=0.0) == [], "1.1 s: an optimist expects 0.99 s"
        assert queue.shorten(now=0.1) == [(late, 2)]
        assert (late.wanted, len(late.waiting)) == (8, 8)
        assert queue.shorten(now=0.7) == [(late, 6)]
        assert (late.wanted, late.waiting) == (2, [0, 1])
        assert queue.shorten(now=0.9) == []
        assert queue.late(now=0.9) == [late], "even what is needed would be late"

    def test_what_was_on_the_device_is_enough_when_nothing_else_can_end_in_time(self) -> None:
        queue: Queue[str] = Queue(100)
        late = self.job(*[100] * 4, least=1, deadline=1.0)
        queue.add(late)
        assert queue.take(0.0) is not None
        assert queue.shorten(now=0.95) == [(late, 3)]
        assert (late.wanted, late.waiting, len(queue)) == (1, [], 0)

    def test_a_job_that_was_shortened_leaves_the_time_to_those_behind_it(self) -> None:
        queue: Queue[str] = Queue(100)
        queue.add(self.job(*[100] * 8, least=2, deadline=0.5, ticket="long"))
        queue.add(self.job(*[100] * 2, least=2, deadline=0.7, ticket="short"))
        assert [(one.ticket, pairs) for one, pairs in queue.shorten(now=0.0)] == [("long", 4)]
        assert queue.late(now=0.0) == []

    def test_one_that_is_needed_whole_is_left_as_it_is(self) -> None:
        queue: Queue[str] = Queue(100)
        queue.add(job(100, 100, deadline=0.1))
        assert queue.shorten(now=0.0) == []
        assert queue.pairs == 2


@pytest.mark.parametrize(("waiting", "more", "room"), [(0, 100, True), (60, 40, True), (60, 41, False)])
def test_the_queue_is_bounded_in_pairs(waiting: int, more: int, room: bool) -> None:
    queue: Queue[str] = Queue(100)
    if waiting:
        queue.add(job(*[10] * waiting))
    assert queue.has_room(more) == room


def test_a_forgotten_job_leaves_nothing_behind() -> None:
    queue: Queue[str] = Queue(100)
    gone = job(10, 10)
    queue.add(gone)
    queue.remove(gone)
    queue.remove(gone)
    assert len(queue) == queue.pairs == 0


class TestPacked:
    """Without padding a pair costs its own tokens, whatever stands beside it."""

    @staticmethod
    def limits(max_batch_tokens: int = 10_000, max_batch_s: float = 10.0) -> Limits:
        return Limits(max_batch_tokens, max_batch_s, predict_s, packed=True)

    def test_pairs_of_any_length_share_a_pass_as_long_as_their_own_tokens_fit(self) -> None:
        assert cut([100, 50, 4, 1], self.limits()) == [[100, 50, 4, 1]]
        assert cut([100, 50, 4, 1], self.limits(max_batch_tokens=154)) == [[100, 50, 4], [1]]

    def test_a_pass_is_predicted_by_the_tokens_it_has(self) -> None:
        (_, seconds), *others = runs([100, 50], self.limits())
        assert not others
        assert seconds == pytest.approx(predict_s(1, 150))

    def test_a_longer_pair_of_a_later_job_joins_too(self) -> None:
        costly = Limits(1000, 10.0, lambda pairs, length: 0.1 + 0.001 * pairs * length, packed=True)
        queue: Queue[str] = Queue(100)
        for one in ("first", "second"):
            lengths = [50] if one == "first" else [60, 40]
            queue.add(Job(one, "m", lengths, 10.0, costly))
        batch = queue.take(0.0)
        assert batch is not None
        assert sorted(job.lengths[pair] for job, pair in batch.pairs) == [40, 50, 60]
        assert len(batch.pairs) * batch.length == pytest.approx(150)
        assert batch.predicted_s == pytest.approx(0.25)


def test_work_for_spare_time_takes_nothing_from_calls() -> None:
    """A bi-encoder that reads for later, after each call, must not have the next call predicted to be late."""
    queue: Queue[str] = Queue(1000)
    now = 0.0
    for _ in range(100):
        queue.add(Job("spare", "near", [100], math.inf, limits(), SPARE_TIME))
        batch = queue.take(now)
        assert batch
        now += batch.predicted_s
    live = Job("live", "m", [100] * 4, now + 1.0, limits())
    assert queue.shares.left_to("m", now) == 1.0
    queue.add(Job("spare", "near", [100], math.inf, limits(), SPARE_TIME))
    assert queue.ends_at(live, now) == pytest.approx(now + live.remaining_s)
    queue.add(live)
    batch = queue.take(now)
    assert batch
    assert batch.model == "m", "although the other one came first"
