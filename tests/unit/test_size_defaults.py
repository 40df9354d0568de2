"""Defaults that follow `size` are written out, so that a wider size finds nothing else."""

import copy
from typing import Any

import pytest

from sidecar.size_defaults import written_out
from sidecar.window import Page, request

VECTOR = {"field": "v", "query_vector": [0.1]}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"knn": VECTOR}, {"knn": {**VECTOR, "k": 10}}),
        ({"knn": VECTOR, "size": 3}, {"knn": {**VECTOR, "k": 3}, "size": 3}),
        ({"knn": [VECTOR, {**VECTOR, "k": 3}]}, {"knn": [{**VECTOR, "k": 10}, {**VECTOR, "k": 3}]}),
        ({"post_filter": {"knn": VECTOR}}, {"post_filter": {"knn": {**VECTOR, "k": 7}}}),
        ({"aggs": {"a": {"filter": {"knn": VECTOR}}}}, {"aggs": {"a": {"filter": {"knn": {**VECTOR, "k": 7}}}}}),
        ({"rank": {"rrf": {}}}, {"rank": {"rrf": {"rank_window_size": 7}}}),
        (
            {"query": {"bool": {"should": [{"knn": VECTOR}, {"match": {"a": "b"}}]}}},
            {"query": {"bool": {"should": [{"knn": {**VECTOR, "k": 7}}, {"match": {"a": "b"}}]}}},
        ),
        (
            {"retriever": {"rrf": {"retrievers": [{"linear": {"retrievers": []}}]}}},
            {
                "retriever": {
                    "rrf": {
                        "retrievers": [{"linear": {"retrievers": [], "rank_window_size": 7}}],
                        "rank_window_size": 7,
                    }
                }
            },
        ),
    ],
)
def test_defaults_are_written_out(body: dict[str, Any], expected: dict[str, Any]) -> None:
    before = copy.deepcopy(body)
    made, changes = written_out(body, 7)
    assert made == expected
    assert body == before
    assert changes
    assert all("none -> " in change for change in changes)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"query": {"match": {"knn": "linear"}}},
        {"query": {"knn": {"my_vector": {"vector": [0.1], "k": 2}}}},
        {"query": {"term": {"rrf": {"value": 1}}}},
        {"retriever": {"rrf": {"retrievers": [], "rank_window_size": 50}}},
        {"retriever": {"standard": {"query": {"match_all": {}}}}},
        {"aggs": {"knn": {"terms": {"field": "a"}}}, "knn": {**VECTOR, "k": 3}},
        {"knn": None, "query": 3, "retriever": []},
    ],
)
def test_everything_else_is_the_apps_own(body: dict[str, Any]) -> None:
    made, changes = written_out(body, 7)
    assert made is body
    assert changes == ()


def test_a_window_no_larger_than_the_page_needs_no_defaults() -> None:
    body = {"knn": VECTOR, "size": 10}
    assert request("i", body, {}, Page(0, 10), 10).body == {**body, "from": 0}
    assert request("i", {"knn": VECTOR, "size": 4}, {}, Page(0, 4), 10).body["knn"]["k"] == 4
    assert request("i", {"knn": VECTOR}, {"size": "4"}, Page(0, 4), 10).body["knn"]["k"] == 10, "as the engine does it"
