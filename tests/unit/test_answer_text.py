"""Hits are cut out of the engine's answer and put elsewhere without a character changed."""

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors import Hits, MalformedAnswer
from connectors.answer_text import AnswerText

ANSWER = (
    '{ "took":1.0E0,"hits" : {"total":{"value":2},\n "hits":[ {"_index":"a","_id":"1","_score":1e0,"n":1.50},'
    '\t{"_index":"a","_id":"2","_score":1E999999,"big":123456789012345678901234567890,"s":"\\ud83d\\u00e9]}"} ],'
    '"max_score":1.0} , "aggregations":{"hits":{"hits":[{"_id":"no hit"}]}}}\n'
)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["hits", "a", 'q"\\', "é"]), inner, max_size=4)
    ),
    max_leaves=20,
)


def test_a_page_keeps_every_character_of_its_hits_and_of_what_surrounds_them() -> None:
    answer = AnswerText(ANSWER)
    first, second = (ANSWER[start:end] for start, end in answer.hits)
    assert answer.with_hits([1, 0]) == ANSWER.replace(f"{first},\t{second} ", f"{second},{first}").replace("[ {", "[{")
    assert answer.with_hits([]) == ANSWER[: ANSWER.index("[ {") + 1] + ANSWER[ANSWER.index("],") :]


def test_numbers_that_python_would_write_in_another_way_stay() -> None:
    page = AnswerText(ANSWER).with_hits([0, 1])
    for spelled in ('"took":1.0E0', '"n":1.50', "1E999999", "123456789012345678901234567890", "\\ud83d\\u00e9]}"):
        assert spelled in page


def test_of_a_key_that_is_there_twice_the_last_one_counts() -> None:
    text = '{"hits":{"hits":[{"a":1}]},"hits":{"hits":[{"b":1},{"c":1}],"hits":[{"d":[]},{"e":{}}]}}'
    answer = AnswerText(text)
    assert answer.value == json.loads(text)
    assert json.loads(answer.with_hits([1, 0]))["hits"]["hits"] == [{"e": {}}, {"d": []}]


@pytest.mark.parametrize("last", ['{"hits":{"hits":7}}', '{"hits":[]}', '{"hits":{}}', '{"took":1}', "[]", "3"])
def test_an_answer_without_a_list_of_hits_has_no_pages(last: str) -> None:
    answer = AnswerText(last)
    assert (answer.value, answer.hits) == (json.loads(last), ())
    with pytest.raises(ValueError, match=r"no `hits\.hits` list"):
        answer.with_hits([])


def test_a_later_list_of_another_kind_forgets_the_hits_before_it() -> None:
    assert AnswerText('{"hits":{"hits":[{"a":1}]},"hits":{}}').hits == ()


@given(json_values, st.sampled_from([None, 1, "\t"]))
def test_any_json_is_read_as_by_the_standard_library(value: Any, indent: int | str | None) -> None:
    text = json.dumps(value, indent=indent)
    answer = AnswerText(text)
    assert answer.value == json.loads(text)
    if answer.hits:
        assert json.loads(answer.with_hits(range(len(answer.hits)))) == json.loads(text)


@given(st.integers(0, len(ANSWER) - 1), st.sampled_from(["", " ", ",", "}", "]", "[", "{", '"', ":", "0", "\x00"]))
def test_a_damaged_answer_is_refused_exactly_where_the_standard_library_refuses_it(place: int, damage: str) -> None:
    text = ANSWER[:place] + damage + ANSWER[place + 1 :]
    try:
        expected = json.loads(text)
    except ValueError:
        with pytest.raises(ValueError):  # noqa: PT011 - each has its own words
            AnswerText(text)
    else:
        assert AnswerText(text).value == expected


def test_a_deeply_nested_answer_is_malformed_and_not_fatal() -> None:
    with pytest.raises(MalformedAnswer, match="not complete JSON"):
        Hits.read('{"hits":{"hits":[' + "[" * 100_000)


def test_reading_costs_little_more_than_the_standard_library() -> None:
    row = {"_index": "a", "_id": "1", "_score": 1.0, "_source": {"text": "word " * 400, "tags": ["a", "b"]}}
    text = json.dumps({"took": 1, "hits": {"hits": [row] * 1000}})

    def fastest(read: Any) -> float:
        times = []
        for _ in range(5):
            started = time.perf_counter()
            read(text)
            times.append(time.perf_counter() - started)
        return min(times)

    assert fastest(AnswerText) < 3 * fastest(json.loads)


@pytest.mark.parametrize("extra", ["/* why */", "// why\n", "\ufeff", '/* " */'])
def test_what_engines_take_beyond_json_becomes_blanks(extra: str) -> None:
    text = f'{{"hits":{{"hits":[{{"_id":"1"{extra}}},{{"_id":"/* 2 // \ufeff"}}]}}}}'
    answer = AnswerText(text)
    assert [row["_id"] for row in answer.value["hits"]["hits"]] == ["1", "/* 2 // \ufeff"]
    assert json.loads(answer.with_hits([1, 0]))["hits"]["hits"] == [{"_id": "/* 2 // \ufeff"}, {"_id": "1"}]
