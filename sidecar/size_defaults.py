"""Defaults that a search derives from its `size`, written out before the size is widened. Pure.

In Elasticsearch `k` of a kNN search and `rank_window_size` of a compound retriever default to `size`: a wider size
would find other documents and count another total. With these defaults written out, the window changes neither; if the
engine then refuses the window, the search is sent as the app made it.
"""

from collections.abc import Iterator
from typing import Any

from connectors.hits import Json

_COMPOUND = frozenset({"diversify", "linear", "pinned", "rrf", "rule", "text_similarity_reranker"})
_VECTORS = frozenset({"query_vector", "query_vector_builder"})
_SEARCHED = ("query", "retriever", "post_filter", "rescore", "aggs", "aggregations", "sub_searches", "rank")
"""Keys of a body that may contain searches; an app's own names below them do no harm."""
_DEFAULT_SIZE = 10


def written_out(body: Json, size: int) -> tuple[Json, tuple[str, ...]]:
    """Return the body with those defaults for a page of ``size`` hits, and one line for each addition.

    Without additions it is the same body.

    >>> written_out({"knn": {"field": "v", "query_vector": [1.0]}}, 10)
    ({'knn': {'field': 'v', 'query_vector': [1.0], 'k': 10}}, ('knn.k: none -> 10, its default',))
    """
    changes: list[str] = []
    sizes = {"knn": _size_of_body(body)} | dict.fromkeys(_SEARCHED, size)
    searched = {name: _walk(body[name], name, name, sizes[name], changes) for name in sizes if name in body}
    return ({**body, **searched} if changes else body), tuple(dict.fromkeys(changes))


def _size_of_body(body: Json) -> int:
    """Return the default `k` of the ``knn`` section: the body's own size (else 10), whatever the URL says."""
    size = body.get("size")
    return size if isinstance(size, int) and not isinstance(size, bool) and size > 0 else _DEFAULT_SIZE


def _walk(value: Any, name: str, part: str, size: int, changes: list[str]) -> Any:
    """Return a copy of ``value`` with the defaults; ``name`` is its key, ``part`` the top-level key above it."""
    if isinstance(value, list):
        return [_walk(one, name, part, size, changes) for one in value]
    if not isinstance(value, dict):
        return value
    added = dict(_missing(value, name, part, size))
    changes += [f"{name}.{key}: none -> {default}, its default" for key, default in added.items()]
    return {key: _walk(one, key, part, size, changes) for key, one in value.items()} | added


def _missing(value: Json, name: str, part: str, size: int) -> Iterator[tuple[str, int]]:
    if name == "knn" and "field" in value and "k" not in value and not _VECTORS.isdisjoint(value):
        yield "k", size
    if part in ("retriever", "rank") and name in _COMPOUND and "rank_window_size" not in value:
        yield "rank_window_size", size
