"""From stored documents to passages."""

from typing import Any

import pytest

from sidecar.settings import Passages, TextSettings
from sidecar.text import clean, has_text, passages, split, values
from sidecar.types import Candidate


def text(**settings: Any) -> TextSettings:
    return TextSettings.model_validate({"fields": ["title", "body"], **settings})


@pytest.mark.parametrize(
    ("source", "path", "expected"),
    [
        ({"title": " Apple "}, "title", ["Apple"]),
        ({"tags": ["a", "b", "c"]}, "tags", ["a", "b", "c"]),
        ({"author": {"name": "Ada"}}, "author.name", ["Ada"]),
        ({"author": [{"name": "Ada"}, {"name": "Bob"}]}, "author.name", ["Ada", "Bob"]),
        ({"author.name": "Ada"}, "author.name", ["Ada"]),
        ({"author.name": {"first": "Ada"}}, "author.name.first", ["Ada"]),
        ({"year": 1998, "price": 9.5}, "year", ["1998"]),
        ({"flag": True}, "flag", []),
        ({"gone": None}, "gone", []),
        ({"object": {"a": "b"}}, "object", []),
        ({"title": "x"}, "body", []),
        ([], "title", []),
    ],
)
def test_values_reaches_every_spelling_of_a_field(source: Any, path: str, expected: list[str]) -> None:
    assert values(source, path) == expected


def test_fields_come_in_policy_order_with_labels_and_all_their_values() -> None:
    settings = text(fields=[{"name": "title", "label": "Title: "}, "tags"], separator=" | ")
    source = {"tags": ["red", "green"], "title": "Apples"}
    assert passages(Candidate(0), source, settings) == ["Title: Apples | red | green"]


def test_a_missing_field_leaves_neither_label_nor_separator() -> None:
    settings = text(fields=[{"name": "title", "label": "Title: "}, "body"])
    assert passages(Candidate(0), {"body": "text"}, settings) == ["text"]


def test_a_field_is_cut_at_its_own_limit() -> None:
    settings = text(fields=[{"name": "title", "max_chars": 3}, "body"])
    assert passages(Candidate(0), {"title": "abcdef", "body": "x"}, settings) == ["abc\nx"]


def test_the_callers_own_text_wins_over_the_document() -> None:
    assert passages(Candidate(0, text="given"), {"title": "stored"}, text()) == ["given"]


@pytest.mark.parametrize("source", [None, {}, {"title": ""}, {"title": "  \x00 "}, {"other": "x"}])
def test_nothing_to_read_gives_no_passage(source: dict[str, Any] | None) -> None:
    assert passages(Candidate(0), source, text()) == []


def test_has_text_tells_whether_a_fetch_is_needed() -> None:
    assert has_text({"body": "x"}, text())
    assert not has_text({"other": "x"}, text())
    assert not has_text(None, text())


def test_nul_and_lone_surrogates_become_spaces() -> None:
    assert clean("a\x00b\ud800c") == "a b c"


def test_long_text_becomes_overlapping_passages_that_end_with_the_text() -> None:
    words = Passages.model_construct(words=4, stride=2, max_passages=10)
    assert split("a b c d e f g", words) == ["a b c d", "c d e f", "e f g"]
    assert split("a  b\nc", words) == ["a  b\nc"]


def test_passages_of_a_document_are_bounded() -> None:
    settings = text(passages={"words": 8, "stride": 8, "max_passages": 2})
    long = " ".join(map(str, range(100)))
    found = passages(Candidate(0, text=long), None, settings)
    assert found == ["0 1 2 3 4 5 6 7", "8 9 10 11 12 13 14 15"]
