"""Hostile callers: whatever they send, the sidecar answers with a status that blames them, and serves on."""

import asyncio
import contextlib
import gc
import json
import resource
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
import structlog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from connectors.errors import EngineUnavailable
from connectors.memory import Fault, MemoryConnector
from sidecar.app import App
from sidecar.client import RerankClient
from sidecar.interceptors import _Forgets, request_id
from sidecar.scoring.base import Scorer
from sidecar.scoring.fake import WordOverlapScorer
from sidecar.settings import Settings
from sidecar.v1 import rerank_pb2 as pb
from tests.calls import BUDGET_S, PATIENCE_S, quick, raw_channel, short_queue, until
from tests.conftest import DOCUMENTS, Serve
from tests.conftest import settings as configured
from tests.slow_reader import SlowReader

PROGRESSIVE = "/sidecar.v1.RerankService/SearchProgressive"
METHODS = {
    "/sidecar.v1.RerankService/Search": pb.SearchRequest,
    "/sidecar.v1.RerankService/Rerank": pb.RerankRequest,
    PROGRESSIVE: pb.SearchProgressiveRequest,
    "/sidecar.v1.PolicyService/List": pb.ListRequest,
    "/sidecar.v1.PolicyService/Explain": pb.ExplainRequest,
    "/sidecar.v1.PolicyService/Status": pb.StatusRequest,
    "/sidecar.v1.PolicyService/Switch": pb.SwitchRequest,
}
THEIRS = {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "PERMISSION_DENIED", "FAILED_PRECONDITION", "RESOURCE_EXHAUSTED"}
BODY = {"query": {"match": {"body": "apple"}}}
MIB = 2**20
needs_proc = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")


def resident_bytes() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def plain(value: bytes) -> bytes:
    return value


async def ends(channel: grpc.aio.Channel, method: str, frame: bytes, **options: Any) -> str:
    """The status of a call with these bytes as its request."""
    try:
        if method == PROGRESSIVE:
            async for _ in channel.unary_stream(method, plain, plain)(frame, timeout=PATIENCE_S, **options):
                pass
        else:
            await channel.unary_unary(method, plain, plain)(frame, timeout=PATIENCE_S, **options)
    except grpc.aio.AioRpcError as error:
        return error.code().name
    return "OK"


@asynccontextmanager
async def attacked(serve: Serve, **server: Any) -> AsyncIterator[tuple[grpc.aio.Channel, App]]:
    """A sidecar that still serves afterwards."""
    own = {"address": "127.0.0.1:0", "metrics_address": None, "shutdown_grace_s": 1, **server}
    async with serve(configured=configured(server=own)) as (client, app):
        async with raw_channel(app) as channel:
            yield channel, app
        assert (await client.search("docs", "apple", BODY)).outcome == "RERANKED"


def run(serve: Serve, frames: list[tuple[str, bytes]]) -> list[str]:
    async def all_of_them() -> list[str]:
        async with attacked(serve) as (channel, _):
            return [await ends(channel, method, frame) for method, frame in frames]

    return asyncio.run(all_of_them())


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.lists(st.tuples(st.sampled_from(sorted(METHODS)), st.binary(max_size=300)), min_size=20, max_size=40))
def test_random_bytes_are_the_callers_fault(serve: Serve, frames: list[tuple[str, bytes]]) -> None:
    assert set(run(serve, frames)) <= THEIRS


