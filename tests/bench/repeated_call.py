"""What the same call costs when it comes again: the path of a cache hit.

    python -m tests.bench.repeated_call [--calls N]

100 texts of 85 tokens on average, one call at a time: new documents each time, the same documents with new queries, and
the very same calls, whose documents are those again. The server has its default settings and caches what it likes; a
server without caches would show three similar rows.
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
from tests.bench.machine import device
from tests.bench.percentiles import percentile
from tests.bench.section import Section
from tests.bench.server import Server, running

CANDIDATES, TOKENS = 100, 85
CALLS, QUICK_CALLS = 25, 10
_BUDGET_MS = 5000
_LIMIT_S = 45.0
"""Seconds for two kinds of calls."""
COSINES: dict[str, dict[str, Any] | None] = {"none": None, "the default": {}, "wait: false": {"wait": False}}
"""Settings of a policy's ``cosine``."""
MEANING = {
    "cosine": "the policy's `cosine`; with `wait: false` new documents are encoded after their call, beside others",
    "call": "what of the call was there before; in runs of before commit 4d4292b rows had documents of other lengths",
    "calls": "calls that were reranked",
    "p50_ms": "and p99_ms: latency, seen from the client",
    "tokenize_p50_ms": "assembling the passages and making tokens of them, as the reply states it",
    "score_p50_ms": "from the first batch on the device to the last score, as the reply states it",
    "faster_by": "p50 of the first row over that of this one",
}


def _stream(documents: int, *, fresh_queries: bool) -> Stream:
    return Stream(
        arrivals="closed",
        candidates=CANDIDATES,
        size=TOKENS,
        documents=documents,
        fresh_queries=fresh_queries,
        budget_ms=_BUDGET_MS,
        seed=21,
    )


def by_kind(server: Server, calls: int) -> dict[str, Sequence[Call]]:
    """Calls by kind, ``calls`` of each, or fewer on a slow machine."""
    sent = [
        generated(server, Plan(server.address, _LIMIT_S, [stream], max_calls=2 * calls)).calls
        for stream in (_stream(calls, fresh_queries=True), _stream(calls, fresh_queries=False))
    ]
    return {
        "new documents, new query": sent[0][:calls],
        "known documents, new query": sent[0][calls:],
        "the same call again": sent[1][calls:],
    }


def row(name: str, calls: Sequence[Call]) -> dict[str, Any]:
    """The table's row of one kind of call."""

    def cut(times: Sequence[float], at: float) -> float | None:
        return None if (found := percentile(times, at)) is None else round(found, 2)

    latency = [call.latency_ms for call in calls]
    return {
        "call": name,
        "calls": len(calls),
        "p50_ms": cut(latency, 50),
        "p99_ms": cut(latency, 99),
        "tokenize_p50_ms": cut([call.tokenize_ms for call in calls], 50),
        "score_p50_ms": cut([call.score_ms for call in calls], 50),
    }


def measure(chosen: argparse.Namespace) -> Section:
    """Measure each kind of call with each setting of ``cosine``."""
    count = QUICK_CALLS if chosen.quick else chosen.calls
    rows = []
    for cosine, settings in track(COSINES.items(), "settings", console=Console(stderr=True), transient=True):
        with running(policy={"budget_ms": _BUDGET_MS, "cosine": settings}) as server:
            warm = Stream(arrivals="closed", seed=20, budget_ms=_BUDGET_MS)
            generated(server, Plan(server.address, _LIMIT_S, [warm], max_calls=5))
            for name, calls in by_kind(server, count).items():
                rows.append({"cosine": cosine, **row(name, [call for call in calls if call.outcome == "RERANKED"])})
    for one in rows:
        one["faster_by"] = round(rows[0]["p50_ms"] / one["p50_ms"], 2) if rows[0]["p50_ms"] and one["p50_ms"] else None
    title = (
        f"The same call again: Rerank of {CANDIDATES} texts, mean {TOKENS} tokens, {device()}, "
        f"{os.cpu_count()} cores for server and client, one call at a time"
    )
    return Section("repeated_call", title, rows, MEANING)


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--calls", type=int, default=CALLS, help="calls of each kind")


if __name__ == "__main__":
    section.run(measure, __doc__ or "", _options)
