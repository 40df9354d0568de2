"""From an engine's error body to a typed error with a useful reason."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors import (
    ConnectorError,
    EngineRefused,
    EngineTimeout,
    EngineUnavailable,
    InvalidQuery,
    MalformedAnswer,
    NotAuthenticated,
    NotPermitted,
)
from connectors.attempts import Call
from connectors.refusals import refusal, retry_after

CALL = Call("books", "search on 'a'")


def test_a_search_that_the_engine_ended_at_its_timeout_is_late() -> None:
    error = refused({"type": "time_exceeded_exception", "reason": "Time exceeded"}, 500)
    assert type(error) is EngineTimeout
    assert "its `timeout`" in str(error)


def refused(error: object, status: int = 400) -> Any:
    return refusal(CALL, status, json.dumps({"error": error, "status": status}).encode())


def test_the_deepest_cause_is_told_after_the_root() -> None:
    cause = {"type": "named_object_not_found_exception", "reason": "[1:20] unknown field [mach]"}
    root = {"type": "parsing_exception", "reason": "unknown query [mach]", "line": 1, "col": 20}
    error = refused({**root, "root_cause": [root], "caused_by": cause})
    assert type(error) is InvalidQuery
    assert error.error_type == "parsing_exception"
    assert error.reason == "unknown query [mach]: [1:20] unknown field [mach] (line 1, column 20)"
    assert str(error) == "connector 'books': search on 'a': the engine refused the query (400 parsing_exception)"


def test_failed_shards_are_seen_through() -> None:
    root = {"type": "query_shard_exception", "reason": "Failed to parse query [a AND]", "index": "a"}
    inner = {"type": "parse_exception", "reason": "Cannot parse 'a AND':\nEncountered <EOF>"}
    shard = {"shard": 0, "reason": {**root, "caused_by": {**inner, "caused_by": {"type": "x", "reason": "EOF"}}}}
    all_failed = {"type": "search_phase_execution_exception", "reason": "all shards failed", "failed_shards": [shard]}
    error = refused({**all_failed, "root_cause": [root], "caused_by": shard["reason"]})
    assert error.error_type == "query_shard_exception"
    assert error.reason == "Failed to parse query [a AND]: EOF"


def test_a_repeated_reason_is_told_once_and_a_long_one_cut() -> None:
    long = {"type": "illegal_argument_exception", "reason": "x" * 2000}
    assert refused({**long, "root_cause": [long], "caused_by": long}).reason == "x" * 500


def test_an_error_that_is_a_text() -> None:
    error = refused("Incorrect HTTP method for uri [/a/_search]", 405)
    assert type(error) is EngineRefused
    assert error.reason == "Incorrect HTTP method for uri [/a/_search]"


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_circuit_breaker_is_worth_another_try(status: int) -> None:
    root = {"type": "circuit_breaking_exception", "reason": "[request] Data too large", "durability": "TRANSIENT"}
    shards = {"type": "search_phase_execution_exception", "reason": "all shards failed", "root_cause": [root]}
    error = refused(shards, status)
    assert type(error) is EngineUnavailable
    assert (error.error_type, error.status, error.transient) == ("circuit_breaking_exception", status, True)
    assert error.reason == "[request] Data too large"
    assert "Data" not in str(error), "the message is for logs"


@pytest.mark.parametrize("status", [429, 500, 503])
def test_an_engine_that_cannot_serve_is_quoted(status: int) -> None:
    error = refused({"type": "rejected_execution_exception", "reason": "the queue is full"}, status)
    assert type(error) is EngineUnavailable
    assert (error.reason, error.transient) == ("the queue is full", status != 500)
    assert "queue" not in str(error)


def test_all_shards_failed_of_the_querys_fault() -> None:
    root = {"type": "too_many_nested_clauses", "reason": "maxClauseCount is set to 1024", "index": "a"}
    shards = {"type": "search_phase_execution_exception", "reason": "all shards failed", "root_cause": [root]}
    error = refused(shards, 500)
    assert type(error) is InvalidQuery
    assert (error.error_type, error.index, error.status) == ("too_many_nested_clauses", "a", 500)


@pytest.mark.parametrize("cause", [{}, {"type": "null_pointer_exception", "reason": "null"}])
def test_all_shards_failed_of_the_engines_fault(cause: dict[str, str]) -> None:
    shards = {"type": "search_phase_execution_exception", "reason": "", "root_cause": [cause] if cause else []}
    for status, transient in ((500, False), (503, True)):
        error = refused(shards, status)
        assert type(error) is EngineUnavailable
        assert error.transient == transient


@pytest.mark.parametrize(
    ("root", "position"),
    [
        ({"reason": "unknown query [x]", "line": 1, "col": 20}, (1, 20)),
        ({"reason": "[1:38] [match] unknown token"}, (1, 38)),
        ({"reason": "[1:38 is no position] [1:2]"}, None),
        ({"reason": "failed", "caused_by": {"reason": "[1:7] [bool] failed to parse"}}, (1, 7)),
        ({"reason": "failed", "line": "1", "col": None}, None),
        ({"reason": "No mapping found for [title]"}, None),
    ],
)
def test_the_position_is_found(root: dict[str, Any], position: tuple[int, int] | None) -> None:
    assert refused({"type": "x_content_parse_exception", **root}).position == position


@pytest.mark.parametrize(
    ("status", "error_type", "kind"),
    [
        (400, "index_closed_exception", EngineRefused),
        (403, "cluster_block_exception", EngineRefused),
        (503, "cluster_block_exception", EngineUnavailable),
        (500, "too_many_clauses", InvalidQuery),
        (403, "security_exception", NotPermitted),
        (401, "security_exception", NotAuthenticated),
    ],
)
def test_the_type_says_more_than_the_status(status: int, error_type: str, kind: type[ConnectorError]) -> None:
    error = refused({"type": error_type, "reason": "because", "index": "books"}, status)
    assert type(error) is kind
    assert error.error_type == error_type


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        (" 120 ", 120.0),
        ("Tue, 24 Nov 2026 00:01:30 GMT", 90.0),
        ("Tue, 24 Nov 2026 00:01:30 -0000", 90.0),
        ("Mon, 23 Nov 2026 23:59:30 GMT", 0.0),
        ("-5", None),
        ("soon", None),
        ("", None),
        ("1.5", None),
        ("9" * 400, None),
    ],
)
def test_retry_after(value: str, seconds: float | None) -> None:
    assert retry_after(value, datetime(2026, 11, 24, tzinfo=UTC)) == seconds


@pytest.mark.parametrize("status", [300, 304, 400, 404, 418])
def test_no_engine_answers_like_that(status: int) -> None:
    assert type(refusal(CALL, status, b"nothing")) is MalformedAnswer


@given(
    st.integers(300, 599),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["error", "type", "reason", "root_cause", "caused_by", "line", "col"]),
                inner,
                max_size=5,
            )
        ),
    ),
)
def test_any_error_body_is_understood(status: int, body: object) -> None:
    error = refusal(CALL, status, json.dumps(body).encode())
    if status >= 500 or status == 429:
        assert isinstance(error, EngineUnavailable)
        assert error.status == status
    elif isinstance(error, EngineRefused):
        assert error.status == status
    else:
        assert isinstance(error, MalformedAnswer)
