"""Which searches are widened, how, and which are left alone."""

from typing import Any

import pytest

from sidecar.errors import InvalidRequest
from sidecar.types import Reason
from sidecar.window import Page, is_refused, page_of, request, sizes_itself, skip_reason


def test_the_body_is_passed_on_untouched_but_for_from_and_size() -> None:
    body = {"query": {"match": {"a": "b"}}, "from": 10, "size": 5, "aggs": {}, "_source": False}
    sent = request("a", body, {"preference": "x"}, Page(10, 5), 100)
    assert sent.body == {**body, "from": 0, "size": 100}
    assert sent.params == {"preference": "x"}
    assert sent.changes == ("from: 10 -> 0", "size: 5 -> 100")
    assert body["from"] == 10, "the caller's own object is never changed"


def test_a_page_across_the_end_of_the_window_is_brought_whole() -> None:
    assert request("a", {}, {}, Page(95, 20), 100).body == {"from": 0, "size": 115}


def test_a_search_that_is_not_reranked_is_not_touched_at_all() -> None:
    body = {"from": 200, "sort": ["date"]}
    sent = request("a", body, {"size": "7"}, Page(200, 7), None)
    assert sent.body is body
    assert sent.params == {"size": "7"}
    assert sent.first_rank == 200
    assert sent.changes == ()


def test_url_parameters_win_over_the_body_and_move_into_it() -> None:
    params = {"from": "20", "size": "3", "routing": "r"}
    page = page_of({"from": 1, "size": 1}, params)
    assert page == Page(20, 3)
    assert request("a", {}, params, page, 50).params == {"routing": "r"}


@pytest.mark.parametrize("body", [{"size": -1}, {"size": 1.5}, {"size": True}, {"size": "ten"}, {"from": [1]}])
def test_a_page_that_is_no_page_is_refused_by_name(body: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match=next(iter(body))):
        page_of(body, {})


@pytest.mark.parametrize("name", ["filter_path", "format", "source", "source_content_type"])
def test_parameters_that_would_hide_the_answer_are_refused(name: str) -> None:
    with pytest.raises(InvalidRequest, match=name):
        page_of({}, {name: "x"})


@pytest.mark.parametrize(
    ("body", "params", "reason"),
    [
        ({}, {}, None),
        ({"sort": "_score"}, {}, None),
        ({"sort": ["_score", "date"]}, {}, None),
        ({"sort": [{"_score": "desc"}, {"date": "asc"}]}, {}, None),
        ({"sort": {"_score": {"order": "desc"}}}, {}, None),
        ({"sort": []}, {}, None),
        ({}, {"sort": "_score:desc,date:asc"}, None),
        ({"sort": "date"}, {}, Reason.NOT_RELEVANCE_SORTED),
        ({"sort": [{"date": "desc"}, "_score"]}, {}, Reason.NOT_RELEVANCE_SORTED),
        ({"sort": {"_score": "asc"}}, {}, Reason.NOT_RELEVANCE_SORTED),
        ({"sort": [{"_score": {"order": "asc"}}]}, {}, Reason.NOT_RELEVANCE_SORTED),
        ({}, {"sort": "date:asc"}, Reason.NOT_RELEVANCE_SORTED),
        ({"search_after": [1]}, {}, Reason.NOT_RELEVANCE_SORTED),
        ({}, {"scroll": "1m"}, Reason.NOT_RELEVANCE_SORTED),
        ({"slice": {"id": 0, "max": 2}}, {}, Reason.NOT_RELEVANCE_SORTED),
        ({"size": 0}, {}, Reason.NO_CANDIDATES),
        ({"from": 100}, {}, Reason.BEYOND_WINDOW),
        ({"from": 99}, {}, None),
    ],
)
def test_skipped_not_spoilt(body: dict[str, Any], params: dict[str, str], reason: Reason | None) -> None:
    assert skip_reason(body, params, page_of(body, params), 100) == reason


def test_a_point_in_time_is_sent_without_an_index() -> None:
    sent = request("articles", {"pit": {"id": "x"}}, {}, Page(0, 10), 100)
    assert sent.index == ""
    assert sent.changes == ("index: articles -> none, the point in time names it", "size: 10 -> 100")
    assert request("articles", {}, {}, Page(0, 10), None).index == "articles"


def test_shards_that_refuse_the_window_are_noticed_and_other_failures_are_the_engines_own() -> None:
    reason = {"type": "illegal_argument_exception", "reason": "... limited by the [index.max_result_window] setting"}
    assert is_refused({"_shards": {"failed": 1, "failures": [{"shard": 0, "index": "small", "reason": reason}]}})
    assert not is_refused({"_shards": {"failed": 1, "failures": [{"reason": {"type": "query_shard_exception"}}]}})
    assert not is_refused({"_shards": {"failed": 0}})
    assert not is_refused({})


@pytest.mark.parametrize(
    ("body", "params", "expected"),
    [
        ({"retriever": {"rrf": {"rank_window_size": 50}}}, {}, True),
        ({"retriever": {"rrf": {}}, "size": 5}, {}, False),
        ({"retriever": {"rrf": {}}}, {"size": "5"}, False),
        ({"retriever": {"standard": {}}}, {}, False),
        ({"retriever": {"knn": {"k": 3}}}, {}, False),
        ({"retriever": "ill-formed"}, {}, False),
        ({"query": {"match": {"retriever": "rrf"}}}, {}, False),
    ],
)
def test_a_compound_retriever_without_a_size_decides_itself(
    body: dict[str, Any], params: dict[str, str], expected: bool
) -> None:
    assert sizes_itself(body, params) is expected


@pytest.mark.parametrize(
    ("rescore", "window"),
    [
        ({"window_size": 30}, 30),
        ({"query": {}}, 10),
        ([{"window_size": 80}, {"window_size": 40}], 40),
        ({"window_size": 500}, 100),
        ([], 100),
    ],
)
def test_no_more_is_reranked_than_the_engine_has_rescored(rescore: Any, window: int) -> None:
    body = {"rescore": rescore}
    sent = request("a", body, {}, Page(0, 5), 100)
    assert (sent.body["size"], sent.window) == (window, window)
    assert skip_reason(body, {}, Page(window, 5), 100) is Reason.BEYOND_WINDOW
    assert request("a", body, {}, Page(0, 120), 100).body["size"] == 120
