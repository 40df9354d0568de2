"""Typed errors for an engine's refusals: HTTP status and error body in, exception out. Pure, no I/O."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from connectors.attempts import Call
from connectors.errors import (
    ConnectorError,
    EngineRefused,
    EngineTimeout,
    EngineUnavailable,
    IndexNotFound,
    InvalidQuery,
    MalformedAnswer,
    NotAuthenticated,
    NotPermitted,
)

TRY_AGAIN_STATUSES = frozenset({429, 502, 503, 504})
LONGEST_REASON = 500
LONGEST_WAIT_S = 3600.0
CIRCUIT_BROKEN = "circuit_breaking_exception"
TIME_EXCEEDED = "time_exceeded_exception"

BLAMED_ON_THE_QUERY = frozenset(
    {
        "illegal_argument_exception",
        "number_format_exception",
        "parsing_exception",
        "query_shard_exception",
        "too_many_clauses",
        "too_many_nested_clauses",
        "x_content_parse_exception",
    }
)
"""Errors that are the query's fault even if the engine answers 500, as it does when all shards fail with them."""

OF_ITS_OWN: dict[str, tuple[type[EngineRefused], str]] = {
    "index_not_found_exception": (IndexNotFound, "there is no such index"),
    "index_closed_exception": (EngineRefused, "the index is closed"),
    "cluster_block_exception": (EngineRefused, "the index or the cluster is blocked"),
    "media_type_header_exception": (
        EngineRefused,
        "the engine is too old for the installed client; install one of its major version",
    ),
}
"""Exception and cause for error types that say more than their HTTP status."""


def invalid_query(call: Call, error_type: str, reason: str) -> InvalidQuery:
    """The error for a query refused before any engine is asked, shaped like an engine's own."""
    message = call.sentence(f"the query was refused (400 {error_type})")
    return InvalidQuery(message, status=400, error_type=error_type, reason=reason)


def no_such_index(call: Call, name: str) -> IndexNotFound:
    """The error for an unknown index name, shaped like an engine's own."""
    error_type = "index_not_found_exception"
    message = call.sentence(f"there is no such index (404 {error_type})")
    return IndexNotFound(message, status=404, error_type=error_type, reason=f"no such index [{name}]")


def refusal(call: Call, status: int, body: bytes, retry_after_s: float | None = None) -> ConnectorError:
    """Return the error for an answer with a status outside of 2xx."""
    error = _read_error(body)
    said = f"{status} {error.type}".rstrip()
    if status in TRY_AGAIN_STATUSES or error.type == CIRCUIT_BROKEN:
        sentence = call.sentence(f"the engine cannot serve now ({said})")
        return EngineUnavailable(
            sentence, status=status, error_type=error.type, reason=error.reason, retry_after_s=retry_after_s
        )
    if error.type == TIME_EXCEEDED:
        return EngineTimeout(call.sentence(f"the engine ended the search at its `timeout` ({said})"))
    if status >= 500 and error.type not in BLAMED_ON_THE_QUERY:
        sentence = call.sentence(f"the engine failed ({said})")
        return EngineUnavailable(sentence, status=status, transient=False, error_type=error.type, reason=error.reason)
    if status not in (401, 403) and (status < 400 or not error.type):
        return MalformedAnswer(call.sentence(f"the answer ({said}) is not an engine's"))
    kind, cause = _kind(status, error.type)
    return kind(
        call.sentence(f"{cause} ({said})"),
        status=status,
        error_type=error.type,
        reason=error.reason,
        index=error.index,
        position=error.position,
    )


def _kind(status: int, error_type: str) -> tuple[type[EngineRefused], str]:
    if error_type in OF_ITS_OWN:
        return OF_ITS_OWN[error_type]
    if status == 401:
        return NotAuthenticated, "the engine does not accept the credentials"
    if status == 403:
        return NotPermitted, "the credentials do not cover this call"
    if status == 400 or error_type in BLAMED_ON_THE_QUERY:
        return InvalidQuery, "the engine refused the query"
    return EngineRefused, "the engine refused the call"


@dataclass(frozen=True, slots=True)
class _Error:
    """The contents of an error body; empty if it is not an engine's."""

    type: str = ""
    reason: str = ""
    index: str = ""
    position: tuple[int, int] | None = None


def _read_error(body: bytes) -> _Error:
    """Read an error body by its first root cause; the error around it (such as all shards failed) only says where."""
    error = _error_object(body)
    root = next(iter(_roots(error)), error)
    deepest = next(reversed(list(_causes(root) if root.get("caused_by") else _causes(error))), root)
    sentences = dict.fromkeys(_text(part.get("reason")) for part in (root, deepest))
    reason = ": ".join(sentence for sentence in sentences if sentence)
    position = _position(root, reason)
    if position and "line" in root:
        reason += f" (line {position[0]}, column {position[1]})"
    index = _text(root.get("index")) or _text(error.get("index"))
    return _Error(_text(root.get("type")) or _text(error.get("type")), reason[:LONGEST_REASON], index, position)


def retry_after(value: str, now: datetime) -> float | None:
    """Seconds to wait by a ``Retry-After`` header, a number or a date; at most 3600, None if it cannot be read.

    >>> retry_after("120", datetime.now(UTC))
    120.0
    """
    if re.fullmatch(r"\s*[0-9]{1,9}\s*", value):
        return min(float(value), LONGEST_WAIT_S)
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return min(max(0.0, (moment - now).total_seconds()), LONGEST_WAIT_S)


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


def _position(error: dict[str, Any], reason: str) -> tuple[int, int] | None:
    """Return line and column from their own keys or from ``[line:column]`` in the reason; None if neither."""
    line, column = error.get("line"), error.get("col")
    if isinstance(line, int) and isinstance(column, int):
        return line, column
    inside = re.search(r"(?:^|: )\[(\d{1,9}):(\d{1,9})\] ", reason)
    return (int(inside[1]), int(inside[2])) if inside else None


def _text(value: object) -> str:
    return " ".join(value.split()) if isinstance(value, str) else ""
