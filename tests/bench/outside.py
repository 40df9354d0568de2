"""Where the time of a Search goes outside the forward: 100 hits of 500 characters, a scorer that costs nothing.

    python -m tests.bench.outside [--calls N]

The server is a process of its own with the real tokenizer, gRPC, scheduler and log; its engine is a canned answer,
which is parsed anew by every call, and its scorer gives numbers at once. Times are those of whole calls as the client
sees them, one after the other, and of the time the server counts itself, stage by stage: with new queries, so that the
token ids of the documents are kept and scores are not, then with one query whose scores are all kept.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoTokenizer

from connectors.attempts import Call
from connectors.hits import Hits, Json
from connectors.memory import MemoryConnector
from connectors.wire import read_hits
from sidecar import logs
from sidecar.app import App
from sidecar.client import RerankClient, search_request
from sidecar.cost import CostModel
from sidecar.loaded import LoadedModel
from sidecar.scoring.base import Pair, Scores
from sidecar.scoring.checkpoint import location
from sidecar.settings import BUNDLED, ModelSettings, Settings
from sidecar.tokenization import PairEncoder
from sidecar.v1 import rerank_pb2 as pb
from tests.bench import section
from tests.bench.percentiles import median_and_tail
from tests.bench.section import Row, Section

CALLS, QUICK_CALLS = 1000, 100
WARM_UP = 200
HITS = 100
DOCUMENT_CHARS = 500
ANSWERS = 10
BODY = {"query": {"match": {"text": "apple"}}, "size": HITS}
WHOLE_CALL, OUTSIDE = "call, seen from the client", "in the server outside the forward passes"
"""Names of rows, also in the bench of single calls; the server's own total ends before the reply is built."""
TOKENS_KNOWN, SCORES_KNOWN = "tokens", "tokens and scores"
MEANING = {
    "known": "what the server has kept of earlier calls: token ids of the documents, or the scores of all pairs too",
    "what": "a stage of a call as its reply tells it; the engine's answer is read in the search, the scorer is free",
    "p50_ms": "half of the calls took no longer",
    "p99_ms": "99 % of the calls took no longer",
}
STAGES = ("search_ms", "fetch_ms", "tokenize_ms", "queue_ms", "score_ms", "total_ms")
_WORDS = ("storage", "winter", "cellar", "keep", "cool", "paper", "fruit", "price", "orchard", "the", "with", "and")
_START_S = 60
_STOP_S = 15
_BUDGET_MS = 5000
"""Enough to limit no call, even on a busy machine."""


def answer(number: int) -> bytes:
    """An engine's answer: HITS documents of DOCUMENT_CHARS characters each."""
    draw = random.Random(number)
    rows = [
        {
            "_index": "docs",
            "_id": f"{number}-{rank}",
            "_score": 20 - rank / 10,
            "_source": {"title": f"Document {rank}", "text": " ".join(draw.choices(_WORDS, k=200))[:DOCUMENT_CHARS]},
        }
        for rank in range(HITS)
    ]
    total = {"value": HITS, "relation": "eq"}
    return json.dumps({"took": 3, "timed_out": False, "hits": {"total": total, "max_score": 20, "hits": rows}}).encode()


class CannedEngine(MemoryConnector):
    """A connector that reads the same few answers again and again."""

    def __init__(self) -> None:
        super().__init__("main", {"docs": {"0": {"text": "apple"}}})
        self._answers = [answer(number) for number in range(ANSWERS)]
        self._asked = 0

    async def search(
        self, index: str, body: Json, *, timeout_s: float, params: Mapping[str, str] | None = None
    ) -> Hits:
        """See :meth:`connectors.base.Connector.search`."""
        self._asked += 1
        return read_hits(Call(self.name, "search"), self._answers[self._asked % ANSWERS])


class FreeScorer:
    """A scorer with real token ids and with scores that cost nothing."""

    version = "free"

    def __init__(self, settings: ModelSettings) -> None:
        self.max_length = 512
        tokenizer = AutoTokenizer.from_pretrained(location(BUNDLED), local_files_only=True)
        self._encoder = PairEncoder(tokenizer, self.max_length, cache_bytes=settings.token_cache_mib * 2**20)

    def encode(self, query: str, passages: Sequence[str]) -> list[Pair]:
        """See :class:`sidecar.scoring.base.Scorer`."""
        return self._encoder.encode(query, passages)

    def encode_kept(self, query: str, passages: Sequence[str]) -> list[Pair] | None:
        """See :class:`sidecar.loaded.Finder`."""
        return self._encoder.encode_kept(query, passages)

    def score(self, pairs: Sequence[Pair]) -> Scores:
        """See :class:`sidecar.scoring.base.Scorer`."""
        return np.arange(len(pairs), dtype=np.float32)


