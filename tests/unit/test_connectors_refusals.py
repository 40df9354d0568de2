"""From an engine's error body to a typed error with a useful reason."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors import EngineRefused, EngineUnavailable, InvalidQuery, MalformedAnswer
from connectors.attempts import Call
from connectors.refusals import refusal

CALL = Call("books", "search on 'a'")


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
