"""What goes over the wire: targets, headers and bodies, byte for byte where it matters."""

import json
import logging
import subprocess
import sys
from base64 import b64decode
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qsl, unquote

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from connectors import DocumentRef, InvalidQuery, Json, MalformedAnswer
from connectors.attempts import Call
from connectors.elasticsearch import ElasticsearchConnector
from connectors.options import HttpOptions
from connectors.wire import check_index, decode, encode, read_documents, read_info, search_target
from tests.connector_fixtures import EMPTY_ANSWER, HTTP_KINDS, always, connect, json_answer, serving, serving_bytes

CALL = Call("test", "trying")
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)
ANY_TEXT = st.text(st.characters(exclude_categories=()))


@given(ANY_TEXT)
def test_an_index_is_one_segment_or_refused(index: str) -> None:
    with suppress(InvalidQuery):
        empty, segment, operation = search_target(CALL, index, None).split("/")
        assert (empty, operation) == ("", "_search")
        assert segment not in ("", ".", "..")
        assert not set(segment) & set("?#\\ ")
        assert unquote(segment) == index


@given(st.dictionaries(st.text(), st.text(), max_size=5))
def test_parameters_are_those_given(params: dict[str, str]) -> None:
    path, _, query = search_target(CALL, "books", params).partition("?")
    assert path == "/books/_search"
    assert dict(parse_qsl(query, keep_blank_values=True)) == params


@given(st.dictionaries(ANY_TEXT, VALUES | ANY_TEXT, max_size=5))
def test_any_json_is_encoded_whole(body: Json) -> None:
    assert decode(CALL, encode(CALL, body)) == body


@given(st.binary() | st.text().map(str.encode))
def test_any_answer_is_read_or_malformed(body: bytes) -> None:
    with suppress(MalformedAnswer):
        assert isinstance(decode(CALL, body), dict)


@given(VALUES, st.integers(0, 3))
def test_any_mget_answer_is_read_or_malformed(docs: Any, asked: int) -> None:
    refs = [DocumentRef("books", str(number)) for number in range(asked)]
    try:
        assert read_documents(CALL, refs, {"docs": docs}).keys() <= set(refs)
    except MalformedAnswer:
        assert not isinstance(docs, list)


@pytest.mark.parametrize("index", ["_all", "_all,-x", "a,b*", "*", "-a", "<a-{now/d}>", "remote:a", ".hidden"])
def test_index_expressions(index: str) -> None:
    check_index(CALL, index)


def test_a_point_in_time_needs_no_index() -> None:
    assert search_target(CALL, "", {"typed_keys": "true"}, pit=True) == "/_search?typed_keys=true"
    with pytest.raises(InvalidQuery):
        search_target(CALL, "", None)
    with pytest.raises(InvalidQuery):
        search_target(CALL, "_scripts", None, pit=True)


@pytest.mark.parametrize("index", ["\ud800", "a\udfff"])
def test_no_url_carries_a_lone_surrogate(index: str) -> None:
    with pytest.raises(InvalidQuery) as caught:
        search_target(CALL, index, None)
    assert "lone surrogate" in caught.value.reason
    with pytest.raises(InvalidQuery):
        search_target(CALL, "books", {"preference": index})


def nested() -> Json:
    body: Json = {}
    for _ in range(100_000):
        body = {"bool": body}
    return body


@pytest.mark.parametrize("body", [{"x": float("nan")}, {"x": float("inf")}, {"x": {1}}, {(1, 2): 1}, nested()])
def test_what_is_no_json_is_refused(body: Json) -> None:
    with pytest.raises(InvalidQuery):
        encode(CALL, body)


def test_a_pair_by_id_needs_to_be_the_only_one() -> None:
    refs = [DocumentRef("a", "1", "x"), DocumentRef("a", "1", "y"), DocumentRef("a", "2")]
    docs = [{"_index": "a", "_id": key, "found": True, "_source": {"n": key}} for key in ("1", "2")]
    assert read_documents(CALL, refs, {"docs": docs}) == {refs[2]: {"n": "2"}}


@pytest.mark.parametrize("answer", [{}, {"version": "8"}, {"version": {}}, {"version": {"number": 8}}])
def test_info_needs_a_version(answer: Json) -> None:
    with pytest.raises(MalformedAnswer):
        read_info(CALL, answer)


