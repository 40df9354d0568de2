"""What of a search depends on its `size` unless it says otherwise, said before the size is widened. Pure.

Elasticsearch lets `k` of a kNN search and `rank_window_size` of a compound retriever default to `size`: a wider size
would find other documents and count another total. With these defaults written out, the window changes neither; where
the engine then refuses the window, the search is passed on as the app asked it.
"""

from collections.abc import Iterator
from typing import Any

from connectors.hits import Json

_COMPOUND = frozenset({"diversify", "linear", "pinned", "rrf", "rule", "text_similarity_reranker"})
_VECTORS = frozenset({"query_vector", "query_vector_builder"})
_SEARCHED = ("query", "retriever", "post_filter", "rescore", "aggs", "aggregations", "sub_searches", "rank")
"""Keys of a body under which a search may stand; an app's own names in between do no harm."""
_DEFAULT_SIZE = 10


def written_out(body: Json, size: int) -> tuple[Json, tuple[str, ...]]:
    """The body with those defaults for a page of ``size`` hits, and what was added, a line each.

    It is the same body if nothing was.

    >>> written_out({"knn": {"field": "v", "query_vector": [1.0]}}, 10)
    ({'knn': {'field': 'v', 'query_vector': [1.0], 'k': 10}}, ('knn.k: none -> 10, its default',))
    """
    changes: list[str] = []
    sizes = {"knn": _size_of_body(body)} | dict.fromkeys(_SEARCHED, size)
    searched = {name: _walk(body[name], name, name, sizes[name], changes) for name in sizes if name in body}
    return ({**body, **searched} if changes else body), tuple(dict.fromkeys(changes))


def _size_of_body(body: Json) -> int:
    """What the ``knn`` section goes by: the body's own size, whatever the URL says."""
    size = body.get("size")
    return size if isinstance(size, int) and not isinstance(size, bool) and size > 0 else _DEFAULT_SIZE


def _walk(value: Any, name: str, part: str, size: int, changes: list[str]) -> Any:
    """A copy of ``value``, which stands under ``name`` somewhere in that part of the body."""
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
