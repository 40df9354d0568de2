"""Which other indices a body reads."""

from typing import Any

import pytest

from sidecar.lookups import hides_a_query, named_indices


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"query": {"match": {"title": "index"}}}, []),
        ({"query": {"terms": {"group": {"index": "users", "id": "1", "path": "groups"}}}}, ["users"]),
        (
            {"query": {"more_like_this": {"like": [{"_index": "a", "_id": "1"}, {"_index": "b", "_id": "2"}]}}},
            ["a", "b"],
        ),
        ({"query": {"percolate": {"field": "q", "index": "c", "id": "1"}}}, ["c"]),
        ({"query": {"geo_shape": {"at": {"indexed_shape": {"index": "shapes", "id": "1"}}}}}, ["shapes"]),
        ({"runtime_mappings": {"x": {"type": "lookup", "target_index": "d"}}}, ["d"]),
        ({"indices_boost": [{"e": 2}], "query": {"terms": {"_index": ["f", "g"]}}}, ["f", "g"]),
        ({"query": {"bool": {"filter": [[{"terms": {"x": {"index": "deep"}}}]]}}}, ["deep"]),
    ],
)
def test_named_indices(body: dict[str, Any], named: list[str]) -> None:
    assert sorted(named_indices(body)) == named


def test_a_number_is_the_name_that_it_spells() -> None:
    assert list(named_indices({"query": {"more_like_this": {"like": [{"_index": 2024, "_id": "1"}]}}})) == ["2024"]


def test_an_indexed_shape_is_read_from_shapes_unless_it_says() -> None:
    def shape(**where: str) -> dict[str, object]:
        return {"query": {"geo_shape": {"area": {"indexed_shape": {"id": "1", **where}}}}}

    assert list(named_indices(shape())) == ["shapes"]
    assert list(named_indices(shape(index="areas"))) == ["areas"]


def test_a_wrapper_query_is_found_wherever_it_stands() -> None:
    wrapper = {"wrapper": {"query": "e30="}}
    assert hides_a_query({"query": {"bool": {"must": [wrapper]}}})
    assert hides_a_query({"aggs": {"a": {"filter": wrapper}}})
    assert not hides_a_query({"query": {"match": {"wrapper": "query"}}})


def test_a_suggesters_collate_is_a_query_too() -> None:
    """It may be text, which an engine parses as a query for each suggestion."""
    collate = {"query": {"source": '{"more_like_this": {"like": [{"_index": "secret", "_id": "1"}]}}'}, "prune": True}
    assert hides_a_query({"suggest": {"text": "x", "near": {"phrase": {"field": "title", "collate": collate}}}})
    assert not hides_a_query({"suggest": {"text": "x", "near": {"phrase": {"field": "title"}}}})
    assert not hides_a_query({"query": {"match": {"collate": {"query": "x"}}}}), "a field may be called so"
