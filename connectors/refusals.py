"""From an engine's "no" to a typed error: HTTP status and error body in, exception out. Pure, no I/O."""

import json
from collections.abc import Iterator
from typing import Any

from connectors.attempts import Call
from connectors.errors import (
    ConnectorError,
    EngineRefused,
    EngineUnavailable,
    IndexNotFound,
    InvalidQuery,
    MalformedAnswer,
    NotAuthenticated,
    NotPermitted,
)

TRY_AGAIN_STATUSES = frozenset({429, 502, 503, 504})
LONGEST_REASON = 500
CLIENT_TOO_NEW = "media_type_header_exception"


def invalid_query(call: Call, error_type: str, reason: str) -> InvalidQuery:
    """The error for a query refused before any engine is asked, shaped like an engine's own."""
    message = call.sentence(f"the query was refused (400 {error_type})")
    return InvalidQuery(message, status=400, error_type=error_type, reason=reason)


def refusal(call: Call, status: int, body: bytes) -> ConnectorError:
    """The error that an answer with a status outside of 2xx means."""
    error_type, reason = _type_and_reason(body)
    said = f"{status} {error_type}".rstrip()
    if status in TRY_AGAIN_STATUSES:
        return EngineUnavailable(call.sentence(f"the engine cannot serve now ({said})"), status=status)
    if status >= 500:
        return EngineUnavailable(call.sentence(f"the engine failed ({said})"), status=status, transient=False)
    if status not in (401, 403) and (status < 400 or not error_type):
        return MalformedAnswer(call.sentence(f"the answer ({said}) is not an engine's"))
    kind, cause = _kind(status, error_type)
    return kind(call.sentence(f"{cause} ({said})"), status=status, error_type=error_type, reason=reason)


def _kind(status: int, error_type: str) -> tuple[type[EngineRefused], str]:
    if status == 401:
        return NotAuthenticated, "the engine does not accept the credentials"
    if status == 403:
        return NotPermitted, "the credentials do not cover this call"
    if error_type == CLIENT_TOO_NEW:
        return (
            EngineRefused,
            "the engine is too old for the installed client; install one of its major version",
        )
    if error_type == "index_not_found_exception":
        return IndexNotFound, "there is no such index"
    if status == 400:
        return InvalidQuery, "the engine refused the query"
    return EngineRefused, "the engine refused the call"


def _type_and_reason(body: bytes) -> tuple[str, str]:
    """The type and one sentence of an error body; both empty when it is not an engine's."""
    error = _error_object(body)
    root = next(iter(_roots(error)), error)
    deepest = next(reversed(list(_causes(root) if root.get("caused_by") else _causes(error))), root)
    sentences = dict.fromkeys(_text(part.get("reason")) for part in (root, deepest))
    reason = ": ".join(sentence for sentence in sentences if sentence) + _position(root)
    return _text(root.get("type")) or _text(error.get("type")), reason[:LONGEST_REASON]


def _error_object(body: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    error = answer.get("error") if isinstance(answer, dict) else None
    if isinstance(error, str):
        return {"type": "exception", "reason": error}
    return error if isinstance(error, dict) else {}


def _roots(error: dict[str, Any]) -> Iterator[dict[str, Any]]:
    roots = error.get("root_cause")
    yield from (root for root in (roots if isinstance(roots, list) else ()) if isinstance(root, dict))


def _causes(error: dict[str, Any]) -> Iterator[dict[str, Any]]:
    cause = error.get("caused_by")
    while isinstance(cause, dict):
        yield cause
        cause = cause.get("caused_by")


def _position(error: dict[str, Any]) -> str:
    line, column = error.get("line"), error.get("col")
    return f" (line {line}, column {column})" if isinstance(line, int) and isinstance(column, int) else ""


def _text(value: object) -> str:
    return " ".join(value.split()) if isinstance(value, str) else ""
