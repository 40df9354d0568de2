"""Calls to a sidecar under test, what is expected of their answers, and scorers and engines that misbehave."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest

from connectors.hits import Hits, Json
from connectors.memory import MemoryConnector
from connectors.memory_query import BODY_KEYS
from sidecar.app import App
from sidecar.client import RerankClient
from sidecar.deadline import Deadline
from sidecar.loaded import LoadedModel
from sidecar.scheduler import Scheduler
from sidecar.scoring.base import Pair, Scores
from sidecar.settings import Settings
from sidecar.tickets import Scored
from sidecar.v1 import rerank_pb2 as pb
from tests.conftest import DOCUMENTS, settings

QUERY = "apple varieties for winter storage"
BODY: dict[str, Any] = {"query": {"match": {"body": "apple winter"}}}
BUDGET_S = 0.3
SEARCH_TIMEOUT_S = 0.8
SLACK_S = 0.35
"""What a reply may come later than its budget on a machine that is busy with something else."""
PATIENCE_S = 20.0
"""Longest that a test waits for what has to happen soon."""


def quick(policy: Mapping[str, Any] | None = None, server: Mapping[str, Any] | None = None) -> Settings:
    """Settings with a budget of BUDGET_S, and searches of SEARCH_TIMEOUT_S at most."""
    connector = {"type": "memory", "indices": {"docs": "unused"}, "search_timeout_ms": int(SEARCH_TIMEOUT_S * 1e3)}
    return settings(
        {"budget_ms": int(BUDGET_S * 1e3), **(policy or {})},
        connectors={"main": connector},
        server={
            "address": "127.0.0.1:0",
            "metrics_address": None,
            "shutdown_grace_s": 1,
            "score_cache_mib": 0,
            **(server or {}),
        },
    )


def short_queue(pairs: int, policy: Mapping[str, Any] | None = None) -> Settings:
    """As :func:`quick`, with a queue that a file would not be allowed to have: shorter than the policy's own window."""
    configured = quick(policy)
    return configured.model_copy(update={"server": configured.server.model_copy(update={"max_queued_pairs": pairs})})


@dataclass(frozen=True)
class Reply:
    """What the tests look at of any kind of answer."""

    ids: list[str]
    outcome: str
    reason: str
    results: Sequence[pb.Result]
    meta: pb.Meta


def reply(message: pb.SearchResponse | pb.RerankResponse) -> Reply:
    """The answer in short; names without their prefix."""
    outcome = pb.Outcome.Name(message.outcome).removeprefix("OUTCOME_")
    reason = pb.Reason.Name(message.reason).removeprefix("REASON_")
    return Reply([result.id for result in message.results], outcome, reason, message.results, message.meta)


Way = Callable[[RerankClient], Awaitable[Reply]]


async def search(client: RerankClient) -> Reply:
    """By Search."""
    page = await client.search("docs", QUERY, BODY)
    assert [hit["_id"] for hit in page.hits] == [result.id for result in page.results]
    return reply(page.message)


async def search_progressive(client: RerankClient) -> Reply:
    """By SearchProgressive: the second message, after the first has brought the engine's order."""
    first, second = [page async for page in client.search_progressive("docs", QUERY, BODY)]
    assert (first.outcome, [hit["_id"] for hit in first.hits]) == ("UNSPECIFIED", await engine_ids())
    return reply(second.message)


async def rerank(client: RerankClient) -> Reply:
    """By Rerank, with the engine's hits as an app would send them: id, index and text."""
    candidates = [
        pb.Candidate(id=key, index="docs", text=" ".join(DOCUMENTS[key].values())) for key in await engine_ids()
    ]
    return reply(await client.rerank(QUERY, candidates))


WAYS = [search, search_progressive, rerank]


async def engine_ids(body: Json | None = None, documents: Mapping[str, Json] = DOCUMENTS) -> list[str]:
    """The ids that the engine itself gives for a body, in its own order."""
    hits = await MemoryConnector("engine", {"docs": documents}).search("docs", body or BODY, timeout_s=PATIENCE_S)
    return [hit.ref.id for hit in hits.hits]


async def assert_engines_order(got: Reply, outcome: str, reason: str) -> None:
    """The reply is exactly the engine's own page, says why, and does not look reranked."""
    assert (got.outcome, got.reason) == (outcome, reason)
    assert got.ids == await engine_ids()
    assert [result.original_rank for result in got.results] == list(range(len(got.ids)))
    assert not any(result.HasField("relevance_score") for result in got.results)
    assert (got.meta.scored, got.meta.fusion) == (0, "")
    assert got.meta.detail


