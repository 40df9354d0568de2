"""SearchProgressive: the engine's order at once, the final one second, and always both."""

import asyncio
import random

import grpc
import pytest

from connectors.memory import Fault, MemoryConnector
from sidecar.client import RerankClient, search_request
from sidecar.scoring.fake import WordOverlapScorer
from sidecar.v1 import rerank_pb2 as pb
from tests.calls import BODY, BUDGET_S, QUERY, Held, engine_ids, quick, until, within
from tests.conftest import DOCUMENTS, Serve, settings
from tests.service.conftest import Logged


async def test_two_stages_of_one_search(serve: Serve) -> None:
    connector = MemoryConnector("main", {"docs": DOCUMENTS})
    async with serve(connector=connector) as (client, _):
        request = pb.SearchProgressiveRequest(search=search_request("docs", QUERY, BODY))
        messages = [message async for message in client.stub.SearchProgressive(request)]
        searched = await client.search("docs", QUERY, BODY)
    first, second = messages
    assert (first.stage, second.stage) == (pb.STAGE_ORIGINAL, pb.STAGE_FINAL)
    assert (first.search.outcome, first.search.reason) == (pb.OUTCOME_UNSPECIFIED, pb.REASON_UNSPECIFIED)
    assert [result.id for result in first.search.results] == await engine_ids()
    assert [result.id for result in second.search.results] == [hit["_id"] for hit in searched.hits]
    assert second.search.outcome == pb.OUTCOME_RERANKED
    assert first.search.meta.request_id == second.search.meta.request_id


async def test_the_first_message_does_not_wait_for_the_model(serve: Serve) -> None:
    with Held() as hanging:
        async with serve(WordOverlapScorer(fault=hanging)) as (client, _):
            stream = client.search_progressive("docs", QUERY, BODY)
            first = await asyncio.wait_for(anext(stream), 1)
            assert [hit["_id"] for hit in first.hits] == await engine_ids()
            await hanging.entered()
            hanging.release()
            assert (await anext(stream)).outcome == "RERANKED"
            with pytest.raises(StopAsyncIteration):
                await anext(stream)


@pytest.mark.parametrize("body", [{"size": 0}, {**BODY, "from": 200}, {"query": {"ids": {"values": ["d1"]}}}])
async def test_the_second_message_comes_also_when_nothing_changes(serve: Serve, body: dict[str, object]) -> None:
    async with serve() as (client, _):
        first, second = [page async for page in client.search_progressive("docs", QUERY, body)]
    assert (first.outcome, second.outcome) == ("UNSPECIFIED", "SKIPPED")
    assert first.response == second.response


async def test_both_are_inside_the_budget(serve: Serve) -> None:
    with Held() as hanging:
        async with serve(WordOverlapScorer(fault=hanging), configured=quick()) as (client, _):
            async with within(BUDGET_S):
                first, second = [page async for page in client.search_progressive("docs", QUERY, BODY)]
            hanging.release()
    assert (second.outcome, second.reason) == ("ORIGINAL_ORDER", "BUDGET_EXHAUSTED")
    assert second.hits == first.hits


async def test_the_engine_is_asked_once(serve: Serve) -> None:
    connector = MemoryConnector("main", {"docs": DOCUMENTS}, faults=[Fault(on="search")])
    async with serve(connector=connector) as (client, _):
        assert len([page async for page in client.search_progressive("docs", QUERY, BODY)]) == 2
    assert len(connector.script) == 0


async def test_both_messages_are_the_same_page_of_their_order(serve: Serve) -> None:
    async with serve(configured=settings({"rank_window_size": 3})) as (client, _):
        body = {**BODY, "from": 1, "size": 3}
        first, second = [page async for page in client.search_progressive("docs", QUERY, body)]
        whole = await client.search("docs", QUERY, BODY)
    assert [hit["_id"] for hit in first.hits] == (await engine_ids())[1:4]
    assert [hit["_id"] for hit in second.hits] == [hit["_id"] for hit in whole.hits][1:4]


async def test_what_is_below_min_score_is_in_the_first_message_only(serve: Serve) -> None:
    async with serve() as (client, _):
        options = pb.Options(min_score=0.5)
        first, second = [page async for page in client.search_progressive("docs", QUERY, BODY, options=options)]
    assert len(first.hits) == 5
    assert [hit["_id"] for hit in second.hits] == ["d3"]


async def test_who_leaves_at_any_moment_is_counted_and_logged_once(serve: Serve, logged: Logged) -> None:
    draw = random.Random(5)

    async def leave(client: RerankClient, number: int) -> None:
        call = client.stub.SearchProgressive(pb.SearchProgressiveRequest(search=search_request("docs", QUERY, BODY)))
        await call.read()
        if number % 5 == 0:
            assert await call.read() is not grpc.aio.EOF
            assert await call.read() is grpc.aio.EOF
        await asyncio.sleep(draw.random() * 0.01)
        call.cancel()

    async with serve() as (client, app):
        for _ in range(20):
            await asyncio.gather(*(leave(client, number) for number in range(10)))
        await until(lambda: len([line for line in logged if line["event"] == "call"]) == 200)
        lines = [line for line in logged if line["event"] == "call"]
        seen = {
            sample.labels["outcome"]
            for metric in app.metrics.registry.collect()
            for sample in metric.samples
            if sample.name == "sidecar_requests_total" and sample.value
        }
    assert len(lines) == 200
    assert seen == {"RERANKED", "ERROR"}, "some left before the end and some behind it"
    assert not [line for line in logged if line["log_level"] == "error"]
