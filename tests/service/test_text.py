"""Which text is scored, seen from a client: nested objects, the mean of the best passages, hits without a source."""

import json
from typing import Any

import pytest

from connectors.memory import Fault, MemoryConnector
from sidecar.v1 import rerank_pb2 as pb
from tests.calls import reply
from tests.conftest import Serve, settings

QUERY = "apple tart"
TALK: dict[str, dict[str, Any]] = {
    "t0": {"title": "apple", "comments": [{"text": "a tree"}, {"text": "nothing"}]},
    "t1": {"title": "cakes", "comments": [{"text": "pies"}, {"text": "an apple tart"}]},
    "t2": {"title": "none"},
}
NESTED = {"text": {"fields": ["title", "comments.text"], "nested": "comments"}}


@pytest.mark.parametrize("source", [True, False, ["title"], ["comments"]])
async def test_the_best_object_stands_for_its_document(serve: Serve, source: Any) -> None:
    connector = MemoryConnector("main", {"docs": TALK})
    async with serve(connector=connector, configured=settings(NESTED)) as (client, _):
        page = await client.search("docs", QUERY, {"_source": source}, options=pb.Options(return_passages=True))
    assert [hit["_id"] for hit in page.hits] == ["t1", "t0", "t2"]
    assert [result.passage for result in page.results] == ["cakes\nan apple tart", "apple\na tree", "none"]
    assert page.message.meta.scored == 3


@pytest.mark.parametrize(("mean_of_top", "scores"), [(1, [1.0, 0.75]), (2, [0.5, 0.75])])
async def test_the_mean_of_the_best_passages_may_stand_for_a_document(
    serve: Serve, mean_of_top: int, scores: list[float]
) -> None:
    passages = {"words": 8, "stride": 8}
    policy = {"text": {"fields": ["body"], "passages": passages, "mean_of_top": mean_of_top}}
    whole = "apple tart with cream" + " x" * 12
    often = ("apple tart with" + " x" * 5 + " ") * 2
    async with serve(configured=settings(policy)) as (client, _):
        options = pb.Options(return_passages=True)
        got = reply(await client.rerank("apple tart with cream", [whole, often], options=options))
    assert {result.original_rank: result.relevance_score for result in got.results} == dict(enumerate(scores))
    assert got.results[0].relevance_score == max(scores)
    assert all("apple tart" in result.passage for result in got.results)


HITS = [
    {"_id": "a", "_index": "docs", "fields": {"title": ["pear"]}},
    {"_id": "b", "_index": "docs", "highlight": {"title": ["an <em>apple</em>"]}},
    {"_id": "c", "_index": "docs", "fields": {"title": ["apple", "tart"]}},
]


async def test_hits_that_bring_their_text_beside_the_source_need_no_fetch(serve: Serve) -> None:
    policy = {"text": {"fields": ["title"], "sources": ["source", "fields", "highlight"]}}
    engine = MemoryConnector("main", {"docs": {}}, faults=[Fault(delay_s=30, on="fetch", always=True)])
    async with serve(connector=engine, configured=settings(policy)) as (client, _):
        got = reply(await client.rerank(QUERY, [pb.Candidate(hit=json.dumps(hit)) for hit in HITS]))
    assert (got.outcome, got.ids, got.meta.scored) == ("RERANKED", ["c", "b", "a"], 3)
    assert got.meta.timings.fetch_ms == 0


async def test_where_the_documents_cannot_be_fetched_the_others_are_scored(serve: Serve) -> None:
    engine = MemoryConnector("main", {"docs": TALK}, faults=[Fault(answer={"docs": []}, on="fetch", always=True)])
    candidates = [pb.Candidate(id="t1", index="docs"), pb.Candidate(text="x"), pb.Candidate(text="apple tart")]
    async with serve(connector=engine) as (client, _):
        got = reply(await client.rerank(QUERY, candidates))
        assert [result.original_rank for result in got.results] == [0, 2, 1]
        assert not got.results[0].HasField("relevance_score")
        got = reply(await client.rerank(QUERY, candidates[:1]))
    assert (got.outcome, got.reason) == ("ORIGINAL_ORDER", "TEXT_UNAVAILABLE")
    assert "deleted" in got.meta.detail
