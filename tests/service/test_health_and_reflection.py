"""The standard services: health while loading, loaded, with a failed model a dead device thread; and reflection."""

import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from sidecar.app import App
from sidecar.cost import CostModel
from sidecar.loaded import LoadedModel
from sidecar.scoring.fake import WordOverlapScorer
from sidecar.settings import ModelSettings
from tests.calls import BODY, PATIENCE_S, QUERY
from tests.conftest import Serve, loader, settings

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
RERANKING = "sidecar.v1.RerankService"


@asynccontextmanager
async def channel(app: App) -> AsyncIterator[Any]:
    """A channel; the stubs of the standard services are typed for blocking ones only, or not at all."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{app.port}") as made:
        yield made


def health_stub(made: Any) -> Any:
    return health_pb2_grpc.HealthStub(made)


async def health(app: App) -> tuple[Any, Any]:
    """The status of the server as a whole, and of reranking."""
    async with channel(app) as made:
        stub = health_stub(made)
        answers = [await stub.Check(health_pb2.HealthCheckRequest(service=name)) for name in ("", RERANKING)]
    return answers[0].status, answers[1].status


@pytest.fixture
def loading() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


async def test_while_the_model_loads_and_after(serve: Serve, loading: threading.Event) -> None:
    def load(name: str, model: ModelSettings) -> LoadedModel:
        loading.wait(60)
        return loader(WordOverlapScorer())(name, model)

    async with serve(load=load) as (client, app):
        assert await health(app) == (NOT_SERVING, NOT_SERVING)
        assert (await client.search("docs", QUERY, BODY)).reason == "MODEL_NOT_READY"
        loading.set()
        await app.ready()
        assert await health(app) == (SERVING, SERVING)
        assert app.metrics.registry.get_sample_value("sidecar_model_ready", {"model": "default"}) == 1


async def test_a_failed_model_does_not_take_search_down(serve: Serve) -> None:
    """Of two models one fails: searches are still answered, only reranking is not healthy."""

    def load(name: str, model: ModelSettings) -> LoadedModel:
        if name == "broken":
            raise ValueError("no head")
        return loader(WordOverlapScorer())(name, model)

    configured = settings(models={"default": {}, "broken": {}})
    async with serve(load=load, configured=configured) as (client, app):
        await app.ready()
        assert await health(app) == (SERVING, NOT_SERVING)
        assert (await client.search("docs", QUERY, BODY)).outcome == "RERANKED"
        assert app.metrics.registry.get_sample_value("sidecar_model_ready", {"model": "broken"}) == 0


class DeadlyCost(CostModel):
    """Ends the thread of the device when told how long a batch took."""

    def observe(self, pairs: int, length: float, actual_s: float) -> float:
        raise ZeroDivisionError


async def test_a_dead_batch_loop_turns_reranking_off_and_search_stays(serve: Serve) -> None:
    async with serve(cost=DeadlyCost(overhead_s=1e-4)) as (client, app), channel(app) as made:
        watch = health_stub(made).Watch(health_pb2.HealthCheckRequest(service=RERANKING))
        assert (await watch.read()).status == SERVING
        assert (await client.search("docs", QUERY, BODY)).reason == "MODEL_ERROR"
        assert (await watch.read()).status == NOT_SERVING
        watch.cancel()
        assert await health(app) == (SERVING, NOT_SERVING)
        assert len((await client.search("docs", QUERY, BODY)).hits) == 5


async def test_health_answers_while_no_more_calls_are_served(serve: Serve) -> None:
    server = {"address": "127.0.0.1:0", "metrics_address": None, "shutdown_grace_s": 1, "max_concurrent_calls": 1}
    async with serve(configured=settings(server=server)) as (client, app):
        stream = client.search_progressive("docs", QUERY, BODY)
        await anext(stream)
        assert await health(app) == (SERVING, SERVING)
        await stream.aclose()  # type: ignore[attr-defined]


async def test_an_unknown_service_is_not_found(serve: Serve) -> None:
    async with serve() as (_, app), channel(app) as made:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await health_stub(made).Check(health_pb2.HealthCheckRequest(service="nope"))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def reflected(app: App, **request: Any) -> reflection_pb2.ServerReflectionResponse:
    async with channel(app) as made:
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(made)
        call = stub.ServerReflectionInfo(timeout=PATIENCE_S)
        await call.write(reflection_pb2.ServerReflectionRequest(**request))
        answer: reflection_pb2.ServerReflectionResponse = await call.read()
        call.cancel()
    return answer


async def test_reflection_lists_the_services(serve: Serve) -> None:
    async with serve() as (_, app):
        listed = await reflected(app, list_services="")
    assert {service.name for service in listed.list_services_response.service} == {
        "sidecar.v1.RerankService",
        "sidecar.v1.PolicyService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }


@pytest.mark.parametrize("symbol", [RERANKING, "sidecar.v1.PolicyService", "sidecar.v1.SearchRequest"])
async def test_reflection_describes_the_contract(serve: Serve, symbol: str) -> None:
    async with serve() as (_, app):
        told = await reflected(app, file_containing_symbol=symbol)
    assert b"sidecar/v1/rerank.proto" in told.file_descriptor_response.file_descriptor_proto[0]
