"""What is known of the hits' text before they are there."""

import time
from typing import Any

import pytest

from sidecar.source_filter import carries
from sidecar.text_settings import TextSettings

NAMES = ("title", "author.name")


def settings(**changes: Any) -> TextSettings:
    return TextSettings.model_validate({"fields": NAMES, **changes})


@pytest.mark.parametrize(
    ("body", "params", "whole"),
    [
        ({}, {}, NAMES),
        ({"_source": True}, {}, NAMES),
        ({"_source": False}, {}, ()),
        ({"_source": ["title", "author"]}, {}, NAMES),
        ({"_source": ["title", "author.*"]}, {}, NAMES),
        ({"_source": ["title"]}, {}, ["title"]),
        ({"_source": "*"}, {}, NAMES),
        ({"_source": []}, {}, ()),
        ({"_source": None}, {}, ()),
        ({"_source": 5}, {}, ()),
        ({"_source": {"includes": ["*"]}}, {}, NAMES),
        ({"_source": {"includes": ["title"]}}, {}, ["title"]),
        ({"_source": {"excludes": ["body"]}}, {}, NAMES),
        ({"_source": {"excludes": ["titles", "author.names"]}}, {}, NAMES),
        ({"_source": {"excludes": ["author"]}}, {}, ["title"]),
        ({"_source": {"excludes": ["author.*"]}}, {}, ["title"]),
        ({"_source": {"excludes": ["title.*", "author.name.first"]}}, {}, ()),
        ({"_source": {"excludes": ["*.name"]}}, {}, ()),
        ({"_source": {"exclude": "ti*"}}, {}, ["author.name"]),
        ({"_source": {"includes": ["title", "author"], "excludes": ["author.name"]}}, {}, ["title"]),
        ({"stored_fields": ["title"]}, {}, ()),
        ({"script_fields": {"one": {"script": "1"}}}, {}, ()),
        ({"script_fields": {"one": {"script": "1"}}, "_source": True}, {}, NAMES),
        ({"stored_fields": ["title"], "_source": ["title"]}, {}, ["title"]),
        ({}, {"_source": "title"}, ()),
        ({}, {"_source_excludes": "title"}, ()),
        ({}, {"stored_fields": "title"}, ()),
        ({}, {"routing": "x"}, NAMES),
    ],
)
def test_a_field_is_whole_only_where_the_source_is_sure_to_hold_it(body: Any, params: Any, whole: Any) -> None:
    found = carries(body, params, settings())
    assert found.is_known
    assert found.whole == set(whole)


def test_more_patterns_than_are_looked_at_leave_a_field_in_doubt() -> None:
    others = [f"other{number}" for number in range(1000)]
    for body, whole in (
        ({"_source": {"excludes": others}}, set(NAMES)),
        ({"_source": {"excludes": [*others, "more"]}}, set()),
        ({"_source": ["title", *others, "author"]}, {"title"}),
        ({"_source": {"includes": [*others[1:], "title", "author"]}}, {"title"}),
    ):
        assert carries(body, {}, settings()).whole == whole
    assert carries({"fields": ["title", *others, "author.*"]}, {}, settings()).asked == {"title"}


def test_a_hostile_body_takes_no_time() -> None:
    many = [f"<t{number}>" for number in range(300_000)]
    fields = {f"f{number}": {"pre_tags": ["<b>"]} for number in range(100_000)}
    started = time.perf_counter()
    found = carries({"_source": {"includes": many, "excludes": many}, "fields": many}, {}, settings())
    tags = carries({"highlight": {"pre_tags": many, "fields": fields}}, {}, settings()).tags
    assert time.perf_counter() - started < 0.1
    assert not found.whole
    assert not found.asked
    assert set(tags) == {*many[:64], "<em>", "</em>"}


def test_the_same_tags_of_many_fields_count_once() -> None:
    tags = {"pre_tags": ["<b>"], "post_tags": ["</b>"]}
    fields = {f"f{number}": tags for number in range(200)} | {"last": {"pre_tags": ["[["]}}
    found = carries({"highlight": {"fields": fields}}, {}, settings()).tags
    assert set(found) == {"<em>", "</em>", "<b>", "</b>", "[["}


@pytest.mark.parametrize(
    ("fields", "asked"),
    [
        (["title"], {"title"}),
        (["*"], set(NAMES)),
        (["author.*", {"field": "title", "format": "yyyy"}], set(NAMES)),
        ([{"field": "a*"}], {"author.name"}),
        ("title", {"title"}),
        (["author"], set()),
        ([5, None, {"format": "x"}], set()),
        ({"title": 1}, set()),
        (None, set()),
    ],
)
def test_a_pattern_of_fields_asks_for_the_policys_fields_that_it_matches(fields: Any, asked: set[str]) -> None:
    assert carries({"_source": False, "fields": fields}, {}, settings()).asked == asked


def test_fields_are_not_counted_where_the_policy_does_not_read_them() -> None:
    assert carries({"fields": ["*"]}, {}, settings(sources=["source"])).asked == frozenset()


@pytest.mark.parametrize(
    ("highlight", "tags"),
    [
        (None, set()),
        ({"fields": {"title": {}}}, set()),
        ({"pre_tags": ["<b>"], "post_tags": ["</b>"], "fields": {"title": {}}}, {"<b>", "</b>"}),
        ({"fields": {"title": {"pre_tags": ["[["], "post_tags": "]]"}}}, {"[[", "]]"}),
        ({"fields": [{"title": {"pre_tags": ["<i>", ""]}}, "x"]}, {"<i>"}),
        ({"tags_schema": "styled"}, {f'<em class="hlt{level}">' for level in range(1, 11)}),
        ("ill-formed", set()),
    ],
)
def test_the_tags_of_a_highlight_are_the_apps_own_and_the_engines(highlight: Any, tags: set[str]) -> None:
    found = carries({"highlight": highlight}, {}, settings()).tags
    assert set(found) == tags | {"<em>", "</em>"}
    assert list(found) == sorted(found, key=len, reverse=True), "a tag within a tag would leave a rest"
