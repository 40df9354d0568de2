"""Whether memory grows: the resident memory of a real server over 100,000 calls.

    python -m tests.bench.soak [--calls N]

The server runs the bundled model; its caches are small, so that they are full before the samples count: what fills a
bounded cache is no leak. Calls are Rerank with two texts of eight words, every query new, from four callers in turn.
Growth is the slope of a line through the samples of the last three quarters, by least squares. Reads /proc, so it
needs Linux.
"""

import argparse
import os
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from pydantic import BaseModel
from rich.console import Console
from rich.progress import Progress

from sidecar.settings import ModelSettings, ServerSettings
from tests.bench import section
from tests.bench.generate import generated
from tests.bench.generator import Plan, Result, Stream
from tests.bench.machine import device
from tests.bench.section import Section
from tests.bench.server import Server, running

CALLS, QUICK_CALLS = 100_000, 3_000
_PART = 10_000
_SAMPLE_S = 1.0
_WARM_UP_SHARE = 0.25
_LIMIT_S = 600.0
_POINTS = 400
_CACHE_MIB = 1
_CALLS_NAME = "sidecar_requests_total"
MEANING = {
    "calls": "calls answered",
    "calls_per_s": "calls over the time of the run",
    "reranked_percent": "share of them that were reranked",
    "rss_start_mib": "resident memory before the first call, the model warm",
    "rss_warm_mib": "after a quarter of the calls",
    "rss_end_mib": "after the last call",
    "growth_mib": "slope over the last three quarters, times their calls",
    "growth_bytes_per_call": "that slope",
}


def sampled(server: Server, calls: int) -> tuple[list[tuple[int, int]], int]:
    """Send the calls; (calls answered, resident KiB) about once a second, and how many calls were reranked."""
    samples = [(0, server.rss_kib())]
    reranked = 0
    with ThreadPoolExecutor(1) as pool, Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("calls", total=calls)
        for part, start in enumerate(range(0, calls, _PART)):
            kind = Stream(
                arrivals="closed",
                callers=4,
                candidates=2,
                size=8,
                unit="words",
                documents=500,
                budget_ms=5000,
                seed=part,
            )
            plan = Plan(server.address, _LIMIT_S, [kind], max_calls=min(_PART, calls - start))
            running_part: Future[Result] = pool.submit(generated, server, plan)
            while not running_part.done():
                time.sleep(_SAMPLE_S)
                server.check()
                samples.append((int(server.metrics().get(_CALLS_NAME, 0)), server.rss_kib()))
                progress.update(task, completed=samples[-1][0])
            reranked += sum(call.outcome == "RERANKED" for call in running_part.result().calls)
    samples.append((int(server.metrics()[_CALLS_NAME]), server.rss_kib()))
    return samples, reranked


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Slope of the line through the points by least squares; 0 if they all have the same x.

    >>> slope([(0, 1), (1, 3), (2, 5)])
    2.0
    """
    xs, ys = [x for x, _ in points], [y for _, y in points]
    return statistics.linear_regression(xs, ys).slope if len(set(xs)) > 1 else 0.0


def small_caches(settings: type[BaseModel]) -> dict[str, int]:
    """A small value for each setting of this section that bounds a cache."""
    return {name: _CACHE_MIB for name in settings.model_fields if name.endswith("cache_mib")}


def row(samples: Sequence[tuple[int, int]], reranked: int, took_s: float) -> dict[str, Any]:
    """The table's one row."""
    calls = samples[-1][0]
    warm = [(at, rss) for at, rss in samples if at >= _WARM_UP_SHARE * calls]
    kib_per_call = slope(warm)
    return {
        "calls": calls,
        "calls_per_s": round(calls / took_s, 1),
        "reranked_percent": round(100 * reranked / calls, 2),
        "rss_start_mib": round(samples[0][1] / 1024, 1),
        "rss_warm_mib": round(warm[0][1] / 1024, 1),
        "rss_end_mib": round(samples[-1][1] / 1024, 1),
        "growth_mib": round(kib_per_call * (calls - warm[0][0]) / 1024, 2),
        "growth_bytes_per_call": round(kib_per_call * 1024, 1),
    }


def measure(chosen: argparse.Namespace) -> Section:
    """Run the calls and sample the server's memory."""
    calls = QUICK_CALLS if chosen.quick else chosen.calls
    model, server_settings = small_caches(ModelSettings), small_caches(ServerSettings)
    with running(policy={"budget_ms": 5000}, model=model, server=server_settings) as server:
        started = time.monotonic()
        samples, reranked = sampled(server, calls)
        rows = [row(samples, reranked, time.monotonic() - started)]
    title = (
        f"Memory over {calls:,} calls: two texts each, bundled model, {device()}, {os.cpu_count()} cores, "
        f"caches of {_CACHE_MIB} MiB"
    )
    kept = [[at, round(rss / 1024, 2)] for at, rss in samples[:: max(1, len(samples) // _POINTS)]]
    return Section("soak", title, rows, MEANING, series={"calls_and_rss_mib": kept, "warm_up_share": _WARM_UP_SHARE})


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--calls", type=int, default=CALLS, help="calls in all")


if __name__ == "__main__":
    section.run(measure, __doc__ or "", _options)
