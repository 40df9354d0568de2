"""From stored documents to passages."""

from typing import Any

import pytest

from sidecar.text import clean, lacks_text, passages, split
from sidecar.text_settings import Passages, TextSettings
from sidecar.types import Candidate, Carried


def text(**settings: Any) -> TextSettings:
    return TextSettings.model_validate({"fields": ["title", "body"], **settings})


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


def hit(carried: Carried = Carried.UNKNOWN, **raw: Any) -> Candidate:
    return Candidate(0, source=raw.get("_source"), carried=carried, hit=raw)


def test_a_missing_field_is_not_scored_as_an_empty_one() -> None:
    """OpenSearch's reranker puts "" for a field that is not there, which scores like any other text."""
    assert passages(hit(_source={"other": "x"}), {"other": "x"}, text(fields=[{"name": "title", "label": "T: "}])) == []


def test_fields_are_not_run_together() -> None:
    """OpenSearch's reranker joins fields with nothing between them."""
    assert passages(Candidate(0), {"title": "Apple", "body": "pie"}, text()) == ["Apple\npie"]


def test_of_several_values_none_is_left_out() -> None:
    """OpenSearch's reranker reads the first value of a list alone."""
    assert passages(Candidate(0), {"title": ["Apple", ["pie"]], "body": [1, None]}, text()) == ["Apple\npie\n1"]


def test_html_is_stripped_where_it_is_asked_for() -> None:
    settings = text(fields=["title", {"name": "body", "html": True, "max_chars": 9}])
    source = {"title": "<b>", "body": ["<p>ap<b>ple</b></p>", "<br>", "<i>pie and tart</i>"]}
    assert passages(Candidate(0), source, settings) == ["<b>\napple\npie"]


@pytest.mark.parametrize(
    ("sources", "expected"),
    [
        (["source", "fields"], "stored\nfrom fields"),
        (["fields", "source"], "field\nfrom fields"),
        (["highlight", "source"], "a marked fragment\nanother"),
        (["source"], "stored"),
    ],
)
def test_a_fields_text_is_that_of_the_first_section_with_some(sources: list[str], expected: str) -> None:
    candidate = hit(
        _source={"title": "stored"},
        fields={"title": ["field"], "body": ["from fields"]},
        highlight={"title": ["a <em>marked</em> fragment", "<em>another</em>"]},
    )
    assert passages(candidate, candidate.source, text(sources=sources)) == [expected]


def test_what_an_index_ignored_is_still_text() -> None:
    candidate = hit(fields={"title": ["short"]}, ignored_field_values={"title": ["too long for a keyword"]})
    assert passages(candidate, None, text()) == ["short\ntoo long for a keyword"]


def test_the_apps_own_tags_are_taken_out_of_fragments() -> None:
    tags = Carried(tags=("<b><i>", "<b>"))
    candidate = hit(tags, highlight={"title": ["<b><i>a <b>b <em>c"]})
    assert passages(candidate, None, text(sources=["source", "highlight"])) == ["a b <em>c"]


WHOLE, FILTERED = Carried(frozenset({"title", "body"})), Carried()
ASKED = Carried(asked=frozenset({"title", "body"}))


@pytest.mark.parametrize(
    ("candidate", "lacks"),
    [
        (hit(WHOLE, _source={}), False),
        (hit(WHOLE), False),
        (hit(FILTERED, _source={"title": "x"}), True),
        (hit(FILTERED, _source={"title": "x", "body": "y"}), False),
        (hit(FILTERED, _source={"title": "x", "body": None}), False),
        (hit(FILTERED, _source={"title": "x"}, fields={"body": ["y"]}), False),
        (hit(FILTERED, highlight={"title": ["x"], "body": ["y"]}), True),
        (hit(ASKED, fields={"title": ["x"]}), False),
        (hit(ASKED), True),
        (hit(Carried(frozenset({"title"}), frozenset({"body"})), _source={}), False),
        (hit(Carried(frozenset({"title"})), _source={"title": "x"}), True),
        (hit(_source={"body": "x"}), False),
        (hit(_source={"other": "x"}), True),
        (hit(fields={"body": ["x"]}), False),
        (Candidate(0), True),
        (Candidate(0, text="x"), False),
    ],
)
def test_only_what_may_be_missing_from_a_hit_is_fetched(candidate: Candidate, lacks: bool) -> None:
    assert lacks_text(candidate, text()) is lacks


def test_fragments_save_the_fetch_where_the_policy_reads_them() -> None:
    candidate = hit(FILTERED, highlight={"title": ["x"], "body": ["y"]})
    assert not lacks_text(candidate, text(sources=["source", "highlight"]))
