"""For any jobs: no pair is lost, none goes twice, and no batch breaks its limits."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from sidecar.batching import Job, Limits, Queue

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
    taken = Counter((job.key, pair) for batch in iter(queue.take, None) for job, pair in batch.pairs)
    assert taken == Counter((number, pair) for number, job in enumerate(jobs) for pair in range(len(job[0])))
    assert len(queue) == queue.pairs == 0


@given(JOBS)
def test_every_batch_keeps_its_limits(jobs: list[tuple[list[int], float, str]]) -> None:
    queue: Queue[int] = Queue(10_000)
    for number, (lengths, deadline, model) in enumerate(jobs):
        queue.add(Job(number, model, lengths, deadline, LIMITS))
    for batch in iter(queue.take, None):
        assert {job.model for job, _ in batch.pairs} == {batch.model}
        assert max(job.lengths[pair] for job, pair in batch.pairs) == batch.length
        assert LIMITS.fits(len(batch.pairs), batch.length)
