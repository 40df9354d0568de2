"""For any jobs: no pair is lost, none goes twice, and no batch breaks its limits."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from sidecar.batching import Job, Limits
from sidecar.job_queue import Queue

LIMITS = Limits(2048, 0.5, lambda pairs, length: 0.001 + 1e-4 * pairs * length)
JOBS = st.lists(
    st.tuples(st.lists(st.integers(1, 600), min_size=1, max_size=40), st.floats(0, 100), st.sampled_from("ab")),
    max_size=8,
)


@given(JOBS)
def test_every_pair_is_taken_exactly_once(jobs: list[tuple[list[int], float, str]]) -> None:
    queue: Queue[int] = Queue(10_000)
    for number, (lengths, deadline, model) in enumerate(jobs):
        queue.add(Job(number, model, lengths, deadline, LIMITS))
    taken = Counter((job.ticket, pair) for batch in iter(lambda: queue.take(0.0), None) for job, pair in batch.pairs)
    assert taken == Counter((number, pair) for number, job in enumerate(jobs) for pair in range(len(job[0])))
    assert len(queue) == queue.pairs == 0


@given(JOBS)
def test_every_batch_keeps_its_limits(jobs: list[tuple[list[int], float, str]]) -> None:
    queue: Queue[int] = Queue(10_000)
    for number, (lengths, deadline, model) in enumerate(jobs):
        queue.add(Job(number, model, lengths, deadline, LIMITS))
    for batch in iter(lambda: queue.take(0.0), None):
        assert {job.model for job, _ in batch.pairs} == {batch.model}
        assert max(job.lengths[pair] for job, pair in batch.pairs) == batch.length
        assert LIMITS.fits(len(batch.pairs), batch.length)


@given(JOBS, st.integers(1, 10), st.floats(0.5, 4))
def test_a_shortened_job_scores_a_beginning_and_never_less_than_is_needed(
    jobs: list[tuple[list[int], float, str]], least: int, slower: float
) -> None:
    """Whatever is taken, given up or left, no pair counts twice."""
    queue: Queue[int] = Queue(10_000)
    all_jobs = [
        Job(number, model, lengths, deadline / 50, LIMITS, least=least)
        for number, (lengths, deadline, model) in enumerate(jobs)
    ]
    for job in all_jobs:
        queue.add(job)
    clock, given_up, taken, lost = 0.0, Counter[int](), Counter[tuple[int, int]](), set[int]()
    while len(queue):
        for job, pairs in queue.shorten(clock):
            given_up[job.ticket] += pairs
        lost |= {job.ticket for job in queue.late(clock)}
        batch = queue.take(clock)
        if batch:
            clock += slower * batch.predicted_s
            taken.update((job.ticket, pair) for job, pair in batch.pairs)
    assert set(taken.values()) <= {1}
    for job in all_jobs:
        scored = {pair for key, pair in taken if key == job.ticket}
        assert job.wanted >= min(least, len(job.lengths))
        if job.ticket not in lost:
            assert scored >= set(range(job.wanted))
            assert len(scored) + given_up[job.ticket] == len(job.lengths)


@given(st.lists(st.tuples(st.lists(st.integers(1, 600), min_size=1, max_size=30), st.floats(0.01, 5)), max_size=8))
def test_on_an_exact_device_no_admitted_job_is_late(arrivals: list[tuple[list[int], float]]) -> None:
    """All arrive at once; what is behind an earlier deadline is counted, and no filler eats its time."""
    queue: Queue[int] = Queue(10_000)
    for number, (lengths, deadline) in enumerate(sorted(arrivals, key=lambda arrival: arrival[1])):
        job = Job(number, "m", lengths, deadline, LIMITS)
        if queue.on_time(job, 0.0, free_at=0.0):
            queue.add(job)
    clock, waiting = 0.0, len(queue)
    while batch := queue.take(clock):
        clock += batch.predicted_s
        ended = [job for job in {id(job): job for job, _ in batch.pairs}.values() if not job.waiting]
        assert all(clock <= job.deadline + 1e-9 for job in ended)
        waiting -= len(ended)
    assert waiting == 0
