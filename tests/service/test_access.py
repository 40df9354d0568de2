"""Who may call, and what for: nothing reaches the engine that a caller's role does not allow."""

import asyncio
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs

from connectors.memory import MemoryConnector
from sidecar import api_keys, interceptors
from sidecar.client import RerankClient
from sidecar.settings import Settings
from sidecar.v1 import rerank_pb2 as pb
from tests.calls import until
from tests.conftest import DOCUMENTS, SERVER, Serve, settings

BODY = {"query": {"match": {"body": "apple"}}}
ROLES = {
    "articles": {"indices": ["articles-*"], "policies": ["default"], "connectors": ["main"]},
    "elsewhere": {"connectors": ["other-*"]},
    "nothing": {"policies": []},
    "all": {},
}


class Spied(MemoryConnector):
    """Counts what reaches it."""

    asked = 0

    async def search(self, *arguments: Any, **options: Any) -> Any:
        self.asked += 1
        return await super().search(*arguments, **options)


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A key of each role."""
    made = {role: api_keys.made(f"{role}-app", role) for role in ROLES}
    monkeypatch.setenv("KEYS", "\n".join(kept.line for _, kept in made.values()))
    return {role: key for role, (key, _) in made.items()}


def guarded(policy: dict[str, Any] | None = None) -> Settings:
    return settings(policy, server={**SERVER, "auth": {"keys_env": "KEYS", "roles": ROLES}})


def engine() -> Spied:
    return Spied("main", {"articles-1": DOCUMENTS, "secret": DOCUMENTS})


async def status(call: Callable[[], Any]) -> str:
    try:
        await call()
    except grpc.aio.AioRpcError as error:
        return f"{error.code().name}: {error.details()}"
    return "OK"


async def test_without_a_key_nothing_is_answered_but_health(serve: Serve, keys: dict[str, str]) -> None:
    spied = engine()
    async with serve(configured=guarded(), connector=spied) as (client, sidecar):
        for call in (
            lambda: client.search("articles-1", "apple", BODY),
            lambda: client.rerank("apple", ["a", "b"]),
            lambda: client.policies.List(pb.ListRequest()),
            lambda: client.policies.Status(pb.StatusRequest()),
        ):
            assert (await status(call)).startswith("UNAUTHENTICATED: send one metadata `authorization: Bearer KEY`")
        async with grpc.aio.insecure_channel(f"127.0.0.1:{sidecar.port}") as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            health = await stub.Check(health_pb2.HealthCheckRequest())
    assert health.status == health_pb2.HealthCheckResponse.SERVING
    assert spied.asked == 0


@pytest.mark.parametrize(
    "index",
    [
        "secret",
        "*",
        "_all",
        "articles-1,secret",
        "articles-1,-articles-1,secret",
        "arti*",
        "<articles-{now/d}>",
        "<secret>",
        "other:articles-1",
        "articles-1/_search?x=secret",
        "articles-1%2Csecret",
        "articles-1%2fsecret",
        " articles-1",
        "articles-1,",
        "ARTICLES-1",
        "",
    ],
)
async def test_no_spelling_slips_past_a_role(serve: Serve, keys: dict[str, str], index: str) -> None:
    spied = engine()
    async with (
        serve(configured=guarded(), connector=spied) as (_, sidecar),
        RerankClient(f"127.0.0.1:{sidecar.port}", api_key=keys["articles"]) as client,
    ):
        told = await status(lambda: client.search(index, "apple", BODY))
        assert told.startswith(("PERMISSION_DENIED", "INVALID_ARGUMENT", "NOT_FOUND")), told
        if spied.asked:
            assert "NOT_FOUND" in told, "the engine has no such index, and it is within the role"
            assert index.startswith("articles-")


async def test_of_policies_that_are_not_the_roles_not_even_the_names_are_told(
    serve: Serve, keys: dict[str, str]
) -> None:
    async with (
        serve(configured=guarded()) as (_, sidecar),
        RerankClient(f"127.0.0.1:{sidecar.port}", api_key=keys["nothing"]) as client,
    ):
        for name in ("default", "absent"):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await client.search("docs", "apple", BODY, options=pb.Options(policy=name))
            assert refused.value.code() == grpc.StatusCode.PERMISSION_DENIED
            assert refused.value.details() == f"policy {name!r} is not for the role of 'nothing-app'"


async def test_no_parameter_names_an_index(serve: Serve, keys: dict[str, str]) -> None:
    request = pb.SearchRequest(index="articles-1", query="apple", params={"index": "secret"})
    async with (
        serve(configured=guarded(), connector=engine()) as (_, sidecar),
        RerankClient(f"127.0.0.1:{sidecar.port}", api_key=keys["articles"]) as client,
    ):
        told = await status(lambda: client.stub.Search(request, metadata=client.metadata()))
    assert told.startswith("INVALID_ARGUMENT: `params.index`")


async def test_the_line_of_a_refused_call_says_who_called(serve: Serve, keys: dict[str, str]) -> None:
    with capture_logs(processors=[merge_contextvars]) as told:
        async with (
            serve(configured=guarded()) as (_, sidecar),
            RerankClient(f"127.0.0.1:{sidecar.port}", api_key=keys["articles"]) as client,
        ):
            await status(lambda: client.search("secret", "apple", BODY))
            await status(lambda: client.search("secret", "apple", {"size": -1}))
    lines = [line for line in told if line["event"] == "call"]
    assert [(line["reason"], line["caller"]) for line in lines] == [("PERMISSION_DENIED", "articles-app")] * 2


@pytest.mark.parametrize(
    "body",
    [
        {"query": {"terms": {"_id": {"index": "secret", "id": "1", "path": "ids"}}}},
        {"query": {"more_like_this": {"like": [{"_index": "secret", "_id": "1"}]}}},
        {"query": {"geo_shape": {"location": {"indexed_shape": {"index": "secret", "id": "1", "path": "x"}}}}},
        {"query": {"wrapper": {"query": "eyJtYXRjaF9hbGwiOnt9fQ=="}}},
        {"suggest": {"near": {"text": "x", "phrase": {"field": "title", "collate": {"query": {"source": "{}"}}}}}},
        {"pit": {"id": "abc"}},
    ],
)
async def test_no_body_reads_another_index(serve: Serve, keys: dict[str, str], body: dict[str, Any]) -> None:
    spied = engine()
    async with (
        serve(configured=guarded(), connector=spied) as (_, sidecar),
        RerankClient(f"127.0.0.1:{sidecar.port}", api_key=keys["articles"]) as client,
    ):
        assert (await status(lambda: client.search("articles-1", "apple", body))).startswith("PERMISSION_DENIED")
    assert spied.asked == 0


async def test_a_role_has_its_indices_connectors_and_policies(serve: Serve, keys: dict[str, str]) -> None:
    async with serve(configured=guarded(), connector=engine()) as (_, sidecar):

        def of(role: str) -> RerankClient:
            return RerankClient(f"127.0.0.1:{sidecar.port}", api_key=keys[role])

        async with (
            of("articles") as articles,
            of("elsewhere") as elsewhere,
            of("nothing") as nothing,
            of("all") as every,
        ):
            assert await status(lambda: articles.search("articles-1", "apple", BODY)) == "OK"
            assert await status(lambda: articles.search("articles-*", "apple", BODY)) == "OK"
            assert await status(lambda: every.search("secret", "apple", BODY)) == "OK"
            refused = await status(lambda: articles.search("secret", "apple", BODY))
            assert (
                refused == "PERMISSION_DENIED: index 'secret' is not for the role of 'articles-app' on connector 'main'"
            )
            told = await status(lambda: elsewhere.search("articles-1", "apple", BODY, connector="main"))
            assert told == "PERMISSION_DENIED: connector 'main' is not for the role of 'elsewhere-app'"
            assert (await status(lambda: elsewhere.search("articles-1", "apple", BODY))).startswith("INVALID_ARGUMENT")
            told = await status(lambda: nothing.search("articles-1", "apple", BODY))
            assert told == "PERMISSION_DENIED: policy 'default' is not for the role of 'nothing-app'"
            listed = await nothing.policies.List(pb.ListRequest(), metadata=nothing.metadata())
            assert (list(listed.policies), listed.default_policy) == ([], "")
            listed = await elsewhere.policies.List(pb.ListRequest(), metadata=elsewhere.metadata())
            assert list(listed.connectors) == []


async def test_documents_are_fetched_from_the_roles_indices_only(serve: Serve, keys: dict[str, str]) -> None:
    async with (
        serve(configured=guarded(), connector=engine()) as (_, sidecar),
        RerankClient(f"127.0.0.1:{sidecar.port}", api_key=keys["articles"]) as client,
    ):
        inside = [pb.Candidate(id="d0", index="articles-1"), pb.Candidate(id="d1", index="articles-1")]
        assert await status(lambda: client.rerank("apple", inside, index="articles-1")) == "OK"
        outside = [*inside, pb.Candidate(id="d2", index="secret")]
        told = await status(lambda: client.rerank("apple", outside, index="articles-1"))
        assert told.startswith("PERMISSION_DENIED: index 'secret'")


async def test_calls_are_counted_when_they_come_and_those_about_policies_have_a_line(
    serve: Serve, keys: dict[str, str]
) -> None:
    with capture_logs(processors=[merge_contextvars]) as told:
        async with (
            serve(configured=guarded()) as (_, sidecar),
            RerankClient(f"127.0.0.1:{sidecar.port}", api_key=keys["articles"]) as client,
        ):
            await client.policies.List(pb.ListRequest(), metadata=client.metadata())
            with pytest.raises(grpc.aio.AioRpcError):
                await client.search("articles-1", "apple", BODY, timeout_s=1e-6)
            count = sidecar.metrics.registry.get_sample_value
            assert count("sidecar_received_total", {"method": "List"}) == 1
            listed = {"method": "List", "policy": "", "outcome": "OK", "reason": ""}
            assert count("sidecar_requests_total", listed) == 1
    lines = [line for line in told if line["event"] == "call"]
    assert (lines[0]["method"], lines[0]["outcome"], lines[0]["caller"]) == ("List", "OK", "articles-app")


def begun(channel: grpc.aio.Channel, *metadata: tuple[str, str]) -> Any:
    """A call whose request never comes."""
    method: Any = channel.stream_unary("/sidecar.v1.RerankService/Search", None, pb.SearchResponse.FromString)
    return method(metadata=metadata, timeout=10)


async def test_who_may_not_call_is_told_so_before_the_request_is_read(serve: Serve, keys: dict[str, str]) -> None:
    """Else anybody could have the sidecar hold as many messages, of the largest size, as he likes."""
    async with (
        serve(configured=guarded()) as (_, sidecar),
        grpc.aio.insecure_channel(f"127.0.0.1:{sidecar.port}") as channel,
    ):
        calls = [begun(channel), begun(channel, ("authorization", "Bearer rs_all-app~x"))]
        assert [await call.code() for call in calls] == [grpc.StatusCode.UNAUTHENTICATED] * 2


async def test_a_request_that_does_not_come_takes_a_place_for_seconds_only(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interceptors, "_ARRIVES_WITHIN_S", 0.3)
    narrow = settings(server={**SERVER, "max_concurrent_calls": 2})
    async with (
        serve(configured=narrow) as (client, sidecar),
        grpc.aio.insecure_channel(f"127.0.0.1:{sidecar.port}") as channel,
    ):
        idle = [begun(channel), begun(channel)]
        under_way = "sidecar_calls_under_way"
        await until(lambda: sidecar.metrics.registry.get_sample_value(under_way) == 2)
        assert (await status(lambda: client.search("docs", "apple", BODY))).startswith("RESOURCE_EXHAUSTED")
        assert [await call.code() for call in idle] == [grpc.StatusCode.INVALID_ARGUMENT] * 2
        assert await idle[0].details() == "the request did not arrive within 0 s"
        assert (await client.search("docs", "apple", BODY)).outcome == "RERANKED"


async def test_what_an_admin_needs_has_a_bound_of_its_own_and_takes_no_place_of_others(serve: Serve) -> None:
    narrow = settings(server={**SERVER, "max_concurrent_calls": 1})
    async with (
        serve(configured=narrow) as (client, sidecar),
        grpc.aio.insecure_channel(f"127.0.0.1:{sidecar.port}") as channel,
    ):
        method: Any = channel.stream_unary("/sidecar.v1.PolicyService/Status", None, pb.StatusResponse.FromString)
        idle = [method(timeout=10) for _ in range(8)]
        received = "sidecar_received_total"
        await until(lambda: (sidecar.metrics.registry.get_sample_value(received, {"method": "Status"}) or 0) >= 8)
        assert (await client.search("docs", "apple", BODY)).outcome == "RERANKED"
        assert (await status(lambda: client.policies.Status(pb.StatusRequest()))).startswith("RESOURCE_EXHAUSTED")
        for call in idle:
            call.cancel()
        await asyncio.gather(*idle, return_exceptions=True)


async def test_a_call_that_ends_without_a_request_is_told_so(serve: Serve) -> None:
    async with serve() as (_, sidecar), grpc.aio.insecure_channel(f"127.0.0.1:{sidecar.port}") as channel:
        call = begun(channel)
        await call.done_writing()
        assert await call.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert await call.details() == "the call ended without a request"
