"""Open-loop load on a running server: what its callers get at 0.5 to 3 times its capacity.

    python -m tests.bench.load [--seconds S] [--budget-ms MS]

The server is a process with the default settings, the load generator another one (tests/bench/generator.py). Calls are
Rerank with 100 texts of 85 tokens on average, every query new, the documents recurring; with fewer texts if 100 take
the machine most of the budget, since then there is nothing to schedule. Latencies count from the moment a call was due.
Each load comes in several turns, between those of the others, so that they all meet a machine of the same mean speed.
"""

import argparse
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from rich.console import Console
from rich.progress import track

from tests.bench import section
from tests.bench.arrivals import Arrivals
from tests.bench.generate import generated
from tests.bench.generator import Call, Plan, Result, Stream
from tests.bench.machine import device
from tests.bench.percentiles import latencies, percentile
from tests.bench.section import Section
from tests.bench.server import SCORES_ANEW, Server, running

CANDIDATES, LEAST_CANDIDATES, TOKENS = 100, 10, 85
_SHARE_OF_BUDGET = 0.4
"""Share of its budget that a call should take at most when served alone."""
FACTORS = (0.5, 0.8, 1.0, 2.0, 3.0)
TOGETHER = "all of these"
ARRIVALS: tuple[Arrivals, ...] = ("constant", "poisson")
BUDGETS_MS = {"cpu": 600, "cuda": 150}
PHASES_S = {"cpu": 40.0, "cuda": 12.0}
_QUICK_PHASE_S = 5.0
_TURN_S = 5.0
"""A turn takes at least this long: its beginning, with an empty queue, must not weigh."""
_EVERY = [(arrivals, factor) for arrivals in ARRIVALS for factor in FACTORS]
_WARM_UP_S, _CAPACITY_S = 4.0, 8.0
_CALLERS = 4
_LONGEST_BUDGET_MS = 5000
DEVICE_S, WASTED_S = "sidecar_device_seconds_total", "sidecar_wasted_device_seconds_total"
"""Counters of the server: seconds that the device was busy, and those spent on scores that nobody got."""
MEANING = {
    "arrivals": "evenly spaced, or those of a Poisson process with the same number of calls; last row: all together",
    "load": "calls due per second over the capacity: what four callers in turn get per second, in whole calls",
    "due_per_s": "calls due per second",
    "calls": "calls due in the turns of this load; in the last row, in those of all",
    "p50_ms": "and the other percentiles: latency of all answers, from when the call was due until it was answered",
    "p99.9_ms": "given with 1,000 calls or more",
    "in_budget_percent": "share of all calls that were answered within the budget, seen from the caller",
    "reranked_percent": "share of all calls whose answer is reranked, in full or in part",
    "goodput_per_s": "answers within the budget that are reranked, in full or in part, per second of the turns",
    "good_pairs_per_s": "scored pairs of those answers, per second: an answer reranked in part counts for its part",
    "of_best_percent": "goodput over the best goodput of any row",
    "pairs_of_best_percent": "good pairs per second over the most of any row",
    "wasted_percent": "device time for scores that nobody got, over all device time: the server's own counters",
    "ends": "outcomes and their reasons, with the number of calls",
    "failed_percent": "share without an answer: an error status, or none before patience ended",
    "reranked_p50_ms": "half of the reranked answers took no longer",
    "server_p99_ms": "99th percentile of the time that the replies themselves state",
    "device_busy_percent": "time that the device was busy, over that of the turns",
    "sender_cpu_percent": "processor time of the generator over that of the turns: taken from the server's cores",
    "sender_lag_p99_ms": "how much later than due the generator sent, 99th percentile",
}


def capacity_per_s(server: Server, kind: Stream, seconds: float) -> float:
    """Calls of a kind per second that the server reranks for the stream's callers in a closed loop.

    Counted by scored pairs: a call reranked in part counts for that part. The budget of ``kind`` should be no limit.

    Raises:
        RuntimeError: not one call was reranked.
    """
    found = generated(server, Plan(server.address, seconds, [kind]))
    done = scored_pairs(found.calls) / kind.candidates
    if not done:
        raise RuntimeError(f"not one call was reranked: {Counter(call.reason for call in found.calls)}")
    return done / found.wall_s


