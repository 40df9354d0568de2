"""What programs learn of an error."""

import pytest
from google.rpc import code_pb2, status_pb2
from hypothesis import given
from hypothesis import strategies as st

from connectors import EngineTimeout, EngineUnavailable, IndexNotFound, InvalidQuery, MalformedAnswer
from sidecar.error_details import KEY, ErrorDetails, decode, details_of, encode
from sidecar.errors import DeadlinePassed, InvalidRequest, NotAllowed, ReplyTooLarge, TooManyCalls


def test_an_engines_error_keeps_the_engines_words() -> None:
    error = InvalidQuery("m", status=400, error_type="parsing_exception", index="books", position=(1, 38))
    error.connector, error.engine = "main", "elasticsearch"
    known = {"connector": "main", "index": "books", "http_status": "400", "line": "1", "col": "38"}
    assert details_of(error) == ErrorDetails("parsing_exception", "elasticsearch", known, None)


def test_what_is_not_known_is_left_out() -> None:
    assert details_of(IndexNotFound("m")) == ErrorDetails("INDEX_NOT_FOUND", "sidecar", {}, None)


@pytest.mark.parametrize(
    ("error", "reason", "retry_after_s"),
    [
        (EngineUnavailable("m"), "ENGINE_UNAVAILABLE", 1.0),
        (EngineUnavailable("m", retry_after_s=7.5), "ENGINE_UNAVAILABLE", 7.5),
        (EngineUnavailable("m", retry_after_s=0.0), "ENGINE_UNAVAILABLE", 0.0),
        (EngineUnavailable("m", transient=False), "ENGINE_UNAVAILABLE", None),
        (EngineUnavailable("m", error_type="circuit_breaking_exception"), "circuit_breaking_exception", 1.0),
        (EngineTimeout("m"), "ENGINE_TIMEOUT", None),
        (MalformedAnswer("m"), "MALFORMED_ANSWER", None),
        (InvalidRequest("m"), "INVALID_REQUEST", None),
        (NotAllowed("m"), "NOT_ALLOWED", None),
        (TooManyCalls("m"), "TOO_MANY_CALLS", 1.0),
        (ReplyTooLarge("m"), "REPLY_TOO_LARGE", None),
        (DeadlinePassed("m"), "DEADLINE_PASSED", None),
    ],
)
def test_a_retry_is_advised_only_where_it_may_help(error: Exception, reason: str, retry_after_s: float | None) -> None:
    details = details_of(error)
    assert (details.reason, details.domain, details.retry_after_s) == (reason, "sidecar", retry_after_s)


@given(
    st.text(max_size=30),
    st.text(max_size=30),
    st.dictionaries(st.text(min_size=1, max_size=9), st.text(max_size=30), max_size=4),
    st.none() | st.integers(0, 10**6).map(lambda milliseconds: milliseconds / 1e3),
)
def test_what_is_sent_is_read_again(
    reason: str, domain: str, metadata: dict[str, str], retry_after_s: float | None
) -> None:
    details = ErrorDetails(reason, domain, metadata, retry_after_s)
    value = encode(code_pb2.NOT_FOUND, "message", details)
    assert decode([("x-request-id", "1"), (KEY, value)]) == details
    status = status_pb2.Status.FromString(value)
    assert (status.code, status.message) == (code_pb2.NOT_FOUND, "message")


@pytest.mark.parametrize("metadata", [[], [("x-request-id", "1")], [(KEY, b"\xff\xff")], [(KEY, b"")], [(KEY, "text")]])
def test_what_cannot_be_read_is_none(metadata: list[tuple[str, str | bytes]]) -> None:
    assert decode(metadata) is None


def test_a_long_name_is_cut() -> None:
    error = IndexNotFound("m", error_type="t" * 5000, index="i" * 5000)
    assert len(encode(5, "m", details_of(error))) < 600
