"""On real nodes: no way past ``allow_indices``, and no document or search that makes the sidecar say something else."""

import json
import urllib.error
import urllib.request
from base64 import b64encode

import grpc
import pytest

from connectors.hits import Json
from sidecar.scoring.fake import WordOverlapScorer
from sidecar.v1 import rerank_pb2 as pb
from tests.calls import status
from tests.conftest import DOCUMENTS
from tests.engines.asking import direct
from tests.engines.conftest import SidecarOn
from tests.engines.engine import Engine, Indices

QUERY = "apple varieties for winter storage"


def restricted(engine: Engine, *patterns: str) -> Json:
    """A connector that allows these indices only."""
    return {"main": {"type": engine.kind, "hosts": [engine.url], "allow_indices": list(patterns)}}


@pytest.mark.parametrize(
    "lookup",
    [
        {"terms": {"title.keyword": {"index": "SECRET", "id": "d1", "path": "title"}}},
        {"more_like_this": {"fields": ["title"], "like": [{"_index": "SECRET", "_id": "d1"}], "min_term_freq": 1}},
    ],
    ids=["terms", "more_like_this"],
)
async def test_no_wrapped_query_reads_an_index_that_is_not_allowed(
    engine: Engine, index_name: Indices, sidecar_on: SidecarOn, lookup: Json
) -> None:
    public, secret = index_name("public", documents=DOCUMENTS), index_name("secret", documents=DOCUMENTS)
    plain = json.loads(json.dumps(lookup).replace("SECRET", secret))
    wrapped = {"wrapper": {"query": b64encode(json.dumps(plain).encode()).decode()}}
    async with sidecar_on(engine, connectors=restricted(engine, public)) as (client, _):
        for query in (plain, wrapped, {"bool": {"must": [wrapped]}}):
            error = await status(client.search(public, QUERY, {"query": query}))
            assert error.code() is grpc.StatusCode.PERMISSION_DENIED, error.details()


async def test_no_rerank_reads_what_a_filtered_alias_hides(
    engine: Engine, index_name: Indices, sidecar_on: SidecarOn
) -> None:
    index, alias = index_name("everybody", documents=DOCUMENTS), index_name("mine")
    add = {"index": index, "alias": alias, "filter": {"ids": {"values": ["d1"]}}}
    engine.call("POST", "/_aliases", {"actions": [{"add": add}]})
    async with sidecar_on(engine, connectors=restricted(engine, alias)) as (client, _):
        found = await client.search(alias, QUERY, {"query": {"match_all": {}}})
        assert [hit["_id"] for hit in found.hits] == ["d1"]
        for candidate in (
            pb.Candidate(id="d2", index=index),
            pb.Candidate(id="d2", index=alias),
            pb.Candidate(id="d2"),
        ):
            error = await status(client.rerank(QUERY, [candidate], index=alias))
            assert error.code() is grpc.StatusCode.PERMISSION_DENIED, error.details()


async def test_a_document_that_is_no_strict_json_is_passed_on_and_reranked(
    engine: Engine, index_name: Indices, sidecar_on: SidecarOn
) -> None:
    """The engines store what their parser takes, a comment say, and give it back as it is."""
    index = index_name("odd", {}, DOCUMENTS)
    body = b'{"title": "apple winter" /* not JSON */, "body": "apple \xf7\xbf\xbf\xbf winter"}'
    if not takes(engine, f"/{index}/_doc/odd?refresh=true", body):
        pytest.skip("this engine refuses such a document")
    async with sidecar_on(engine) as (client, _):
        page = await client.search(index, QUERY, {"query": {"match": {"title": "apple"}}})
    assert page.outcome == "RERANKED"
    assert "odd" in [hit["_id"] for hit in page.hits]


def takes(engine: Engine, path: str, document: bytes) -> bool:
    """Whether the engine stores a document of these bytes."""
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{engine.url}{path}", document, headers, method="PUT")
    try:
        urllib.request.urlopen(request).close()
    except urllib.error.HTTPError:
        return False
    return True


@pytest.mark.parametrize("window_size", [3, 10, None])
async def test_a_rescored_search_that_falls_back_is_the_engines_own_page(
    engine: Engine, index_name: Indices, sidecar_on: SidecarOn, window_size: int | None
) -> None:
    """A rescorer that takes away: what it has not looked at would overtake on a wider search."""
    rows = {str(number): {"title": "apple " * (number % 9 + 1), "body": "apple"} for number in range(120)}
    index = index_name("rescored", {"settings": {"number_of_shards": 3}}, rows)
    rescore: Json = {"query": {"rescore_query": {"match": {"title": "apple"}}, "rescore_query_weight": -3}}
    if window_size is not None:
        rescore["window_size"] = window_size
    body = {"query": {"match": {"title": "apple"}}, "rescore": rescore, "size": 5}
    params = {"preference": "same"}
    broken = WordOverlapScorer(fault=fails)
    async with direct(engine) as straight, sidecar_on(engine, scorer=broken) as (client, _):
        own = await straight.search(index, body, params)
        page = await client.search(index, QUERY, body, params=params)
    assert (page.outcome, page.reason) == ("ORIGINAL_ORDER", "MODEL_ERROR")
    assert page.hits == own.value["hits"]["hits"]
    assert page.response["hits"]["max_score"] == own.value["hits"]["max_score"]
    assert page.response["hits"]["total"] == own.value["hits"]["total"]


def fails(*_: object) -> None:
    """A fault of the scorer at every pass."""
    raise RuntimeError