def candidates_for(budget_ms: float, call_ms: float) -> int:
    """Texts of a call, a multiple of ten, if one with all :data:`CANDIDATES` takes ``call_ms``.

    >>> [candidates_for(600, call_ms) for call_ms in (240, 480, 9000)]
    [100, 50, 10]
    """
    fitting = CANDIDATES * _SHARE_OF_BUDGET * budget_ms / call_ms
    return max(LEAST_CANDIDATES, min(CANDIDATES, 10 * round(fitting / 10)))


def is_reranked(call: Call) -> bool:
    """Whether a call was reranked, in full or in part."""
    return call.outcome in ("RERANKED", "PARTIAL")


def scored_pairs(calls: Sequence[Call]) -> int:
    """Pairs scored in the calls that were reranked, in full or in part."""
    return sum(call.scored for call in calls if is_reranked(call))


def seen(calls: Sequence[Call], budget_ms: int) -> dict[str, Any]:
    """Columns of what callers got: latencies, and the shares answered in the budget and reranked."""
    answered = [call for call in calls if call.outcome not in ("ERROR", "NO_ANSWER")]
    return {
        "calls": len(calls),
        **latencies([call.latency_ms for call in answered]),
        "in_budget_percent": percent(sum(call.latency_ms <= budget_ms for call in answered), len(calls)),
        "reranked_percent": percent(sum(map(is_reranked, calls)), len(calls)),
    }


@dataclass
class Phase:
    """What was found of one load, all its turns together."""

    found: Result = field(default_factory=Result)
    spent: dict[str, float] = field(default_factory=dict)
    """How much the server's counters grew in the turns."""
    good_s: float = 0.0
    """Time in which the good answers came: each turn's own, or longer if one came after its end."""

    def add(self, turn: Result, seconds: float, spent: Mapping[str, float], budget_ms: int) -> None:
        """Add a turn that was to take ``seconds``."""
        self.found.calls += turn.calls
        self.found.cpu_s += turn.cpu_s
        self.found.wall_s += turn.wall_s
        self.spent = {name: self.spent.get(name, 0.0) + grown for name, grown in spent.items()}
        self.good_s += max([seconds, *(call.due_s + call.latency_ms / 1e3 for call in good(turn.calls, budget_ms))])


def good(calls: Sequence[Call], budget_ms: int) -> list[Call]:
    """The calls that were reranked, in full or in part, and answered within the budget."""
    return [call for call in calls if is_reranked(call) and call.latency_ms <= budget_ms]


def row(phase: Phase, budget_ms: int) -> dict[str, Any]:
    """Columns of one load."""
    calls, spent = good(phase.found.calls, budget_ms), phase.spent
    return {
        **seen(phase.found.calls, budget_ms),
        "goodput_per_s": round(len(calls) / phase.good_s, 2),
        "good_pairs_per_s": round(scored_pairs(calls) / phase.good_s, 1),
        "wasted_percent": percent(spent[WASTED_S], spent[DEVICE_S]) if WASTED_S in spent else None,
    }


