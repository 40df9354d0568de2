"""JSON text in a field of a request. Pure; every error names the field and what is allowed."""

import json
import math
from collections import Counter
from typing import Any

from connectors.hits import Json
from sidecar.errors import InvalidRequest

MAX_DEPTH = 200
"""Most levels of nesting in a JSON object; a deeper one would overflow the stack of recursive code."""
MAX_JSON_CHARS = 8 * 2**20
"""Most characters of one JSON field; reading it blocks every other call."""
_SHOWN_CHARS = 60


def json_object(text: str, field: str) -> Json:
    """Parse the JSON object in a field.

    Raises:
        InvalidRequest: the text is too long, not JSON, holds NaN, infinity or a number that is too large, is nested too
            deeply, or is not an object; or an object in it has a key twice, which the engines refuse and Python hides.
    """
    if len(text) > MAX_JSON_CHARS:
        raise InvalidRequest(f"`{field}` has {len(text)} characters; at most {MAX_JSON_CHARS} are allowed")
    try:
        value = json.loads(text, parse_constant=_refuse_constant, parse_float=_finite, object_pairs_hook=_distinct)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno} column {error.colno}"
        raise InvalidRequest(f"`{field}` is not valid JSON: {error.msg} at {where}") from None
    except RecursionError:
        raise _too_deep(field) from None
    except _NotJson as error:
        raise InvalidRequest(f"`{field}` is not valid JSON: {error}") from None
    except ValueError:
        raise InvalidRequest(f"`{field}` holds a whole number with too many digits") from None
    if not isinstance(value, dict):
        raise InvalidRequest(f"`{field}` is a JSON {_KINDS.get(type(value), 'value')}; an object is needed")
    if text.count("[") + text.count("{") > MAX_DEPTH:
        check_depth(value, field)
    return value


def check_depth(value: Json, field: str) -> None:
    """Refuse an object that recursive code could not walk.

    Raises:
        InvalidRequest: it is nested too deeply.
    """
    if _is_too_deep(value):
        raise _too_deep(field)


_KINDS = {list: "array", str: "string", int: "number", float: "number", bool: "boolean", type(None): "null"}


class _NotJson(ValueError):
    """A number that JSON does not have or a double cannot hold, or an object that the engines refuse."""


def _distinct(pairs: list[tuple[str, Any]]) -> Json:
    """Make an object of its pairs, unless a key occurs twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise _NotJson(f"an object has the key {twice[:_SHOWN_CHARS]!r} twice")
    return found


def _refuse_constant(name: str) -> None:
    raise _NotJson(f"{name} is not a JSON value")


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise _NotJson("a number is too large")
    return value


def _too_deep(field: str) -> InvalidRequest:
    return InvalidRequest(f"`{field}` is nested too deeply; at most {MAX_DEPTH} levels are allowed")


def _is_too_deep(value: Json) -> bool:
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH):
        children = (child for one in level for child in (one.values() if isinstance(one, dict) else one))
        level = [child for child in children if isinstance(child, (dict, list))]
    return bool(level)
