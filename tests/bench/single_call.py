"""What the sidecar adds to the bare forward pass, one call at a time.

    python -m tests.bench.single_call [--calls N]

100 hits of 500 characters, the same in each call, with ever new queries: token ids of the documents may be kept,
scores may not. The server is a process of its own; its client is too, and each sends the next call when the last one
was answered. The bare forward is `Scorer.score` alone, on the batches that the scheduler makes of the same pairs, in
this process while the server is idle.
"""

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from rich.console import Console
from rich.progress import track

from sidecar.scoring.base import Pair, Scorer, Scores
from tests.bench import section, texts
from tests.bench.contestants import Sidecar, seconds
from tests.bench.generate import generated
from tests.bench.generator import Call, Plan, Stream
from tests.bench.machine import device
from tests.bench.percentiles import percentile
from tests.bench.section import Row, Section
from tests.bench.server import SCORES_ANEW, Server, running

HITS, CHARACTERS = 100, 500
CALLS, QUICK_CALLS = 200, 20
_WARM_UP = 10
_ROUNDS = 5
_COLD = 2
_BUDGET_MS = 5000
_LIMIT_S = 60.0
OUTSIDE = "outside the forward: before and after the device, and the scheduler's median"
MEANING = {
    "what": "a stage of a call, or a difference of two; the forward is `Scorer.score`, of all batches of the call",
    "p50_ms": "half of the calls took no longer",
    "p99_ms": "99 % of the calls took no longer",
}


@dataclass
class TimedScorer:
    """A scorer that adds up how long another one's forward passes take."""

    scorer: Scorer
    spent_s: float = 0.0
    version: str = field(init=False)
    max_length: int = field(init=False)

    def __post_init__(self) -> None:
        self.version, self.max_length = self.scorer.version, self.scorer.max_length

    def __getattr__(self, name: str) -> Any:
        return getattr(self.scorer, name)

    def encode(self, query: str, passages: Sequence[str]) -> list[Pair]:
        """See :class:`sidecar.scoring.base.Scorer`."""
        return self.scorer.encode(query, passages)

    def score(self, pairs: Sequence[Pair]) -> Scores:
        """See :class:`sidecar.scoring.base.Scorer`."""
        found: list[Scores] = []
        self.spent_s += seconds(lambda: found.append(self.scorer.score(pairs)))
        return found[0]


class BareForward:
    """Times the forward passes of one job after the other."""

    def __init__(self) -> None:
        self._sidecar = Sidecar()
        self._timed = TimedScorer(self._sidecar.model.scorer)
        self._model = replace(self._sidecar.model, scorer=self._timed)
        self._queries = texts.queries(seed=11)
        self._documents = texts.of_characters(CHARACTERS, HITS, seed=7000)

    def times_ms(self, count: int) -> tuple[list[float], list[float]]:
        """Of each job the forward passes alone, and the whole time in the scheduler; after some that do not count."""
        forward, whole = [], []
        for _ in range(_COLD + count):
            pairs = self._timed.encode(next(self._queries), self._documents)
            before = self._timed.spent_s
            whole.append(1e3 * seconds(partial(self._sidecar.score_pairs, pairs, self._model)))
            forward.append(1e3 * (self._timed.spent_s - before))
        return forward[_COLD:], whole[_COLD:]

    def close(self) -> None:
        """Let go of the model."""
        self._sidecar.close()


def asked(server: Server, count: int) -> list[Call]:
    """That many calls, one at a time."""
    stream = Stream(
        arrivals="closed", candidates=HITS, size=CHARACTERS, unit="characters", documents=1, budget_ms=_BUDGET_MS
    )
    found = generated(server, Plan(server.address, _LIMIT_S, [stream], max_calls=count))
    return [call for call in found.calls if call.outcome == "RERANKED"]


def rows_of(calls: Sequence[Call], forward: Sequence[float], scheduled: Sequence[float]) -> list[Row]:
    """The table: the call from outside in, then the bare forward, then what is between them."""
    bare = percentile(forward, 50) or 0.0
    between = [all_of - one for all_of, one in zip(scheduled, forward, strict=True)]
    between_ms = percentile(between, 50) or 0.0
    stages = {
        "call, seen from the client": [call.latency_ms for call in calls],
        "in the server (its own total)": [call.server_ms for call in calls],
        "- assemble and tokenise": [call.tokenize_ms for call in calls],
        "- wait for the device": [call.queue_ms for call in calls],
        "- from the first batch on the device to the last score": [call.score_ms for call in calls],
        "on the way: client, gRPC, request and reply": [call.latency_ms - call.server_ms for call in calls],
        "before and after the device": [call.latency_ms - call.score_ms for call in calls],
        "bare forward, in another process": list(forward),
        "scheduler over that forward": between,
        OUTSIDE: [call.latency_ms - call.score_ms + between_ms for call in calls],
        "call over the median bare forward": [call.latency_ms - bare for call in calls],
    }
    return [{"what": name, **_cuts(times)} for name, times in stages.items()]


def _cuts(times: Sequence[float]) -> dict[str, Any]:
    return {f"p{cut}_ms": None if (found := percentile(times, cut)) is None else round(found, 2) for cut in (50, 99)}


def measure(chosen: argparse.Namespace) -> Section:
    """Server and bare forward by turns."""
    count = QUICK_CALLS if chosen.quick else chosen.calls
    calls: list[Call] = []
    forward: list[float] = []
    scheduled: list[float] = []
    with running(server=SCORES_ANEW, policy={"budget_ms": _BUDGET_MS}) as server:
        bare = BareForward()
        asked(server, _WARM_UP)
        bare.times_ms(2)
        for _ in track(range(_ROUNDS), "rounds", console=Console(stderr=True), transient=True):
            calls += asked(server, count // _ROUNDS)
            alone, whole = bare.times_ms(max(2, count // _ROUNDS // 4))
            forward += alone
            scheduled += whole
        bare.close()
    title = (
        f"One call at a time: {HITS} hits of {CHARACTERS} characters, {device()}, "
        f"{os.cpu_count()} cores for server and client, {len(calls)} calls"
    )
    return Section("single_call", title, rows_of(calls, forward, scheduled), MEANING)


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--calls", type=int, default=CALLS, help="calls through the server")


if __name__ == "__main__":
    section.run(measure, __doc__ or "", _options)