def with_shares(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows with their shares of the best rate of any row, in calls and in scored pairs."""
    calls, pairs = (max(one[key] for one in rows) for key in ("goodput_per_s", "good_pairs_per_s"))
    return [
        {
            **one,
            "of_best_percent": percent(one["goodput_per_s"], calls) or 0.0,
            "pairs_of_best_percent": percent(one["good_pairs_per_s"], pairs) or 0.0,
        }
        for one in rows
    ]


def detail(phase: Phase) -> dict[str, Any]:
    """How the calls of one load ended, and what they took of the device and of the generator."""
    found, calls, spent = phase.found, phase.found.calls, phase.spent
    return {
        "ends": ", ".join(f"{end} {count}" for end, count in outcomes(calls).items()),
        "failed_percent": percent(sum(call.outcome in ("ERROR", "NO_ANSWER") for call in calls), len(calls)),
        "reranked_p50_ms": _rounded(percentile([call.latency_ms for call in calls if is_reranked(call)], 50)),
        "server_p99_ms": _rounded(percentile([call.server_ms for call in calls if call.server_ms], 99)),
        "device_busy_percent": percent(spent[DEVICE_S], found.wall_s) if DEVICE_S in spent else None,
        "sender_cpu_percent": round(100 * found.cpu_s / found.wall_s, 1),
        "sender_lag_p99_ms": _rounded(percentile([call.lag_ms for call in calls], 99)),
    }


def moved(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """How much each counter grew."""
    return {name: value - before.get(name, 0.0) for name, value in after.items()}


def percent(part: float, whole: float) -> float | None:
    """``part`` of ``whole`` in percent, never below 0; None if ``whole`` is 0."""
    return round(max(0.0, 100 * part / whole), 2) if whole else None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)


def outcomes(calls: Sequence[Call]) -> dict[str, int]:
    """Number of calls by outcome and reason, the most frequent first."""
    ends = Counter(f"{call.outcome} {call.reason}".removesuffix(" UNSPECIFIED").strip() for call in calls)
    return dict(ends.most_common())


def turns(phase_s: float) -> list[tuple[int, Arrivals, float]]:
    """Number, arrivals and load of each turn, if those of a load are to take ``phase_s`` together.

    Every other time the loads come in reverse, so that none gains from a machine that becomes slower or faster.

    >>> [load for _, _, load in turns(10.0)][:5], [load for _, _, load in turns(10.0)][-5:]
    ([0.5, 0.8, 1.0, 2.0, 3.0], [3.0, 2.0, 1.0, 0.8, 0.5])
    """
    times = max(1, int(phase_s // _TURN_S))
    return [(turn, *kind) for turn in range(times) for kind in (reversed(_EVERY) if turn % 2 else _EVERY)]


def phases(
    server: Server, candidates: int, capacity: float, phase_s: float, budget_ms: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows and details of all loads, and a row of all their calls together."""
    found = {kind: Phase() for kind in _EVERY}
    order = turns(phase_s)
    turn_s = phase_s * len(_EVERY) / len(order)
    base = Stream(candidates=candidates, size=TOKENS)
    for turn, arrivals, factor in track(order, "turns", console=Console(stderr=True), transient=True):
        stream = replace(base, arrivals=arrivals, rate_per_s=factor * capacity, seed=base.seed + turn)
        before = server.metrics()
        one = generated(server, Plan(server.address, turn_s, [stream]))
        found[arrivals, factor].add(one, turn_s, moved(before, server.metrics()), budget_ms)
    heads = [
        {"arrivals": arrivals, "load": factor, "due_per_s": round(factor * capacity, 2)} for arrivals, factor in _EVERY
    ]
    rows = [{**head, **row(phase, budget_ms)} for head, phase in zip(heads, found.values(), strict=True)]
    every = [call for phase in found.values() for call in phase.found.calls]
    details = [{**head, **detail(phase)} for head, phase in zip(heads, found.values(), strict=True)]
    return [*with_shares(rows), {"arrivals": TOGETHER, **seen(every, budget_ms)}], details


def measure(chosen: argparse.Namespace) -> Section:
    """Run all turns on one server."""
    where = device()
    budget_ms = chosen.budget_ms or BUDGETS_MS[where]
    phase_s = _QUICK_PHASE_S if chosen.quick else chosen.seconds or PHASES_S[where]
    with running(server=SCORES_ANEW, policy={"budget_ms": budget_ms}) as server:
        all_texts = Stream(
            arrivals="closed", callers=_CALLERS, candidates=CANDIDATES, size=TOKENS, budget_ms=_LONGEST_BUDGET_MS
        )
        candidates = candidates_for(budget_ms, 1e3 / capacity_per_s(server, all_texts, _WARM_UP_S))
        capacity = capacity_per_s(server, replace(all_texts, candidates=candidates), _CAPACITY_S)
        rows, details = phases(server, candidates, capacity, phase_s, budget_ms)
    title = (
        f"Open-loop load: Rerank of {candidates} texts, mean {TOKENS} tokens, budget {budget_ms} ms, {where}, "
        f"{os.cpu_count()} cores for server and generator, {phase_s:.0f} s a load, by turns, "
        f"capacity {capacity:.2f} calls/s ({capacity * candidates:.0f} pairs/s)"
    )
    notes = list(_notes(rows[:-1], capacity))
    series = {"budget_ms": budget_ms, "capacity_per_s": round(capacity, 3)}
    return Section("load", title, rows, MEANING, details, notes, series)


def _notes(rows: Sequence[Mapping[str, Any]], capacity: float) -> Iterator[str]:
    if all(one["wasted_percent"] is None for one in rows):
        yield f"The server has no `{WASTED_S}`: wasted device time is not known."
    if not any(one["goodput_per_s"] for one in rows):
        yield f"The budget is too small for this machine: one call takes it about {1e3 / capacity:.0f} ms."


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", type=float, default=0.0, help="of each load; default: 40 on a CPU, 12 on CUDA")
    parser.add_argument("--budget-ms", type=int, default=0, help="of the policy; default: 600 on a CPU, 150 on CUDA")


if __name__ == "__main__":
    section.run(measure, __doc__ or "", _options)