TEXT = st.text(max_size=40)
ODD = [
    "{}",
    "[]",
    "null",
    '{"size": -1}',
    '{"from": 1e999}',
    '{"query": {"match_all": {}}}',
    '{"size": "x"}',
    "{" * 500,
]
JSON = st.one_of(TEXT, st.sampled_from(ODD))
OPTIONS = st.builds(
    pb.Options,
    policy=st.sampled_from(["", "default", "none"]) | TEXT,
    rank_window_size=st.none() | st.integers(-(2**31), 2**31 - 1),
    budget_ms=st.none() | st.integers(-(2**31), 2**31 - 1),
    min_score=st.none() | st.floats(),
    pinned_ids=st.lists(TEXT, max_size=3),
    return_passages=st.booleans(),
    key=TEXT,
)
NAMES = ["docs", "*", "_all", "docs,docs", "-docs", "<docs-{now/d}>", "a:b", "../x", "docs%2F_search"]
INDEX = st.one_of(TEXT, st.sampled_from(NAMES))
CONNECTOR = st.sampled_from(["", "main", "other"])
CANDIDATES = st.lists(
    st.builds(
        pb.Candidate,
        id=TEXT,
        index=st.sampled_from(["", "docs", "x"]),
        routing=TEXT,
        score=st.none() | st.floats(),
        text=st.none() | TEXT,
        hit=st.just("") | JSON,
    ),
    max_size=4,
)
MESSAGES: dict[str, Any] = {
    "/sidecar.v1.RerankService/Search": st.builds(
        pb.SearchRequest,
        connector=CONNECTOR,
        index=INDEX,
        query=TEXT,
        body=JSON,
        params=st.dictionaries(TEXT, TEXT, max_size=2),
        options=OPTIONS,
        template=st.just("") | JSON,
    ),
    "/sidecar.v1.RerankService/Rerank": st.builds(
        pb.RerankRequest,
        connector=CONNECTOR,
        index=INDEX,
        query=TEXT,
        candidates=CANDIDATES,
        top_n=st.none() | st.integers(-(2**31), 2**31 - 1),
        options=OPTIONS,
    ),
    PROGRESSIVE: st.builds(
        pb.SearchProgressiveRequest,
        search=st.none()
        | st.builds(pb.SearchRequest, connector=CONNECTOR, index=INDEX, query=TEXT, body=JSON, options=OPTIONS),
    ),
    "/sidecar.v1.PolicyService/List": st.just(pb.ListRequest()),
    "/sidecar.v1.PolicyService/Switch": st.builds(pb.SwitchRequest, policy=TEXT, on=st.booleans()),
    "/sidecar.v1.PolicyService/Explain": st.builds(
        pb.ExplainRequest, connector=CONNECTOR, index=INDEX, body=JSON, options=OPTIONS, template=st.just("") | JSON
    ),
    "/sidecar.v1.PolicyService/Status": st.builds(pb.StatusRequest, policy=TEXT),
}
ANY = st.one_of(*(st.tuples(st.just(method), messages) for method, messages in MESSAGES.items()))


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.lists(ANY, min_size=20, max_size=40))
def test_any_message_is_answered_or_the_callers_fault(serve: Serve, sent: list[tuple[str, Any]]) -> None:
    found = run(serve, [(method, message.SerializeToString()) for method, message in sent])
    assert set(found) <= THEIRS, [one for one in zip(found, sent, strict=True) if one[0] not in THEIRS]


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
FRAMES = st.builds(
    lambda kind, flags, stream, body: len(body).to_bytes(3, "big") + bytes((kind, flags)) + stream + body,
    st.integers(0, 12),
    st.integers(0, 255),
    st.binary(min_size=4, max_size=4),
    st.binary(max_size=60),
)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.lists(st.one_of(st.binary(max_size=200), st.lists(FRAMES, max_size=8).map(b"".join)), max_size=20))
def test_no_bytes_on_a_connection_stop_the_sidecar(serve: Serve, sent: list[bytes]) -> None:
    """Neither what is no HTTP/2 at all nor frames of any kind, flags and stream."""

    async def send(port: int, content: bytes) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        with contextlib.suppress(OSError):
            writer.write(content)
            await writer.drain()
            writer.write_eof()
            await asyncio.wait_for(reader.read(), PATIENCE_S)
        writer.close()

    async def all_of_them() -> None:
        async with attacked(serve) as (_, app):
            for content in sent:
                await send(app.port, content)
                await send(app.port, PREFACE + content)

    asyncio.run(all_of_them())


@settings(max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.lists(ANY, min_size=10, max_size=20))
def test_whatever_a_stranger_sends_he_is_told_that_nobody_knows_him(serve: Serve, sent: list[tuple[str, Any]]) -> None:
    """Nothing of a request is looked at before its caller is known."""

    async def all_of_them() -> set[str]:
        auth = {"keys_env": "NO_KEYS_AT_ALL", "roles": {"search": {}}}
        own = {"address": "127.0.0.1:0", "metrics_address": None, "shutdown_grace_s": 1, "auth": auth}
        async with serve(configured=configured(server=own)) as (_, app), raw_channel(app) as channel:
            return {await ends(channel, method, message.SerializeToString()) for method, message in sent}

    assert asyncio.run(all_of_them()) == {"UNAUTHENTICATED"}