def loaded(name: str, settings: ModelSettings) -> LoadedModel:
    """The model with the free scorer, on a device that takes all pairs at once."""
    return LoadedModel.of(name, FreeScorer(settings), CostModel(overhead_s=1e-5), settings)


def configured(**server: Any) -> Settings:
    """Settings with one policy over all indices."""
    policy = {"match": [{"index": "*"}], "text": {"fields": ["title", "text"]}, "budget_ms": _BUDGET_MS, "cosine": None}
    return Settings.model_validate(
        {
            "server": {"address": "127.0.0.1:0", "metrics_address": None, **server},
            "connectors": {"main": {"type": "memory", "indices": {"docs": "unused"}}},
            "models": {"default": {"max_batch_tokens": 65_536}},
            "policies": {"all": policy},
        }
    )


def serve(told: Connection, server: dict[str, Any]) -> None:
    """Serve until the process is terminated, and send the port to ``told``; the log is written to the null device."""

    async def run() -> None:
        app = App(configured(**server), load=loaded, connectors={"main": CannedEngine()})
        await app.run(lambda: told.send(app.port))

    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
        logs.configure()
        asyncio.run(run())


@contextmanager
def server_process(**server: Any) -> Iterator[str]:
    """A sidecar in its own process, with these server settings; gives its address."""
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe()
    process = spawn.Process(target=serve, args=(there, server))
    process.start()
    try:
        if not here.poll(_START_S):
            raise RuntimeError("the server has not started")
        yield f"127.0.0.1:{here.recv()}"
    finally:
        process.terminate()
        process.join(_STOP_S)
        process.kill()


async def times_of(address: str, calls: int, *, repeat_queries: bool) -> dict[str, list[float]]:
    """Milliseconds of each of ``calls`` calls and of each of its stages, after WARM_UP calls that do not count."""
    times: dict[str, list[float]] = {name: [] for name in (WHOLE_CALL, *STAGES, OUTSIDE)}
    async with RerankClient(address) as client:
        for number in range(WARM_UP + calls):
            query = f"which apple keeps {0 if repeat_queries else number}"
            started = time.perf_counter()
            reply = await client.stub.Search(search_request("docs", query, BODY), timeout=_START_S)
            took_ms = (time.perf_counter() - started) * 1e3
            if reply.outcome != pb.OUTCOME_RERANKED or len(reply.results) != HITS:
                raise RuntimeError(f"{pb.Reason.Name(reply.reason)}, {len(reply.results)} hits")
            if number >= WARM_UP:
                spent = reply.meta.timings
                times[WHOLE_CALL].append(took_ms)
                times[OUTSIDE].append(spent.total_ms - spent.device_ms)
                for stage in STAGES:
                    times[stage].append(getattr(spent, stage))
    return times


def rows_of(known: str, times: Mapping[str, Sequence[float]]) -> list[Row]:
    """One row a stage."""
    return [{"known": known, "what": name, **median_and_tail(took)} for name, took in times.items()]


def measure(chosen: argparse.Namespace) -> Section:
    """Measure both kinds of calls, each on a server of its own."""
    calls = QUICK_CALLS if chosen.quick else chosen.calls
    rows: list[Row] = []
    for known, score_cache_mib in ((TOKENS_KNOWN, 0), (SCORES_KNOWN, 64)):
        with server_process(score_cache_mib=score_cache_mib) as address:
            times = asyncio.run(times_of(address, calls, repeat_queries=known == SCORES_KNOWN))
        rows += rows_of(known, times)
    title = (
        f"Search with a scorer that costs nothing: {HITS} hits of {DOCUMENT_CHARS} characters, "
        f"{os.cpu_count()} cores for server and client, {calls} calls each, one at a time"
    )
    return Section("outside", title, rows, MEANING)


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--calls", type=int, default=CALLS, help=f"calls that count, after {WARM_UP} that do not")


if __name__ == "__main__":
    section.run(measure, __doc__ or "", _options)
