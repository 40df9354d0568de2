"""Which other indices a body reads."""

from typing import Any

import pytest

from sidecar.lookups import named_indices


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
