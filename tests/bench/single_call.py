"""What the sidecar adds to the bare forward pass, one call at a time.

    python -m tests.bench.single_call [--calls N]

100 hits of 500 characters, the same in each call, with ever new queries: token ids of the documents may be cached,
scores may not. The server is a process of its own; so is its client, which sends the next call when the last one was
answered. The bare forward is `Scorer.score` alone, on the batches that the scheduler makes of the same pairs, in this
process while the server is idle. Calls are Rerank; tests/bench/outside.py has those of Search.
"""

import argparse
import math
import os
from collections.abc import Sequence
from functools import partial

from rich.console import Console
from rich.progress import track

from sidecar.batching import Job, next_batch
from tests.bench import section, texts
from tests.bench.contestants import Sidecar, seconds
from tests.bench.generate import generated
from tests.bench.generator import Call, Plan, Stream
from tests.bench.machine import device
from tests.bench.outside import OUTSIDE, WHOLE_CALL
from tests.bench.percentiles import median_and_tail, percentile
from tests.bench.section import Row, Section
from tests.bench.server import SCORES_ANEW, Server, running

HITS, CHARACTERS = 100, 500
CALLS, QUICK_CALLS = 150, 20
_WARM_UP = 10
_ROUNDS = 5
_COLD = 2
_BUDGET_MS = 5000
_LIMIT_S = 60.0
MEANING = {
    "what": "a stage of a call as its reply tells it, or a difference of two",
    "p50_ms": "half of the calls took no longer",
    "p99_ms": "99 % of the calls took no longer",
}


class BareForward:
    """Times the forward passes alone, on the batches that the scheduler makes of one job."""

    def __init__(self) -> None:
        self._sidecar = Sidecar()
        self._queries = texts.queries(seed=11)
        self._documents = texts.of_characters(CHARACTERS, HITS, seed=7000)

    def times_ms(self, count: int) -> list[float]:
        """Milliseconds of ``count`` jobs, one after the other, after a few that do not count."""
        model = self._sidecar.model
        times = []
        for _ in range(_COLD + count):
            pairs = model.scorer.encode(next(self._queries), self._documents)
            job = Job(None, model.name, [pair.tokens for pair in pairs], math.inf, model.limits)
            batches = []
            while job.waiting:
                batches.append([pairs[pair] for _, pair in next_batch([job], 0.0).pairs])
            times.append(1e3 * sum(seconds(partial(model.scorer.score, batch)) for batch in batches))
        return times[_COLD:]

    def close(self) -> None:
        """Release the model."""
        self._sidecar.close()


def asked(server: Server, count: int) -> list[Call]:
    """Those of ``count`` calls, sent one at a time, that were reranked in full."""
    stream = Stream(
        arrivals="closed", candidates=HITS, size=CHARACTERS, unit="characters", documents=1, budget_ms=_BUDGET_MS
    )
    found = generated(server, Plan(server.address, _LIMIT_S, [stream], max_calls=count))
    return [call for call in found.calls if call.outcome == "RERANKED"]


def rows_of(calls: Sequence[Call], forward: Sequence[float]) -> list[Row]:
    """The table: the call from outside in, then what is around the forward, then the bare forward."""
    bare = percentile(forward, 50) or 0.0
    stages = {
        WHOLE_CALL: [call.latency_ms for call in calls],
        "on the way: client, gRPC, request and reply": [call.latency_ms - call.server_ms for call in calls],
        "in the server (its own total)": [call.server_ms for call in calls],
        "- assemble and tokenise": [call.tokenize_ms for call in calls],
        "- wait for the device": [call.queue_ms for call in calls],
        "- forward passes": [call.device_ms for call in calls],
        "- between and after them": [call.score_ms - call.device_ms for call in calls],
        OUTSIDE: [call.outside_ms for call in calls],
        "the same, and on the way": [call.latency_ms - call.device_ms for call in calls],
        "bare forward, in another process": list(forward),
        "call over the median bare forward": [call.latency_ms - bare for call in calls],
    }
    return [{"what": name, **median_and_tail(times)} for name, times in stages.items()]


def measure(chosen: argparse.Namespace) -> Section:
    """Measure server and bare forward by turns."""
    count = QUICK_CALLS if chosen.quick else chosen.calls
    calls: list[Call] = []
    forward: list[float] = []
    with running(server=SCORES_ANEW, policy={"budget_ms": _BUDGET_MS}) as server:
        bare = BareForward()
        asked(server, _WARM_UP)
        bare.times_ms(2)
        for _ in track(range(_ROUNDS), "rounds", console=Console(stderr=True), transient=True):
            calls += asked(server, count // _ROUNDS)
            forward += bare.times_ms(max(2, count // _ROUNDS // 4))
        bare.close()
    title = (
        f"One call at a time: {HITS} hits of {CHARACTERS} characters, {device()}, "
        f"{os.cpu_count()} cores for server and client, {len(calls)} calls"
    )
    return Section("single_call", title, rows_of(calls, forward), MEANING)


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--calls", type=int, default=CALLS, help="calls through the server")


if __name__ == "__main__":
    section.run(measure, __doc__ or "", _options)
