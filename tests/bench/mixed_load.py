"""Short and long documents on one server: does one long text delay the rest?

    python -m tests.bench.mixed_load [--seconds S]

Short calls (20 texts of 40 words) come at 30 % of the server's capacity for them: alone; together with as much device
work of more such calls; and together with as much device work of calls of 5 texts of 500 words. The third phase answers
the question, the second shows what load alone does.
"""

import argparse
import os
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.progress import track

from tests.bench import section
from tests.bench.generate import generated
from tests.bench.generator import Call, Plan, Stream
from tests.bench.load import BUDGETS_MS, capacity_per_s, is_reranked, percent
from tests.bench.machine import device
from tests.bench.percentiles import latencies, percentile
from tests.bench.section import Section
from tests.bench.server import SCORES_ANEW, Server, running

SHARE = 0.3
PHASES_S = {"cpu": 20.0, "cuda": 12.0}
_QUICK_PHASE_S = 5.0
_CAPACITY_S = 6.0
_BUDGET_MS = 5000
_POINTS = 100
_SHORT = {"candidates": 20, "size": 40, "unit": "words"}
_LONG = {"candidates": 5, "size": 500, "unit": "words"}
MEANING = {
    "short_calls": "what came beside them",
    "calls": "short calls in the phase",
    "p50_ms": "and the other percentiles: latency of the short calls, from when they were due",
    "p99.9_ms": "given with 1,000 calls or more",
    "reranked_percent": "share of the short calls that were reranked, in full or in part",
    "others": "calls beside the short ones",
    "others_p50_ms": "their median latency",
    "others_reranked_percent": "share of them that were reranked, in full or in part",
}


def stream(name: str, arrivals: Any, kind: dict[str, Any], seed: int, rate_per_s: float = 1.0) -> Stream:
    """A stream of calls of one kind; only closed streams, which measure the capacity, set a budget."""
    closed = arrivals == "closed"
    return Stream(name, arrivals, rate_per_s, callers=4, **kind, budget_ms=_BUDGET_MS if closed else None, seed=seed)


def row(name: str, short: Sequence[Call], others: Sequence[Call]) -> dict[str, Any]:
    """The table's row of one phase."""
    beside = percentile([call.latency_ms for call in others], 50)
    return {
        "short_calls": name,
        "calls": len(short),
        **latencies([call.latency_ms for call in short]),
        "reranked_percent": percent(sum(map(is_reranked, short)), len(short)),
        "others": len(others),
        "others_p50_ms": None if beside is None else round(beside, 2),
        "others_reranked_percent": percent(sum(map(is_reranked, others)), len(others)),
    }


def measured(server: Server, phase_s: float) -> tuple[list[dict[str, Any]], dict[str, list[float]]]:
    """Run the three phases; their rows, and for each the percentiles of its short calls' latencies in ms."""
    capacity_per_s(server, stream("warm", "closed", _LONG, 1), _CAPACITY_S / 2)
    short_per_s = SHARE * capacity_per_s(server, stream("short", "closed", _SHORT, 2), _CAPACITY_S)
    long_per_s = SHARE * capacity_per_s(server, stream("long", "closed", _LONG, 3), _CAPACITY_S)
    short = stream("short", "poisson", _SHORT, 4, short_per_s)
    beside = {
        "alone": [],
        "with more short ones": [stream("others", "poisson", _SHORT, 5, short_per_s)],
        "with long ones": [stream("others", "poisson", _LONG, 6, long_per_s)],
    }
    rows, curves = [], {}
    for name, more in track(beside.items(), "phases", console=Console(stderr=True), transient=True):
        calls = generated(server, Plan(server.address, phase_s, [short, *more])).calls
        ours = [call for call in calls if call.stream == "short"]
        rows.append(row(name, ours, [call for call in calls if call.stream == "others"]))
        times = [call.latency_ms for call in ours]
        curves[name] = [round(percentile(times, at * 100 / _POINTS) or 0.0, 2) for at in range(1, _POINTS + 1)]
    return rows, curves


def measure(chosen: argparse.Namespace) -> Section:
    """Run all phases on one server."""
    where = device()
    phase_s = _QUICK_PHASE_S if chosen.quick else chosen.seconds or PHASES_S[where]
    with running(server=SCORES_ANEW, policy={"budget_ms": BUDGETS_MS[where]}) as server:
        rows, curves = measured(server, phase_s)
    title = (
        f"Short and long documents: budget {BUDGETS_MS[where]} ms, {where}, "
        f"{os.cpu_count()} cores for server and generator, {phase_s:.0f} s a phase"
    )
    return Section("mixed_load", title, rows, MEANING, series={"budget_ms": BUDGETS_MS[where], "latency_ms": curves})


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--seconds", type=float, default=0.0, help="of each of the three phases; default: 20 on a CPU, 12 on CUDA"
    )


if __name__ == "__main__":
    section.run(measure, __doc__ or "", _options)