async def test_a_small_frame_that_inflates_past_the_limit_is_refused(serve: Serve) -> None:
    """A hundred MiB of one letter are 100 kB on the wire; memory does not follow."""
    bomb = pb.RerankRequest(query="apple", candidates=[pb.Candidate(text="a" * (100 * MIB))]).SerializeToString()
    async with attacked(serve, max_message_mib=1) as (_, app):
        options = [("grpc.max_send_message_length", -1)]
        async with grpc.aio.insecure_channel(f"127.0.0.1:{app.port}", options=options) as wide:
            for _ in range(3):
                method = "/sidecar.v1.RerankService/Rerank"
                assert await ends(wide, method, bomb, compression=grpc.Compression.Gzip) == "RESOURCE_EXHAUSTED"


@pytest.mark.parametrize(("over", "expected"), [(False, "OK"), (True, "RESOURCE_EXHAUSTED")])
async def test_just_under_and_just_over_the_limit(serve: Serve, expected: str, *, over: bool) -> None:
    empty = pb.RerankRequest(query="apple", candidates=[pb.Candidate(text="a")]).ByteSize()
    text = "a " * ((MIB - empty) // 2 - 100 + (200 if over else 0))
    request = pb.RerankRequest(query="apple", candidates=[pb.Candidate(text=text)])
    async with attacked(serve, max_message_mib=1) as (channel, _):
        assert await ends(channel, "/sidecar.v1.RerankService/Rerank", request.SerializeToString()) == expected


async def test_metadata_bombs_are_refused_before_they_are_read(serve: Serve) -> None:
    async with attacked(serve) as (channel, _):
        bomb = (("x-bomb", "a" * (2 * MIB)),)
        told = await ends(channel, "/sidecar.v1.PolicyService/List", b"", metadata=bomb)
        assert told in ("RESOURCE_EXHAUSTED", "UNAVAILABLE", "INTERNAL"), "by gRPC itself"
        many = tuple((f"x-{number}", "a") for number in range(500))
        assert await ends(channel, "/sidecar.v1.PolicyService/List", b"", metadata=many) in ("OK", "RESOURCE_EXHAUSTED")


async def test_a_thousand_idle_connections_keep_nobody_out(serve: Serve) -> None:
    async with serve() as (client, app):
        idle = [await asyncio.open_connection("127.0.0.1", app.port) for _ in range(1000)]
        assert (await client.search("docs", "apple", BODY)).outcome == "RERANKED"
        async with RerankClient(f"127.0.0.1:{app.port}") as another:
            assert (await another.search("docs", "apple", BODY)).outcome == "RERANKED"
        for _, writer in idle:
            writer.close()


LONG = {f"d{number}": {"body": "apple " + "winter " * 30_000} for number in range(10)}
"""An answer with all of them has two MiB."""


@needs_proc
@pytest.mark.parametrize("method", ["Search", "SearchProgressive"])
async def test_what_callers_leave_unread_has_a_bound(serve: Serve, method: str) -> None:
    """Five connections ask 50 times each and never read; others are served, and all is given back at the end."""
    search = pb.SearchRequest(index="docs", query="apple", body=json.dumps(BODY))
    message = search if method == "Search" else pb.SearchProgressiveRequest(search=search)
    own = {"address": "127.0.0.1:0", "metrics_address": None, "max_concurrent_calls": 25, "max_unread_mib": 128}
    large = MemoryConnector("main", {"docs": LONG})
    async with serve(configured=configured(server=own), connector=large) as (client, app):

        def told(name: str, **labels: str) -> float:
            return app.metrics.registry.get_sample_value(f"sidecar_{name}", labels) or 0.0

        def unread_bytes() -> float:
            return told("unread_bytes")

        def done(count: float) -> bool:
            return told("received_total", method=method) >= count and told("calls_under_way") == 0

        await client.search("docs", "apple", BODY)
        before = resident_bytes()
        async with AsyncExitStack() as stack:
            slow = [await stack.enter_async_context(SlowReader.connected(app.port)) for _ in range(5)]
            assert {one.allowed for one in slow} == {1024}
            first = told("received_total", method=method)
            for asked in range(25, 251, 25):  # as many at once as are served
                for one in slow * 5:
                    await one.ask(f"/sidecar.v1.RerankService/{method}", message.SerializeToString())
                await until(partial(done, first + asked))
            for _ in range(20):
                assert (await client.search("docs", "apple", BODY)).outcome == "RERANKED"
            assert unread_bytes() >= 5 * 16 * MIB
            assert unread_bytes() < 5 * (16 + 9) * MIB, "an eighth of the bound each, and one answer"
            assert resident_bytes() < before + 750 * MIB, "with 25 calls under way; 250 answers would take 2,000"
        await until(lambda: unread_bytes() == 0)
        assert (await client.search("docs", "apple", BODY)).outcome == "RERANKED"


@needs_proc
async def test_bad_calls_leave_nothing_behind(serve: Serve) -> None:
    """Resident memory after thousands of refused calls is what it was after some hundreds."""
    bad = pb.RerankRequest(query="apple", candidates=[pb.Candidate(hit="{" * 2000)] * 20).SerializeToString()
    async with attacked(serve) as (channel, _):

        async def some(count: int) -> int:
            for _ in range(count):
                assert await ends(channel, "/sidecar.v1.RerankService/Rerank", bad) == "INVALID_ARGUMENT"
            return resident_bytes()

        before = await some(500)
        assert await some(3000) < before + 16 * MIB


@contextlib.contextmanager
def no_collection() -> Iterator[None]:
    """What is let go of meanwhile is so because nothing holds it."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@pytest.mark.parametrize("method", ["Search", "SearchProgressive"])
@pytest.mark.parametrize("ends_by", ["NOT_FOUND", "UNAVAILABLE"])
async def test_nothing_holds_what_a_failed_call_has_sent(serve: Serve, method: str, ends_by: str) -> None:
    """Not even until the next garbage collection: a few calls of many megabytes each come before that."""
    source = {"includes": ["what was sent"]}
    index = "nowhere" if ends_by == "NOT_FOUND" else "docs"
    search = pb.SearchRequest(index=index, query="apple", body=json.dumps({**BODY, "_source": source}))
    message = search if method == "Search" else pb.SearchProgressiveRequest(search=search)
    gone = Fault(error=EngineUnavailable("gone"), always=True)
    engine = MemoryConnector("main", {"docs": DOCUMENTS}, faults=[gone] if ends_by == "UNAVAILABLE" else [])

    def is_held() -> bool:
        return any(type(one) is dict and one.get("_source") == source for one in gc.get_objects())

    async with serve(connector=engine) as (_, app), raw_channel(app) as channel:
        with no_collection():
            told = await ends(channel, f"/sidecar.v1.RerankService/{method}", message.SerializeToString())
            assert told == ends_by
            await until(lambda: not is_held())


def fails(*_: object) -> None:
    raise RuntimeError("the model is broken")


def takes_too_long(*_: object) -> None:
    time.sleep(2 * BUDGET_S)


FALLS_BACK: dict[str, tuple[Scorer, Settings]] = {
    "MODEL_ERROR": (WordOverlapScorer(fault=fails), quick()),
    "BUDGET_EXHAUSTED": (WordOverlapScorer(fault=takes_too_long), quick()),
    "OVERLOADED": (WordOverlapScorer(), short_queue(2)),
}
"""A scorer and settings for each reason."""


@pytest.mark.parametrize("kind", FALLS_BACK)
async def test_nothing_holds_the_hits_of_a_call_that_fell_back(serve: Serve, kind: str) -> None:
    """The way of the error that it fell back for leads by all of them."""
    mark = ["what was found"]
    engine = MemoryConnector("main", {"docs": {key: {**one, "mark": mark} for key, one in DOCUMENTS.items()}})

    def held() -> int:
        return sum(type(one) is dict and one.get("mark") == mark for one in gc.get_objects())

    scorer, own = FALLS_BACK[kind]
    async with serve(scorer, configured=own, connector=engine) as (_, app), raw_channel(app) as channel:
        with no_collection():
            before = held()
            search = pb.SearchRequest(index="docs", query="apple", body=json.dumps(BODY)).SerializeToString()
            reply = pb.SearchResponse.FromString(
                await channel.unary_unary("/sidecar.v1.RerankService/Search", plain, plain)(search, timeout=PATIENCE_S)
            )
            assert pb.Reason.Name(reply.reason) == f"REASON_{kind}"
            await until(lambda: held() == before)


class Panic(BaseException):
    """As a library in Rust raises it: no ``Exception``."""


def test_what_nobody_has_told_is_logged_before_its_way_is_forgotten() -> None:
    request_id.set("of this call")
    with structlog.testing.capture_logs() as logged, pytest.raises(Panic) as caught, _Forgets():
        raise Panic from ValueError("before")
    (line,) = logged
    assert (line["event"], line["error"], line["exc_info"]) == ("call_broken", "Panic", caught.value)
    assert line["request_id"] == "of this call"
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("error", [asyncio.CancelledError, grpc.aio.InternalError])
def test_a_caller_who_leaves_is_no_fault(error: type[BaseException]) -> None:
    with structlog.testing.capture_logs() as logged, pytest.raises(error), _Forgets():
        raise error
    assert not logged
