"""Search through a real gRPC server."""

import json
from typing import Any

import grpc
import pytest

from connectors.errors import InvalidQuery
from connectors.faults import Fault
from connectors.hits import Json
from connectors.memory import MemoryConnector
from sidecar.v1 import rerank_pb2 as pb
from tests.calls import RecordingConnector, engine_ids
from tests.conftest import DOCUMENTS, Serve, settings
from tests.service.conftest import Logged

QUERY = "apple varieties for winter storage"
BODY: dict[str, Any] = {"query": {"match": {"body": "apple winter"}}}


def ids(hits: list[dict[str, Any]]) -> list[str]:
    return [hit["_id"] for hit in hits]


async def test_reranked_page_holds_the_engines_own_hits_in_a_better_order(serve: Serve) -> None:
    async with serve() as (client, _):
        page = await client.search("docs", QUERY, BODY)
    assert page.outcome == "RERANKED"
    assert page.reason == "UNSPECIFIED"
    assert page.hits[0]["_id"] == "d3"
    assert [result.id for result in page.results] == ids(page.hits)
    assert sorted(result.original_rank for result in page.results) == list(range(5))


async def test_results_and_hits_tell_the_same(serve: Serve) -> None:
    async with serve() as (client, _):
        page = await client.search("docs", QUERY, BODY)
    for hit, result in zip(page.hits, page.results, strict=True):
        assert (hit["_id"], hit["_index"], hit["_score"]) == (result.id, result.index, result.original_score)
        assert 0 <= result.relevance_score <= 1
        assert 0.5 <= result.normalized_score < 1
    original = [ids(page.hits)[rank] for rank in _by_original_rank(page.results)]
    assert original == await engine_ids()


def _by_original_rank(results: list[pb.Result]) -> list[int]:
    return sorted(range(len(results)), key=lambda place: results[place].original_rank)


async def test_the_apps_body_passes_through_but_for_the_page(serve: Serve) -> None:
    connector = RecordingConnector()
    body = {**BODY, "size": 3, "_source": ["body"], "track_total_hits": 7, "aggs": {"a": {}}, "x": [1, None, 2**70]}
    async with serve(connector=connector) as (client, _):
        page = await client.search("docs", QUERY, body, params={"routing": "r", "preference": "_local"})
    assert connector.asked == [
        ("docs", {**body, "from": 0, "size": 100}, {"routing": "r", "preference": "_local"}),
    ]
    assert len(page.hits) == 3
    assert all(set(hit["_source"]) == {"body"} for hit in page.hits)


async def test_text_that_the_app_did_not_ask_for_is_fetched(serve: Serve) -> None:
    async with serve() as (client, _):
        page = await client.search("docs", QUERY, {**BODY, "_source": False})
    assert (page.outcome, page.hits[0]["_id"]) == ("RERANKED", "d3")
    assert not any("_source" in hit for hit in page.hits)
    assert page.message.meta.timings.fetch_ms > 0


async def test_the_passage_is_returned_when_asked_for(serve: Serve) -> None:
    async with serve() as (client, _):
        page = await client.search("docs", QUERY, BODY, options=pb.Options(return_passages=True))
        assert page.results[0].passage == "storage\nwhich apple varieties keep well in winter storage"
        plain = await client.search("docs", QUERY, BODY)
        assert not any(result.passage for result in plain.results)


async def test_an_empty_body_is_the_engines_own_default(serve: Serve) -> None:
    async with serve() as (client, _):
        message = await client.stub.Search(pb.SearchRequest(index="docs", query=QUERY))
    assert len(message.results) == 6
    assert message.results[0].id == "d3"


async def test_patterns_and_lists_of_indices(serve: Serve) -> None:
    async with serve() as (client, _):
        for index in ("docs", "do*", "docs,docs", "_all", "*"):
            assert (await client.search(index, QUERY, BODY)).hits[0]["_id"] == "d3"