async def status(call: Awaitable[Any]) -> grpc.aio.AioRpcError:
    """The error that a call ends with."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


def request_id_of(error: grpc.aio.AioRpcError) -> str:
    """The request id in the trailing metadata of an error."""
    metadata = dict(error.trailing_metadata() or ())
    return str(metadata.get("x-request-id", ""))


@asynccontextmanager
async def raw_channel(app: App) -> AsyncIterator[Any]:
    """A channel without limits, for messages as bytes; it is typed for messages of the contract only."""
    options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{app.port}", options=options) as channel:
        yield channel


@asynccontextmanager
async def within(seconds: float) -> AsyncIterator[None]:
    """The block takes no longer than that and SLACK_S."""
    started = time.monotonic()
    yield
    took = time.monotonic() - started
    assert took < seconds + SLACK_S, f"took {took:.3f} s of {seconds:.3f} s"


async def until(holds: Callable[[], bool], patience_s: float = PATIENCE_S) -> None:
    """Wait until something holds, so long at most."""
    async with asyncio.timeout(patience_s):
        while not holds():  # noqa: ASYNC110 - what is waited for tells nobody when it happens
            await asyncio.sleep(0.005)


def queued_pairs(app: App) -> float | None:
    """What the gauge of waiting pairs says."""
    return app.metrics.registry.get_sample_value("sidecar_queue_pairs")


@dataclass
class Held:
    """A fault of the scorer: it hangs until ``release``; ``first`` limits that to the first so many calls."""

    first: int = 1_000_000
    _entered: threading.Event = field(default_factory=threading.Event)
    _released: threading.Event = field(default_factory=threading.Event)

    def __call__(self, number: int, pairs: Sequence[Pair]) -> Scores | None:
        if number < self.first:
            self._entered.set()
            self._released.wait(60)
        return None

    async def entered(self) -> None:
        """Wait until the device hangs."""
        assert await asyncio.to_thread(self._entered.wait, PATIENCE_S)

    def release(self) -> None:
        """Let the device go on, now and ever after."""
        self._released.set()

    def __enter__(self) -> "Held":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


class RecordingConnector(MemoryConnector):
    """A memory connector that keeps what it was asked, and takes any body as the part of it that it understands."""

    def __init__(self, documents: Mapping[str, Json] = DOCUMENTS) -> None:
        super().__init__("main", {"docs": documents})
        self.asked: list[tuple[str, Json, dict[str, str]]] = []

    async def search(
        self, index: str, body: Json, *, timeout_s: float, params: Mapping[str, str] | None = None
    ) -> Hits:
        """See :meth:`connectors.base.Connector.search`."""
        self.asked.append((index, body, dict(params or {})))
        plain = {key: value for key, value in body.items() if key in BODY_KEYS and key != "sort"}
        return await super().search(index or "docs", plain, timeout_s=timeout_s)


class ForwardingConnector(MemoryConnector):
    """A memory connector that keeps the end users' credentials that it was asked with."""

    def __init__(self, documents: Mapping[str, Json] = DOCUMENTS) -> None:
        super().__init__("main", {"docs": documents})
        self.asked: list[str] = []

    def acting_as(self, authorization: str) -> "ForwardingConnector":
        """See :meth:`connectors.base.Connector.acting_as`."""
        self.asked.append(authorization)
        return self


FORWARDING = {"main": {"type": "opensearch", "hosts": ["http://x:9200"], "forward_authorization": True}}
"""The configuration's connectors for it."""


@asynccontextmanager
async def busy(scheduler: Scheduler) -> AsyncIterator[None]:
    """The device's thread is busy with something else in this block, so that what comes has to wait."""
    entered, over = threading.Event(), threading.Event()

    def hold() -> None:
        entered.set()
        over.wait(60)

    scheduler.device.submit(hold)
    assert await asyncio.to_thread(entered.wait, PATIENCE_S)
    try:
        yield
    finally:
        over.set()


async def score(
    scheduler: Scheduler,
    model: LoadedModel,
    groups: Sequence[Sequence[Pair]],
    deadline: Deadline,
    min_groups: int | None = None,
) -> Scored:
    """Hand in a job and wait for its scores."""
    return await scheduler.result(scheduler.submit(model, groups, deadline, min_groups))
