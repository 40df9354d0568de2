"""The load generator against a real server in this process, with a scorer of known speed."""

import time
from collections import Counter
from collections.abc import Sequence

import pytest

from sidecar.scoring.base import Pair
from sidecar.scoring.fake import WordOverlapScorer
from tests.bench.generator import NO_ANSWER, Plan, Stream, send
from tests.conftest import Serve, settings


async def test_every_call_that_is_due_is_sent_and_its_outcome_told(serve: Serve) -> None:
    async with serve(WordOverlapScorer()) as (_, app):
        streams = [
            Stream("few", "constant", 20.0, candidates=3),
            Stream("many", "poisson", 60.0, candidates=2, size=10, unit="words"),
        ]
        found = await send(Plan(f"127.0.0.1:{app.port}", 1.0, streams))
    by_stream = Counter(call.stream for call in found.calls)
    assert by_stream["few"] == 20
    assert by_stream["many"] == 60
    assert {(call.outcome, call.reason) for call in found.calls} == {("RERANKED", "UNSPECIFIED")}
    assert {call.scored for call in found.calls} == {2, 3}
    assert found.cpu_s > 0
    assert found.wall_s >= 0.9


async def test_latency_counts_from_when_a_call_was_due_not_from_when_the_server_had_time(serve: Serve) -> None:
    """One forward pass that stalls delays the calls that come meanwhile, and the latencies must show all of them."""

    def stall(number: int, _: Sequence[Pair]) -> None:
        if number == 2:
            time.sleep(0.6)

    async with serve(WordOverlapScorer(fault=stall)) as (_, app):
        stream = Stream("calls", "constant", 20.0, candidates=1)
        found = await send(Plan(f"127.0.0.1:{app.port}", 1.2, [stream]))
    waited = sorted(call.latency_ms for call in found.calls)
    assert len(waited) == 24
    assert sum(latency > 150 for latency in waited) >= 7
    assert waited[-1] > 550


async def test_a_closed_stream_ends_after_as_many_calls_as_the_plan_says(serve: Serve) -> None:
    async with serve(WordOverlapScorer()) as (_, app):
        stream = Stream(arrivals="closed", callers=3, candidates=2)
        found = await send(Plan(f"127.0.0.1:{app.port}", 20.0, [stream], max_calls=30))
    assert 30 <= len(found.calls) <= 32
    assert found.wall_s < 15


async def test_patience_ends_and_the_calls_still_open_are_counted(serve: Serve) -> None:
    scorer = WordOverlapScorer(fault=lambda *_: time.sleep(1.5))
    async with serve(scorer, configured=settings({"budget_ms": 4000})) as (_, app):
        stream = Stream("calls", "constant", 10.0, candidates=1)
        found = await send(Plan(f"127.0.0.1:{app.port}", 0.3, [stream], patience_s=0.5))
    assert [call.outcome for call in found.calls] == [NO_ANSWER] * 3
    assert found.wall_s < 1.4


async def test_a_server_that_is_not_there_is_an_error_not_a_wait() -> None:
    with pytest.raises(TimeoutError):
        await send(Plan("127.0.0.1:1", 1.0, [Stream()], patience_s=0.3))
