"""Nested objects of real hits: scored one by one, whatever the mapping, the app and the inner hits show of them."""

import json
from typing import Any

import pytest

from connectors.hits import Json
from tests.engines.conftest import SidecarOn
from tests.engines.engine import Engine, Indices
from tests.engines.reading import has_fetched, ids, passages, reading, searched

COMMENTS: dict[str, Json] = {
    "1": {"title": "news", "comments": [{"text": "nothing new", "by": "ann"}, {"text": "apple tree", "by": "bob"}]},
    "2": {"title": "plain", "comments": []},
    "3": {"title": "cakes", "comments": [{"text": "one", "by": "cy"}, {"text": "the apple tart", "by": "di"}]},
}
NESTED: Json = {
    "properties": {
        "title": {"type": "text"},
        "comments": {"type": "nested", "properties": {"text": {"type": "text"}, "by": {"type": "keyword"}}},
    }
}
FIELDS = [{"name": "title", "label": "On "}, "comments.text", {"name": "comments.by", "label": "by "}]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"_source": False},
        {"_source": ["comments.by"]},
        {"_source": False, "fields": ["*"]},
        {"fields": ["comments.by"]},
    ],
    ids=json.dumps,
)
@pytest.mark.parametrize("kind", ["nested", "object"])
async def test_nested_objects_are_scored_one_by_one_and_the_best_is_returned(
    engine: Engine, index_name: Indices, sidecar_on: SidecarOn, body: Json, kind: str
) -> None:
    mapping = {"properties": {**NESTED["properties"], "comments": {**NESTED["properties"]["comments"], "type": kind}}}
    index = index_name("talk", {"mappings": mapping}, COMMENTS)
    page = await searched(sidecar_on, engine, index, body, reading(*FIELDS, nested="comments", separator=" "))
    assert ids(page) == ["3", "1", "2"]
    assert passages(page) == {
        "3": "On cakes the apple tart by di",
        "1": "On news apple tree by bob",
        "2": "On plain",
    }


@pytest.mark.parametrize(
    "inner",
    [{}, {"name": "mine"}, {"_source": ["comments.text", "comments.by"]}, {"_source": False, "fields": ["comments.*"]}],
    ids=json.dumps,
)
@pytest.mark.parametrize("source", [True, ["title"], False], ids=json.dumps)
async def test_inner_hits_are_the_only_objects_where_the_policy_reads_them(
    engine: Engine, index_name: Indices, sidecar_on: SidecarOn, inner: Json, source: Any
) -> None:
    index = index_name("talk", {"mappings": NESTED}, COMMENTS)
    query = {"nested": {"path": "comments", "query": {"match": {"comments.text": "one tree"}}, "inner_hits": inner}}
    body = {"query": query, "_source": source}
    policy = reading(*FIELDS, nested="comments", separator=" ", sources=["source", "fields", "inner_hits"])
    page = await searched(sidecar_on, engine, index, body, policy)
    assert passages(page) == {"3": "On cakes one by cy", "1": "On news apple tree by bob"}
    assert ids(page) == ["1", "3"]
    assert has_fetched(page) is (source is False)
    without = {**policy, "text": {**policy["text"], "sources": ["source", "fields"]}}
    page = await searched(sidecar_on, engine, index, body, without)
    assert passages(page)["3"] == "On cakes the apple tart by di"


async def test_inner_hits_of_a_collapse_are_not_nested_objects(
    engine: Engine, index_name: Indices, sidecar_on: SidecarOn
) -> None:
    mapping = {"properties": {**NESTED["properties"], "group": {"type": "keyword"}}}
    documents = {key: {**source, "group": "g"} for key, source in COMMENTS.items()} | {
        "4": {"title": "x", "group": "h"}
    }
    index = index_name("talk", {"mappings": mapping}, documents)
    body = {"collapse": {"field": "group", "inner_hits": {"name": "comments", "size": 5}}, "_source": ["title"]}
    policy = reading(*FIELDS, nested="comments", separator=" ", sources=["source", "inner_hits"])
    page = await searched(sidecar_on, engine, index, body, policy)
    assert passages(page) == {"1": "On news apple tree by bob", "4": "On x"}
