"""Objects of a document as passages of their own."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from sidecar.text import lacks_text, passages
from sidecar.text_settings import TextSettings
from sidecar.types import Candidate, Carried

FIELDS = [{"name": "title", "label": "Title: "}, "comments.text", {"name": "comments.by", "label": "by "}, "tags"]
COMMENTS = [{"text": "first", "by": "Ann"}, {"by": "Bob"}, {"other": "x"}, {"text": ["third", "more"]}]
SOURCE = {"title": "Pies", "comments": COMMENTS, "tags": ["red", "blue"]}


def settings(**changes: Any) -> TextSettings:
    return TextSettings.model_validate({"fields": FIELDS, "nested": "comments", **changes})


def read(raw: dict[str, Any], **changes: Any) -> list[str]:
    candidate = Candidate(0, source=raw.get("_source"), hit=raw)
    return passages(candidate, candidate.source, settings(separator=" | ", **changes))


def inner(*rows: dict[str, Any]) -> dict[str, Any]:
    return {"hits": {"hits": list(rows)}}


def row(offset: int, **content: Any) -> dict[str, Any]:
    return {"_nested": {"field": "comments", "offset": offset}, **content}


def test_each_object_is_read_together_with_the_fields_outside() -> None:
    assert read({"_source": SOURCE}) == [
        "Title: Pies | first | by Ann | red | blue",
        "Title: Pies | by Bob | red | blue",
        "Title: Pies | third | more | red | blue",
    ]


def test_objects_of_one_document_are_bounded() -> None:
    found = read({"_source": SOURCE}, nested={"path": "comments", "max_passages": 2})
    assert [text.split(" | ")[1] for text in found] == ["first", "by Bob"]


@pytest.mark.parametrize("comments", [None, [], [None], [{}], [{"text": " "}], "no object", [["x"]]])
def test_without_objects_the_fields_outside_are_the_passage(comments: Any) -> None:
    assert read({"_source": {**SOURCE, "comments": comments}}) == ["Title: Pies | red | blue"]


def test_a_single_object_needs_no_list() -> None:
    assert read({"_source": {"comments": {"text": "alone"}}}) == ["alone"]


def test_objects_are_reached_through_objects() -> None:
    found = read(
        {"_source": {"post": [{"comments": [{"text": "a"}]}, {"comments": {"text": "b"}}]}},
        fields=["post.comments.text"],
        nested="post.comments",
    )
    assert found == ["a", "b"]


def test_inner_hits_are_read_only_where_the_policy_says_so() -> None:
    raw = {"_source": SOURCE, "inner_hits": {"best": inner(row(3, _source={"text": "third"}))}}
    assert len(read(raw)) == 3
    assert read(raw, sources=["source", "inner_hits"]) == ["Title: Pies | third | red | blue"]


@pytest.mark.parametrize(
    "content",
    [
        {"_source": {"text": "third", "by": "Cy"}},
        {"fields": {"comments.text": ["third"], "comments.by": ["Cy"]}},
        {"fields": {"comments": [{"text": ["third"], "by": ["Cy"]}]}},
        {"_source": {"text": "third"}, "fields": {"comments.by": ["Cy"]}},
    ],
)
def test_an_inner_hit_is_read_however_it_holds_its_object(content: dict[str, Any]) -> None:
    raw = {"_source": {"title": "Pies"}, "inner_hits": {"comments": inner(row(0, **content))}}
    assert read(raw, sources=["source", "inner_hits"]) == ["Title: Pies | third | by Cy"]


def test_an_inner_hit_without_content_is_the_object_at_its_place() -> None:
    raw = {"_source": SOURCE, "inner_hits": {"comments": inner(row(3), row(0))}}
    found = read(raw, sources=["source", "inner_hits"])
    assert [text.split(" | ")[1] for text in found] == ["third", "first"]


def test_inner_hits_of_a_collapse_or_of_another_path_are_not_the_objects() -> None:
    group = {"_index": "i", "_id": "2", "_source": {"title": "other", "comments": [{"text": "foreign"}]}}
    other = {"_nested": {"field": "replies", "offset": 0}, "_source": {"text": "foreign"}}
    below = {"_nested": {"field": "comments", "offset": 0, "_nested": {"field": "replies", "offset": 0}}}
    raw = {
        "_source": SOURCE,
        "inner_hits": {
            "comments": inner(group),
            "b": inner(other),
            "c": inner({**below, "_source": {"text": "foreign"}}),
        },
    }
    found = read(raw, sources=["source", "inner_hits"])
    assert len(found) == 3
    assert not any("foreign" in text for text in found)


def test_a_match_within_nested_objects_is_reached_by_its_whole_path() -> None:
    where = {"field": "comments", "offset": 3, "_nested": {"field": "replies", "offset": 1}}
    raw = {"inner_hits": {"x": inner({"_nested": where, "_source": {"text": "deep"}})}}
    assert read(raw, sources=["source", "inner_hits"], fields=["comments.replies.text"], nested="comments.replies") == [
        "deep"
    ]


def test_without_nested_inner_hits_give_the_text_of_their_field() -> None:
    raw = {"inner_hits": {"c": inner(row(1, _source={"text": "b"}), row(0, _source={"text": "a"}))}}
    changes = {"sources": ["source", "inner_hits"], "nested": None}
    assert read(raw, **changes) == ["b | a"]


LEFT_OUT = Carried(asked=frozenset({"title", "comments.text", "comments.by", "tags"}))


@pytest.mark.parametrize(
    ("fields", "lacks"),
    [
        ({"title": ["x"], "comments": [{"text": ["a"], "by": ["b"]}]}, False),
        ({"title": ["x"], "comments.text": ["a", "c"], "comments.by": ["b"]}, True),
        ({"title": ["x"]}, True),
    ],
)
def test_values_that_no_longer_show_their_objects_are_fetched(fields: dict[str, Any], lacks: bool) -> None:
    """OpenSearch writes nested fields flat in ``fields``; which values belong together cannot be seen there."""
    assert lacks_text(Candidate(0, carried=LEFT_OUT, hit={"fields": fields}), settings()) is lacks


def test_inner_hits_save_the_fetch_where_the_policy_reads_them() -> None:
    content = {"text": "a", "by": "b"}
    raw = {"fields": {"title": ["x"], "tags": ["y"]}, "inner_hits": {"comments": inner(row(0, _source=content))}}
    candidate = Candidate(0, carried=Carried(), hit=raw)
    assert lacks_text(candidate, settings())
    assert not lacks_text(candidate, settings(sources=["source", "fields", "inner_hits"]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"passages": {"words": 10, "stride": 5}}, "excludes `passages`"),
        ({"nested": "replies"}, "none of the `fields` lies in it; name one, such as `replies.text`"),
        ({"nested": "comment"}, "none of the `fields` lies in it"),
        ({"sources": ["fields"]}, "`source` is missing"),
        ({"sources": ["source", "source"]}, "twice"),
        ({"sources": ["source", "highlights"]}, "'source', 'fields', 'highlight' or 'inner_hits'"),
        ({"mean_of_top": 5}, "5 exceeds the passages of a document (4)"),
        ({"nested": {"path": "comments", "max_passages": 0}}, "greater than or equal to 1"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as refused:
        settings(**changes)
    assert message in str(refused.value)


json = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 3) | st.text(max_size=3),
    lambda part: (
        st.lists(part, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["comments", "comments.text", "text", "hits", "_nested", "field", "offset", "_source", "fields"]
            ),
            part,
            max_size=4,
        )
    ),
    max_leaves=30,
)


@given(json, json, json, json)
def test_a_hit_of_any_shape_is_read(source: Any, fields: Any, highlight: Any, inner_hits: Any) -> None:
    raw = {"_source": source, "fields": fields, "highlight": highlight, "inner_hits": inner_hits}
    every = settings(sources=["source", "fields", "highlight", "inner_hits"])
    candidate = Candidate(0, source=source if isinstance(source, dict) else None, carried=Carried(), hit=raw)
    lacks_text(candidate, every)
    assert all(text.strip() for text in passages(candidate, candidate.source, every))
