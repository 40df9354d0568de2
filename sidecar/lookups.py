"""Which other indices a search body reads. Pure.

A ``terms`` lookup, ``more_like_this``, ``percolate``, an indexed shape or a lookup field names the index that it reads
in the body, not in the URL.
"""

from collections.abc import Iterator
from typing import Any

from connectors.hits import Json

_SHAPES = "shapes"
"""The index of an indexed shape that names none."""
_KEYS = ("index", "_index", "target_index")


def named_indices(body: Json) -> Iterator[str]:
    """Yield every text under a key that can name an index, and the default index of indexed shapes.

    The values of an app's own field of that name are included: they cannot be distinguished from a lookup.

    >>> list(named_indices({"query": {"terms": {"group": {"index": "users", "id": "1", "path": "groups"}}}}))
    ['users']
    """
    waiting: list[Any] = [body]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            for key in _KEYS:
                yield from _texts(value.get(key))
            if "indexed_shape" in value and "index" not in _object(value["indexed_shape"]):
                yield _SHAPES
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)


def hides_a_query(body: Json) -> bool:
    """Whether the body holds a query as text, which may read any index unseen.

    A ``wrapper`` query holds one in base64, and a phrase suggester's ``collate`` a template.

    >>> hides_a_query({"query": {"bool": {"must": {"wrapper": {"query": "e30="}}}}})
    True
    """
    waiting: list[Any] = [body]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            if "query" in _object(value.get("wrapper")) or "collate" in _object(value.get("phrase")):
                return True
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)
    return False


def _object(value: Any) -> Json:
    return value if isinstance(value, dict) else {}


def _texts(value: Any) -> Iterator[str]:
    """Yield strings, and numbers as strings, as the engines read them."""
    for one in value if isinstance(value, list) else [value]:
        if isinstance(one, (str, int, float)) and not isinstance(one, bool):
            yield str(one)
