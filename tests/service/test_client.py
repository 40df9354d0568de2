"""The asyncio client and its blocking twin, against a real server."""

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from sidecar.app import App
from sidecar.client import BlockingRerankClient, RerankClient, rerank_request, search_request
from sidecar.scoring.fake import WordOverlapScorer
from sidecar.v1 import rerank_pb2 as pb
from tests.calls import BODY, QUERY, Held, quick
from tests.conftest import Serve


def target(app: App) -> str:
    return f"127.0.0.1:{app.port}"


async def test_both_clients_get_the_same_answers(serve: Serve) -> None:
    async with serve() as (client, app):
        page = await client.search("docs", QUERY, BODY)
        pages = [one async for one in client.search_progressive("docs", QUERY, BODY)]
        ranked = await client.rerank(QUERY, ["pear", "apple"])

        def blocking() -> None:
            with BlockingRerankClient(target(app)) as twin:
                same = twin.search("docs", QUERY, BODY)
                assert (same.hits, same.outcome, same.reason) == (page.hits, page.outcome, page.reason)
                again = list(twin.search_progressive("docs", QUERY, BODY))
                assert [(one.outcome, one.hits) for one in again] == [(one.outcome, one.hits) for one in pages]
                assert list(twin.rerank(QUERY, ["pear", "apple"]).results) == list(ranked.results)
                assert twin.policies.List(pb.ListRequest()).default_policy == "default"

        await asyncio.to_thread(blocking)


async def test_a_page_reads_the_answer(serve: Serve) -> None:
    async with serve() as (client, _):
        page = await client.search("docs", QUERY, BODY)
    assert page.response == json.loads(page.message.response)
    assert page.hits == page.response["hits"]["hits"]
    assert [result.id for result in page.results] == [hit["_id"] for hit in page.hits]
    assert (page.outcome, page.reason) == ("RERANKED", "UNSPECIFIED")


async def test_the_blocking_client_is_shared_among_threads(serve: Serve) -> None:
    async with serve() as (_, app):

        def blocking() -> None:
            with BlockingRerankClient(target(app)) as twin, ThreadPoolExecutor(8) as threads:
                answers = threads.map(lambda word: twin.rerank(word, ["a", "b", word]), [f"w{n}" for n in range(40)])
                assert all(answer.results[0].original_rank == 2 for answer in answers)

        await asyncio.to_thread(blocking)


async def test_errors_are_grpcs_own(serve: Serve) -> None:
    async with serve() as (client, app):
        with pytest.raises(grpc.RpcError) as caught:
            await client.search("nope", QUERY)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND

        def blocking() -> None:
            with BlockingRerankClient(target(app)) as twin, pytest.raises(grpc.RpcError) as failed:
                twin.search("nope", QUERY)
            assert failed.value.code() is grpc.StatusCode.NOT_FOUND

        await asyncio.to_thread(blocking)


async def test_nobody_is_there() -> None:
    async with RerankClient("127.0.0.1:1") as client:
        with pytest.raises(grpc.RpcError) as caught:
            await client.search("docs", QUERY, timeout_s=5)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_timeout_s_is_the_calls_deadline(serve: Serve) -> None:
    configured = quick({"budget_ms": 5000}, server={"reserve_ms": 200})
    with Held() as hanging:
        async with serve(WordOverlapScorer(fault=hanging), configured=configured) as (client, _):
            page = await client.search("docs", QUERY, BODY, timeout_s=0.5)
            hanging.release()
    assert (page.outcome, page.reason) == ("ORIGINAL_ORDER", "BUDGET_EXHAUSTED")


def test_requests_are_made_as_the_contract_says() -> None:
    options = pb.Options(policy="p")
    request = search_request("i", "q", {"size": 2**60}, connector="c", params={"routing": "r"}, options=options)
    assert (request.index, request.query, request.connector, dict(request.params)) == ("i", "q", "c", {"routing": "r"})
    assert (json.loads(request.body), request.options) == ({"size": 2**60}, options)
    plain = search_request("i", "q")
    assert (plain.body, plain.template) == ("", "")
    assert json.loads(search_request("i", "q", template={"id": "t"}).template) == {"id": "t"}
    made = rerank_request("q", ["a", pb.Candidate(id="x")], index="i", top_n=3)
    assert [(one.text, one.id) for one in made.candidates] == [("a", ""), ("", "x")]
    assert (made.top_n, made.HasField("top_n"), rerank_request("q", []).HasField("top_n")) == (3, True, False)


async def test_large_answers_fit(serve: Serve) -> None:
    """Over gRPC's own limit of 4 MB in both directions."""
    texts = [f"apple {number} " + "x" * 100_000 for number in range(80)]
    async with serve() as (client, _):
        got = await client.rerank("apple", texts, options=pb.Options(return_passages=True, budget_ms=5000))
    assert len(got.results) == 80
    assert sum(len(result.passage) for result in got.results) > 8_000_000
