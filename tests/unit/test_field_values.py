"""The values of a field, whatever a document holds there."""

import base64
import os
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.field_values import MAX_CHARS, nodes, values

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["a", "b", "a.b", ""]), inner, max_size=4)
    ),
)


@pytest.mark.parametrize(
    ("document", "path", "expected"),
    [
        ({"title": " Apple "}, "title", ["Apple"]),
        ({"tags": ["a", "b", "c"]}, "tags", ["a", "b", "c"]),
        ({"tags": [["a"], ["b", ["c"]]]}, "tags", ["a", "b", "c"]),
        ({"author": {"name": "Ada"}}, "author.name", ["Ada"]),
        ({"author": [{"name": "Ada"}, {"name": "Bob"}]}, "author.name", ["Ada", "Bob"]),
        ({"author.name": "Ada"}, "author.name", ["Ada"]),
        ({"author.name": {"first": "Ada"}}, "author.name.first", ["Ada"]),
        ({"year": 1998, "price": 9.5}, "year", ["1998"]),
        ({"when": "2026-11-24T00:00:00Z"}, "when", ["2026-11-24T00:00:00Z"]),
        ({"flag": True}, "flag", []),
        ({"gone": None}, "gone", []),
        ({"gone": [None, "here"]}, "gone", ["here"]),
        ({"blank": ["", "  "]}, "blank", []),
        ({"object": {"a": "b"}}, "object", []),
        ({"place": {"lat": 1.5, "lon": 2}}, "place", []),
        ({"place": {"lat": 1.5, "lon": 2}}, "place.lat", ["1.5"]),
        ({"place": "POINT (1 2)"}, "place", ["POINT (1 2)"]),
        ({"far": float("inf"), "none": float("nan")}, "far", []),
        ({"title": "x"}, "body", []),
        ({"title": "x"}, "title.keyword", []),
        ([], "title", []),
        (None, "title", []),
        ("text", "title", []),
    ],
)
def test_every_spelling_of_a_field_is_reached_and_what_is_no_text_is_passed_over(
    document: Any, path: str, expected: list[str]
) -> None:
    assert list(values(document, path)) == expected


def test_null_is_there_and_an_empty_list_is_not() -> None:
    assert list(nodes({"a": None, "b": []}, "a")) == [None]
    assert list(nodes({"a": None, "b": []}, "b")) == []


def test_binary_is_no_text_and_a_long_word_is() -> None:
    encoded = base64.b64encode(bytes(range(256)) * 8).decode()
    assert list(values({"file": encoded}, "file")) == []
    assert list(values({"file": base64.b64encode(os.urandom(5000)).decode()}, "file")) == []
    assert list(values({"file": "a" * 5000}, "file")) == ["a" * 5000]
    words = "See A1 and b2. " * 200
    assert list(values({"file": words}, "file")) == [words.strip()]


def test_ten_megabytes_are_cut_at_once() -> None:
    started = time.process_time()
    (text,) = values({"body": "word " * 2_000_000}, "body")
    assert len(text) <= MAX_CHARS
    assert time.process_time() - started < 0.5


def test_a_million_values_are_not_all_looked_at() -> None:
    assert len(list(values({"tags": ["x"] * 1_000_000}, "tags"))) == 100_000
    assert list(values({"tags": [None] * 1_000_000 + ["x"]}, "tags")) == []


def test_lists_within_lists_are_looked_into_only_so_far() -> None:
    deep: Any = "deepest"
    for _ in range(10_000):
        deep = [deep]
    assert list(values({"a": deep}, "a")) == []


@given(anything, st.sampled_from(["a", "b", "a.b", "a.b.a", ""]))
def test_any_document_is_read(document: Any, path: str) -> None:
    assert all(text.strip() for text in values(document, path))
