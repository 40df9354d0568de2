"""Which other indices a search body reads. Pure.

A ``terms`` lookup, ``more_like_this``, ``percolate``, an indexed shape or a lookup field names the index that it reads
inside the body, where the URL does not show it.
"""

from collections.abc import Iterator
from typing import Any

from connectors.hits import Json

_KEYS = ("index", "_index", "target_index")


def named_indices(body: Json) -> Iterator[str]:
    """Every text under a key that can name an index, wherever it stands.

    A field of the app's own that is called so is given as well: the caller cannot be told apart from a lookup.

    >>> list(named_indices({"query": {"terms": {"group": {"index": "users", "id": "1", "path": "groups"}}}}))
    ['users']
    """
    waiting: list[Any] = [body]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            for key in _KEYS:
                yield from _texts(value.get(key))
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        yield from (one for one in value if isinstance(one, str))