BODY: Json = {
    "query": {"bool": {"should": [{"match": {"title": {"query": "東京 🚗 \ud83d \x00 \u2028", "boost": 1e-7}}}]}},
    "size": 7,
    "from": 3,
    "_source": ["a", "b.*"],
    "highlight": {"fields": {"title": {}}},
    "aggs": {"n": {"terms": {"field": "n", "include": [2**53 + 1, -(2**70), 0.1 + 0.2, 1e300, -0.0]}}},
    "search_after": [None, True, "x"],
    "ext": {},
}
PARAMS = {"preference": "a b&c=d/ü+%", "timeout": "1s", "request_timeout": "2", "ignore": "404", "q&x": "", "size": "3"}


async def test_an_api_key_is_sent() -> None:
    async with serving(always(lambda: json_answer(EMPTY_ANSWER))) as server:
        connector = ElasticsearchConnector("test", HttpOptions([server.url], api_key="c2VjcmV0"))
        await connector.search("books", {}, timeout_s=1)
        await connector.close()
        assert server.asked[0].headers["Authorization"] == "ApiKey c2VjcmV0"


@pytest.mark.parametrize("kind", HTTP_KINDS)
class TestWire:
    async def test_the_body_arrives_as_it_is(self, kind: str) -> None:
        async with serving(always(lambda: json_answer(EMPTY_ANSWER))) as server:
            async with connect(kind, server.url) as connector:
                await connector.search("books", BODY, timeout_s=1)
            (asked,) = server.asked
            assert (asked.method, asked.target) == ("POST", "/books/_search")
            assert json.dumps(json.loads(asked.body)) == json.dumps(BODY)
            assert list(json.loads(asked.body)) == list(BODY)

    async def test_parameters_arrive_as_they_are(self, kind: str) -> None:
        async with serving(always(lambda: json_answer(EMPTY_ANSWER))) as server:
            async with connect(kind, server.url) as connector:
                await connector.search("books", {}, timeout_s=1, params=PARAMS)
            query = server.asked[0].target.partition("?")[2]
            assert dict(parse_qsl(query, keep_blank_values=True)) == PARAMS

    @pytest.mark.parametrize("index", ["a/b", "a?b", "a#b", "a%2Fb", "../x", "a,b*", "<a-{now/d}>", "ü", "a b", "a:b"])
    async def test_the_index_stays_one_segment(self, kind: str, index: str) -> None:
        async with serving(always(lambda: json_answer(EMPTY_ANSWER))) as server:
            async with connect(kind, server.url) as connector:
                await connector.search(index, {}, timeout_s=1)
            _, segment, operation = server.asked[0].target.split("/")
            assert (unquote(segment), operation) == (index, "_search")

    async def test_a_host_may_have_a_path(self, kind: str) -> None:
        async with serving(always(lambda: json_answer(EMPTY_ANSWER))) as server:
            async with connect(kind, f"{server.url}/es/") as connector:
                await connector.search("books", {}, timeout_s=1)
            assert server.asked[0].target == "/es/books/_search"

    async def test_credentials_are_sent(self, kind: str) -> None:
        async with serving(always(lambda: json_answer(EMPTY_ANSWER))) as server:
            async with connect(kind, server.url, basic_auth=("ann", "päss:東")) as connector:
                assert "päss" not in repr(vars(connector))
                await connector.search("books", {}, timeout_s=1)
            scheme, _, secret = server.asked[0].headers["Authorization"].partition(" ")
            assert (scheme, b64decode(secret).decode()) == ("Basic", "ann:päss:東")

    async def test_one_mget_for_all(self, kind: str) -> None:
        refs = [DocumentRef("a", "1"), DocumentRef("b", "x/y", "r1"), DocumentRef("a", "1"), DocumentRef("a", "\ud83d")]
        async with serving(always(lambda: json_answer({"docs": []}))) as server:
            async with connect(kind, server.url) as connector:
                assert await connector.fetch(refs, ("title", "a.b"), timeout_s=1) == {}
            (asked,) = server.asked
            assert (asked.method, asked.target) == ("POST", "/_mget")
            fields = ["title", "a.b"]
            assert json.loads(asked.body) == {
                "docs": [
                    {"_index": "a", "_id": "1", "_source": fields},
                    {"_index": "b", "_id": "x/y", "routing": "r1", "_source": fields},
                    {"_index": "a", "_id": "\ud83d", "_source": fields},
                ]
            }

    async def test_what_no_mget_takes_is_not_asked_for(self, kind: str) -> None:
        good = DocumentRef("books", "1")
        bad = [DocumentRef(index, "1") for index in ("_bad", "eu:books", "", ".", "..")]
        answer = {"docs": [{"_index": "books", "_id": "1", "found": True, "_source": {"title": "x"}}]}
        async with serving(always(lambda: json_answer(answer))) as server, connect(kind, server.url) as connector:
            found = await connector.fetch([*bad[:2], good, *bad[2:]], ["title"], timeout_s=1)
            assert found == {good: {"title": "x"}}
            assert await connector.fetch(bad, ["title"], timeout_s=1) == {}
            (asked,) = server.asked
        assert [row["_index"] for row in json.loads(asked.body)["docs"]] == ["books"]

    async def test_nothing_to_fetch_is_no_call(self, kind: str) -> None:
        async with serving(always(lambda: json_answer({"docs": []}))) as server:
            async with connect(kind, server.url) as connector:
                assert await connector.fetch([], ["title"], timeout_s=1) == {}
                assert await connector.fetch([DocumentRef("a", "1")], [], timeout_s=1) == {}
            assert server.asked == []

    async def test_the_answer_is_read_as_it_is(self, kind: str) -> None:
        source = {"big": 2**70, "sum": 0.1 + 0.2, "tiny": 5e-324, "text": "東京 \ud83d \x00", "none": None}
        hit = {"_index": "a", "_id": "1", "_score": 1.0000001, "_routing": "r", "_source": source}
        answer = {**EMPTY_ANSWER, "hits": {"hits": [hit]}, "timed_out": True, "pit_id": "x", "_shards": {"failed": 2}}
        async with serving(always(lambda: json_answer(answer))) as server, connect(kind, server.url) as connector:
            hits = await connector.search("a", {}, timeout_s=1)
        assert hits.raw == answer
        assert hits.hits[0].ref == DocumentRef("a", "1", "r")
        assert hits.hits[0].source == source

    async def test_a_body_of_megabytes_is_sent_whole(self, kind: str) -> None:
        body = {"query": {"terms": {"title": ["x" * 100] * 30_000}}}
        answer = json.dumps(EMPTY_ANSWER).encode()
        head = (
            "HTTP/1.1 200 OK\r\nX-Elastic-Product: Elasticsearch\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(answer)}\r\n\r\n"
        )
        async with serving_bytes([head.encode() + answer]) as server, connect(kind, server.url) as connector:
            await connector.search("a", body, timeout_s=5)
        assert json.loads(server.asked[0].body) == body

    async def test_warnings_of_the_engine_are_logged(self, kind: str, caplog: pytest.LogCaptureFixture) -> None:
        def warning() -> web.Response:
            answer = json_answer(EMPTY_ANSWER)
            answer.headers["Warning"] = '299 Engine-1 "old syntax"'
            return answer

        caplog.set_level(logging.DEBUG, "connectors")
        async with serving(always(warning)) as server, connect(kind, server.url) as connector:
            await connector.search("a", {}, timeout_s=1)
        assert "old syntax" in caplog.text


def test_importing_the_package_loads_no_client_and_no_sidecar() -> None:
    script = "import sys, connectors; print([m for m in sys.modules if m.split('.')[0] in sys.argv[1:]])"
    heavy = ["elasticsearch", "opensearchpy", "aiohttp", "bm25s", "numpy", "tenacity", "sidecar"]
    done = subprocess.run([sys.executable, "-c", script, *heavy], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_no_connector_loads_the_sidecar_or_another_engine() -> None:
    script = "import sys, connectors.memory; print([m for m in sys.modules if m.split('.')[0] in sys.argv[1:]])"
    foreign = ["elasticsearch", "opensearchpy", "aiohttp", "sidecar", "grpc", "torch"]
    done = subprocess.run([sys.executable, "-c", script, *foreign], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