async def test_a_call_is_counted_and_logged_without_its_text(serve: Serve, logged: Logged) -> None:
    async with serve() as (client, app):
        page = await client.search("docs", QUERY, BODY)
        labels = {"method": "Search", "policy": "default", "outcome": "RERANKED", "reason": "UNSPECIFIED"}
        assert app.metrics.registry.get_sample_value("sidecar_requests_total", labels) == 1
    line = next(entry for entry in logged if entry["event"] == "call")
    assert (line["outcome"], line["candidates"], line["scored"]) == ("RERANKED", 5, 5)
    assert page.message.meta.request_id
    assert "apple" not in json.dumps(logged, default=str)


async def test_numbers_come_back_as_they_were(serve: Serve) -> None:
    numbers = {"big": 2**63 + 1, "small": 1e-7, "sum": 0.1 + 0.2}
    odd: dict[str, Json] = {"a": {"body": "apple", **numbers}, "b": {"body": "apple apple"}}
    async with serve(connector=MemoryConnector("main", {"docs": odd})) as (client, _):
        page = await client.search("docs", "apple", {})
    assert {hit["_id"]: hit["_source"] for hit in page.hits} == odd


async def test_a_search_that_the_engine_takes_only_without_the_window_is_passed_on_as_it_is(serve: Serve) -> None:
    """As compound retrievers are, whose own window is smaller, and indices with a small `max_result_window`."""
    refusal = InvalidQuery("refused", status=400, error_type="illegal_argument_exception", reason="window")
    connector = MemoryConnector("main", {"docs": DOCUMENTS}, faults=[Fault(error=refusal, on="search")])
    async with serve(connector=connector) as (client, _):
        page = await client.search("docs", QUERY, {**BODY, "from": 1, "size": 2})
        direct = await connector.search("docs", {**BODY, "from": 1, "size": 2}, timeout_s=5)
    assert (page.outcome, page.reason) == ("SKIPPED", "WINDOW_REFUSED")
    assert page.hits == direct.raw["hits"]["hits"]
    assert [result.original_rank for result in page.results] == [1, 2]


@pytest.mark.parametrize("source", [False, ["title"], {"excludes": ["body"]}])
async def test_text_that_the_app_filtered_away_is_read_by_the_model_and_not_given_back(
    serve: Serve, source: Any
) -> None:
    async with serve() as (client, _):
        whole = await client.search("docs", QUERY, BODY)
        filtered = await client.search("docs", QUERY, {**BODY, "_source": source})
    assert filtered.outcome == "RERANKED"
    assert ids(filtered.hits) == ids(whole.hits)
    assert [one.relevance_score for one in filtered.results] == [one.relevance_score for one in whole.results]
    assert not any("body" in (hit.get("_source") or {}) for hit in filtered.hits)


RESTRICTED = settings(connectors={"main": {"type": "memory", "indices": {"docs": "x"}, "allow_indices": ["docs"]}})
LOOKUP = {"query": {"terms": {"body": {"index": "secret", "id": "1", "path": "words"}}}}


async def test_a_body_cannot_read_an_index_that_the_url_may_not_name(serve: Serve) -> None:
    """A terms lookup with `profile` gave back the words of a forbidden index."""
    async with serve(configured=RESTRICTED) as (client, _):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.search("docs", QUERY, LOOKUP)
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
        assert "'secret'" in str(caught.value.details())
        assert (await client.search("docs", QUERY, BODY)).outcome == "RERANKED"


async def test_a_reply_over_the_limit_is_refused_with_its_size_and_a_request_id(serve: Serve) -> None:
    long = {f"d{number}": {"body": "apple " * 60_000} for number in range(4)}
    configured = settings(server={"address": "127.0.0.1:0", "metrics_address": None, "max_message_mib": 1})
    async with serve(connector=MemoryConnector("main", {"docs": long}), configured=configured) as (client, _):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.search("docs", "apple", {"query": {"match": {"body": "apple"}}})
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "max_message_mib" in str(caught.value.details())
    assert dict(caught.value.trailing_metadata() or ())["x-request-id"]
