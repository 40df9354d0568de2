"""What the sidecar adds to a search whose hits it leaves alone: 100 hits of about 2 kB, reranking off.

    python -m tests.bench.overhead [ENGINE]      ENGINE is a name of tests/engines, default opensearch-3

The bare client of the engine and the client of the sidecar ask by turns, each ending with the parsed response. The
sidecar is a process of its own, as an app would have it. Printed are p50 and p99 of both, and of the difference of
each pair of calls.
"""

import asyncio
import os
import platform
import random
import sys
import time
from collections.abc import Awaitable, Callable
from statistics import quantiles
from typing import Any

import elasticsearch
import opensearchpy
from rich.console import Console
from rich.progress import track
from rich.table import Table

from sidecar.client import RerankClient
from tests.bench.server import running
from tests.engines.engine import Engine, indices, started

CALLS = 500
WARM_UP = 200
HITS = 100
DOCUMENT_CHARS = 2000
BODY = {"query": {"match": {"text": "apple"}}, "size": HITS}
_WORDS = ("storage", "winter", "cellar", "keep", "cool", "paper", "fruit", "price", "orchard", "sugar", "skin", "soil")


def documents(seed: int = 7) -> dict[str, dict[str, Any]]:
    """Twice as many documents as a search returns, each of DOCUMENT_CHARS characters and with the word searched for."""
    draw = random.Random(seed)
    texts = (
        " ".join(["apple", *draw.choices(_WORDS, k=DOCUMENT_CHARS // 5)])[:DOCUMENT_CHARS] for _ in range(2 * HITS)
    )
    return {str(number): {"title": f"Document {number}", "text": text} for number, text in enumerate(texts)}


def bare_client(engine: Engine) -> Any:
    """The engine's official client for asyncio, with its defaults."""
    if engine.kind == "elasticsearch":
        return elasticsearch.AsyncElasticsearch(engine.url)
    return opensearchpy.AsyncOpenSearch(engine.url)


async def by_turns(*asks: Callable[[], Awaitable[int]]) -> list[list[float]]:
    """Milliseconds of CALLS calls of each of ``asks``, by turns and after WARM_UP rounds that do not count.

    Each round begins with another one, since the second to ask finds the engine's caches warm.
    """
    times: list[list[float]] = [[] for _ in asks]
    turns = list(zip(asks, times, strict=True))
    for number in track(range(WARM_UP + CALLS), "calls", console=Console(stderr=True), transient=True):
        turns.append(turns.pop(0))
        for ask, milliseconds in turns:
            started = time.perf_counter()
            found = await ask()
            if number >= WARM_UP:
                milliseconds.append((time.perf_counter() - started) * 1e3)
            if found != HITS:
                raise RuntimeError(f"{found} hits came back, {HITS} were asked for")
    return times


async def measure(engine: Engine) -> list[list[float]]:
    """Milliseconds of the calls of the bare client, and of those through the sidecar."""
    with indices(engine) as names:
        index = names("overhead", documents=documents())
        connectors = {"main": {"type": engine.kind, "hosts": [engine.url]}}
        with running(policy={"enabled": False}, connectors=connectors) as server:
            async with RerankClient(server.address) as sidecar, bare_client(engine) as bare:

                async def directly() -> int:
                    answer = await bare.search(index=index, body=BODY)
                    return len(answer["hits"]["hits"])

                async def through() -> int:
                    return len((await sidecar.search(index, "apple", BODY)).hits)

                return await by_turns(directly, through)


def table(engine: Engine, direct: list[float], through: list[float]) -> Table:
    """p50 and p99 of both, and of how much longer the call through the sidecar took in each round."""
    added = [second - first for first, second in zip(direct, through, strict=True)]
    title = f"{HITS} hits of {DOCUMENT_CHARS} characters, {engine.name} {engine.version}, {len(direct)} calls each, ms"
    shown = Table(title=title)
    for heading in ("", "p50", "p99"):
        shown.add_column(heading, justify="right" if heading else "left")
    for name, times in (("bare client", direct), ("through the sidecar", through), ("added", added)):
        cuts = quantiles(times, n=100, method="inclusive")
        shown.add_row(name, f"{cuts[49]:.2f}", f"{cuts[98]:.2f}")
    return shown


def main() -> None:
    """Run it and print the table."""
    name = sys.argv[1] if len(sys.argv) > 1 else "opensearch-3"
    with started(name) as engine:
        times = asyncio.run(measure(engine))
    console = Console(width=100)
    console.print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    )
    console.print(table(engine, *times))


if __name__ == "__main__":
    main()
