"""Errors as programs read them: the standard details, beside the status, the message and the request id."""

import asyncio
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from connectors import AnswerTooLarge, EngineTimeout, EngineUnavailable, IndexNotFound, InvalidQuery, NotPermitted
from connectors.memory import Fault, MemoryConnector
from sidecar.client import BlockingRerankClient, ErrorDetails, error_details
from sidecar.metrics import Metrics
from sidecar.observed import ObservedConnector
from tests.calls import BODY, QUERY
from tests.conftest import DOCUMENTS, Serve


def failing(error: Exception) -> ObservedConnector:
    """The engine of the tests, which always answers with this error."""
    fault = Fault(error=error, on="search", always=True)  # type: ignore[arg-type]
    return ObservedConnector(MemoryConnector("main", {"docs": DOCUMENTS}, faults=[fault]), "memory", Metrics())


async def caught(serve: Serve, error: Exception) -> grpc.aio.AioRpcError:
    async with serve(connector=failing(error)) as (client, _):
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await client.search("docs", QUERY, BODY)
    return raised.value


INDEX = {"connector": "main", "index": "docs", "http_status": "404"}


@pytest.mark.parametrize(
    ("error", "code", "details"),
    [
        (
            IndexNotFound("m", status=404, error_type="index_not_found_exception", index="docs"),
            grpc.StatusCode.NOT_FOUND,
            ErrorDetails("index_not_found_exception", "memory", INDEX),
        ),
        (
            InvalidQuery("m", status=400, error_type="parsing_exception", position=(1, 38)),
            grpc.StatusCode.INVALID_ARGUMENT,
            ErrorDetails(
                "parsing_exception",
                "memory",
                {"connector": "main", "http_status": "400", "line": "1", "col": "38"},
            ),
        ),
        (
            NotPermitted("m", status=403, error_type="security_exception"),
            grpc.StatusCode.PERMISSION_DENIED,
            ErrorDetails("security_exception", "memory", {"connector": "main", "http_status": "403"}),
        ),
        (
            EngineUnavailable("m", status=429, error_type="circuit_breaking_exception", retry_after_s=30),
            grpc.StatusCode.UNAVAILABLE,
            ErrorDetails("circuit_breaking_exception", "memory", {"connector": "main", "http_status": "429"}, 30.0),
        ),
        (
            EngineUnavailable("m", status=503),
            grpc.StatusCode.UNAVAILABLE,
            ErrorDetails("ENGINE_UNAVAILABLE", "memory", {"connector": "main", "http_status": "503"}, 1.0),
        ),
        (
            AnswerTooLarge("m"),
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            ErrorDetails("ANSWER_TOO_LARGE", "memory", {"connector": "main"}),
        ),
        (
            EngineTimeout("m"),
            grpc.StatusCode.DEADLINE_EXCEEDED,
            ErrorDetails("ENGINE_TIMEOUT", "memory", {"connector": "main"}),
        ),
    ],
)
async def test_an_engines_error_in_the_engines_words(
    serve: Serve, error: Exception, code: grpc.StatusCode, details: ErrorDetails
) -> None:
    raised = await caught(serve, error)
    assert raised.code() is code
    assert error_details(raised) == details
    assert dict(raised.trailing_metadata() or ())["x-request-id"]


async def test_the_one_who_asked_learns_what_a_circuit_breaker_says(serve: Serve) -> None:
    error = EngineUnavailable("m", status=429, error_type="circuit_breaking_exception", reason="Data too large")
    raised = await caught(serve, error)
    assert (raised.code(), raised.details()) == (grpc.StatusCode.UNAVAILABLE, "m: Data too large")


async def test_the_standard_library_and_the_blocking_client_read_it_too(serve: Serve) -> None:
    error = InvalidQuery("refused", status=400, error_type="parsing_exception", reason="ü" * 3000)
    async with serve(connector=failing(error)) as (_, app):

        def ask() -> grpc.RpcError:
            with BlockingRerankClient(f"127.0.0.1:{app.port}") as client, pytest.raises(grpc.RpcError) as raised:
                client.search("docs", QUERY, BODY)
            return raised.value

        raised: Any = await asyncio.to_thread(ask)
    status = rpc_status.from_call(raised)  # raises unless code and message are those of the call
    assert status is not None
    assert status.message.startswith("refused: üüü")
    [info] = status.details
    read = error_details_pb2.ErrorInfo()
    assert info.Unpack(read)
    assert read.reason == "parsing_exception"
    found = error_details(raised)
    assert found is not None
    assert (found.reason, found.domain) == ("parsing_exception", "memory")


async def test_the_sidecars_own_errors(serve: Serve) -> None:
    async with serve() as (client, _):
        for call, code, reason in (
            (client.search("docs", "", BODY), grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST"),
            (client.search("docs", QUERY, BODY, connector="no"), grpc.StatusCode.NOT_FOUND, "UNKNOWN_NAME"),
            (client.rerank("", ["a"]), grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST"),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await call
            assert raised.value.code() is code
            assert error_details(raised.value) == ErrorDetails(reason, "sidecar")


async def test_an_unforeseen_fault_tells_nothing_of_itself(serve: Serve) -> None:
    raised = await caught(serve, ZeroDivisionError("secret"))
    assert raised.code() is grpc.StatusCode.INTERNAL
    assert error_details(raised) == ErrorDetails("INTERNAL", "sidecar")


async def test_another_servers_error_has_no_details() -> None:
    with BlockingRerankClient("127.0.0.1:1") as client:

        def ask() -> grpc.RpcError:
            with pytest.raises(grpc.RpcError) as raised:
                client.search("docs", QUERY, timeout_s=1)
            return raised.value

        assert error_details(await asyncio.to_thread(ask)) is None


async def test_an_authorization_is_of_no_account_where_it_is_not_forwarded(serve: Serve) -> None:
    async with serve() as (client, _):
        own = await client.search("docs", QUERY, BODY)
        page = await client.search("docs", QUERY, BODY, authorization="Bearer ann")
        assert page.hits == own.hits
        pages = [one async for one in client.search_progressive("docs", QUERY, BODY, authorization="Bearer ann")]
        assert pages[-1].hits == own.hits
        assert len((await client.rerank(QUERY, ["a", "b"], authorization="Bearer ann")).results) == 2
