"""Traces: the caller's goes on to the engine and into the log; spans reach a collector, and hold no text."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from structlog.testing import capture_logs

from sidecar.client import RerankClient, rerank_request, search_request
from sidecar.extras import StartError
from sidecar.settings import Settings
from sidecar.tracing import carried_by
from tests.conftest import DOCUMENTS, SERVER, Serve, settings
from tests.connector_fixtures import EMPTY_ANSWER, HTTP_KINDS, always, connect, json_answer, serving
from tests.service.conftest import Logged

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
CALLED = (("traceparent", f"00-{TRACE}-{PARENT}-01"), ("tracestate", "shop=1"))
BODY = {"query": {"match": {"body": "apple"}}}


@dataclass
class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """A collector of this test, and what reached it."""

    port: int = 0
    spans: list[Span] = field(default_factory=list)
    service: str = ""

    async def Export(self, request: Any, context: Any) -> Any:  # noqa: N802
        for resource in request.resource_spans:
            self.service = next(
                one.value.string_value for one in resource.resource.attributes if one.key == "service.name"
            )
            self.spans += [span for scope in resource.scope_spans for span in scope.spans]
        return trace_service_pb2.ExportTraceServiceResponse()

    def named(self, name: str) -> Span:
        (span,) = [span for span in self.spans if span.name == name]
        return span


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    server, own = grpc.aio.server(), Collector()
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(own, server)  # type: ignore[no-untyped-call]
    own.port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield own
    await server.stop(0)


def traced(port: int, **more: Any) -> Settings:
    tracing = {"endpoint": f"http://127.0.0.1:{port}", "service": "shop-reranker", **more}
    return settings(server={**SERVER, "tracing": tracing})


def told(span: Span) -> dict[str, Any]:
    values = {one.key: one.value for one in span.attributes}
    return {key: value.int_value or value.string_value for key, value in values.items()}


async def search(client: RerankClient, query: str = "apple in storage") -> Any:
    return await client.stub.Search(search_request("docs", query, BODY), metadata=CALLED)


@asynccontextmanager
async def engine(kind: str) -> AsyncIterator[tuple[Any, Any]]:
    """An engine over HTTP that finds all documents, and a connector to it."""
    hits = [{"_index": "docs", "_id": name, "_score": 1.0, "_source": one} for name, one in DOCUMENTS.items()]
    answer = {**EMPTY_ANSWER, "hits": {"hits": hits}}
    async with (
        serving(always(lambda: json_answer(answer))) as server,
        connect(kind, server.url, name="main") as connector,
    ):
        yield server, connector


async def test_a_call_and_its_stages_are_spans_of_the_callers_trace(serve: Serve, collector: Collector) -> None:
    async with serve(configured=traced(collector.port)) as (client, _):
        reply = await search(client)
    call = collector.named("sidecar.v1.RerankService/Search")
    assert (call.trace_id.hex(), call.parent_span_id.hex()) == (TRACE, PARENT)
    assert call.kind == Span.SPAN_KIND_SERVER
    assert collector.service == "shop-reranker"
    assert told(call) == {
        "rpc.system.name": "grpc",
        "rpc.method": "sidecar.v1.RerankService/Search",
        "sidecar.request_id": reply.meta.request_id,
        "sidecar.policy": "default",
        "sidecar.outcome": "RERANKED",
        "sidecar.reason": "UNSPECIFIED",
        "sidecar.candidates": 5,
        "sidecar.scored": 5,
    }
    stages = {span.name: span for span in collector.spans if span is not call}
    assert set(stages) == {"search", "tokenize", "queue", "score"}
    for stage in stages.values():
        assert stage.parent_span_id == call.span_id
        assert call.start_time_unix_nano <= stage.start_time_unix_nano <= stage.end_time_unix_nano
        assert stage.end_time_unix_nano <= call.end_time_unix_nano
    assert stages["queue"].end_time_unix_nano == pytest.approx(stages["score"].start_time_unix_nano, abs=2e6)


@pytest.mark.parametrize("kind", HTTP_KINDS)
async def test_the_engine_is_asked_within_the_span_of_the_search(kind: str, serve: Serve, collector: Collector) -> None:
    async with engine(kind) as (server, connector):
        async with serve(connector=connector, configured=traced(collector.port)) as (client, _):
            await search(client)
        (asked,) = [one for one in server.asked if "_search" in one.target]
    assert asked.headers["traceparent"] == f"00-{TRACE}-{collector.named('search').span_id.hex()}-01"
    assert asked.headers["tracestate"] == "shop=1"


@pytest.mark.parametrize("kind", HTTP_KINDS)
async def test_without_spans_the_callers_own_trace_goes_on(kind: str, serve: Serve, logged: Logged) -> None:
    async with engine(kind) as (server, connector):
        async with serve(connector=connector) as (client, _):
            await search(client)
            await client.stub.Search(search_request("docs", "apple", BODY))
        first, second = (one for one in server.asked if "_search" in one.target)
    assert (first.headers["traceparent"], first.headers["tracestate"]) == (CALLED[0][1], "shop=1")
    assert "traceparent" not in second.headers, "a call's trace is not the next one's"
    assert [one["event"] for one in logged].count("call") == 2


async def test_no_text_reaches_a_span_also_where_the_call_fails(serve: Serve, collector: Collector) -> None:
    async with serve(configured=traced(collector.port)) as (client, _):
        await search(client, "secretquery")
        with pytest.raises(grpc.RpcError):
            await client.stub.Search(search_request("docs", "secretquery", {"secretquery": 1}), metadata=CALLED)
    sent = b"".join(span.SerializeToString() for span in collector.spans)
    assert b"secretquery" not in sent
    assert b"orchard" not in sent
    failed = [span for span in collector.spans if "rpc.response.status_code" in told(span)]
    assert [told(span)["rpc.response.status_code"] for span in failed] == ["INVALID_ARGUMENT"]
    assert failed[0].status.code == 0, "a fault of the caller's is no error of the server"


async def test_calls_beside_each_other_keep_to_their_own_traces(serve: Serve, collector: Collector) -> None:
    async with serve(configured=traced(collector.port)) as (client, _):
        traces = [f"{number:032x}" for number in range(1, 21)]
        await asyncio.gather(
            *(
                client.stub.Rerank(
                    rerank_request("apple", ["an apple", f"number {trace}"]),
                    metadata=(("traceparent", f"00-{trace}-{PARENT}-01"),),
                )
                for trace in traces
            )
        )
    calls = {span.span_id: span for span in collector.spans if span.name.endswith("/Rerank")}
    assert sorted(span.trace_id.hex() for span in calls.values()) == traces
    stages = [span for span in collector.spans if span.span_id not in calls]
    assert len(stages) == 3 * len(calls)
    assert all(calls[span.parent_span_id].trace_id == span.trace_id for span in stages)


async def test_the_share_is_of_traces_that_begin_here(serve: Serve, collector: Collector) -> None:
    async with serve(configured=traced(collector.port, share=0)) as (client, _):
        await client.stub.Rerank(rerank_request("apple", ["pie"]))
        await client.stub.Rerank(rerank_request("apple", ["tree"]), metadata=CALLED)
    assert {span.trace_id.hex() for span in collector.spans} == {TRACE}


async def test_a_collector_that_is_not_there_costs_nothing_and_is_told_once(serve: Serve) -> None:
    with capture_logs() as lines:
        async with serve(configured=traced(1)) as (client, _):
            started = time.monotonic()
            for number in range(50):
                await client.stub.Rerank(rerank_request("apple", [f"pie {number}"]))
            assert time.monotonic() - started < 5
            stopping = time.monotonic()
        assert time.monotonic() - stopping < 10
    assert [line["event"] for line in lines if line["event"].startswith("spans")] == ["spans_are_lost"]


async def test_without_the_package_the_start_says_what_to_install(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "sidecar.otel", None)
    with pytest.raises(StartError, match=r"pip install 'rerank-sidecar\[otel\]'"):
        async with serve(configured=traced(1)):
            pass


@pytest.mark.parametrize(
    "parent",
    [
        "",
        "garbage",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"ff-{TRACE}-{PARENT}-01",
        f"00-{TRACE.upper()}-{PARENT}-01",
        f"00-{TRACE}-{PARENT}-01\r\nx-injected: 1",
    ],
)
def test_what_is_no_trace_is_not_handed_on(parent: str) -> None:
    assert carried_by([("traceparent", parent), ("tracestate", "shop=1")]) == {}
    good = dict(CALLED)
    assert carried_by(good.items()) == good
    assert carried_by([CALLED[0], ("tracestate", "a\nb")]) == {"traceparent": CALLED[0][1]}
