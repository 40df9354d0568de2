"""A user's mistake: each gets a status and one sentence that names the field and what is allowed, never a traceback."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from connectors.memory import MemoryConnector
from sidecar.app import App
from sidecar.client import RerankClient, rerank_request, search_request
from sidecar.scoring.fake import WordOverlapScorer
from sidecar.v1 import rerank_pb2 as pb
from tests.calls import BODY, PATIENCE_S, QUERY, raw_channel, reply, request_id_of, status
from tests.conftest import DOCUMENTS, Serve, loader, settings

INVALID, NOT_FOUND, DENIED = "INVALID_ARGUMENT", "NOT_FOUND", "PERMISSION_DENIED"

Call = Callable[[RerankClient], Any]


def search(**fields: Any) -> Call:
    """A Search that is fine but for these fields, as it comes over the wire."""
    message = {"index": "docs", "query": QUERY, "body": json.dumps(BODY), **fields}
    return lambda client: client.stub.Search(pb.SearchRequest(**message), timeout=PATIENCE_S)


def progressive(**fields: Any) -> Call:
    message = {"index": "docs", "query": QUERY, "body": json.dumps(BODY), **fields}

    def call(client: RerankClient) -> Any:
        request = pb.SearchProgressiveRequest(search=pb.SearchRequest(**message))
        return client.stub.SearchProgressive(request, timeout=PATIENCE_S).read()

    return call


def rerank(candidates: list[pb.Candidate] | None = None, **fields: Any) -> Call:
    """A Rerank that is fine but for these fields."""
    texts = [pb.Candidate(text="apple"), pb.Candidate(text="pear")]
    message = {"query": QUERY, "candidates": texts if candidates is None else candidates, **fields}
    return lambda client: client.stub.Rerank(pb.RerankRequest(**message), timeout=PATIENCE_S)


def explain(**fields: Any) -> Call:
    return lambda client: client.policies.Explain(pb.ExplainRequest(**{"index": "docs", **fields}), timeout=PATIENCE_S)


def both(code: str, *said: str, **fields: Any) -> list[Any]:
    """The same mistake in Search and in SearchProgressive."""
    return [pytest.param(make(**fields), code, said) for make in (search, progressive)]


def everywhere(code: str, *said: str, **fields: Any) -> list[Any]:
    """The same mistake in every call that takes the field."""
    calls = [search(**fields), progressive(**fields), rerank(**fields)]
    return [pytest.param(call, code, said) for call in calls]


def bodies(*said: str, body: str) -> list[Any]:
    return [pytest.param(make(body=body), INVALID, said) for make in (search, progressive, explain)]


TABLE = [
    # the query
    *everywhere(INVALID, "`query` is empty", query=""),
    *everywhere(INVALID, "`query` is empty", query=" \t\n  "),
    *everywhere(INVALID, "`query` is empty", query="\x00\x00"),
    *everywhere(INVALID, "`query` has 4097 characters", "at most 4096", query="x" * 4097),
    # the body
    *bodies("`body` is not valid JSON", "line 1 column 2", body="{"),
    *bodies("`body` is not valid JSON", body="{'query': 1}"),
    *bodies("`body` is not valid JSON", body='{"size": 1} more'),
    *bodies("`body` is a JSON array", "an object is needed", body="[]"),
    *bodies("`body` is a JSON string", "an object is needed", body='"apple"'),
    *bodies("`body` is a JSON number", "an object is needed", body="7"),
    *bodies("`body` is a JSON null", "an object is needed", body="null"),
    *bodies("`body` is a JSON boolean", "an object is needed", body="true"),
    *bodies("`body` is not valid JSON", "NaN", body='{"min_score": NaN}'),
    *bodies("`body` is not valid JSON", "-Infinity", body='{"min_score": -Infinity}'),
    *bodies(
        "an object has the key 'filter' twice", body='{"query": {"bool": {"filter": {}, "must": {}, "filter": {}}}}'
    ),
    *bodies("`body`", "a number is too large", body='{"min_score": 1e999}'),
    *bodies("`body`", "too many digits", body='{"size": ' + "9" * 5000 + "}"),
    *bodies("`body` is nested too deeply", "at most 200", body='{"a":' * 100_000),
    *bodies("`body` is nested too deeply", "at most 200", body="[" * 100_000 + "]" * 100_000),
    *bodies("`body` is nested too deeply", "at most 200", body='{"sort":' + "[" * 900 + "]" * 900 + "}"),
    *bodies("`body` is nested too deeply", "at most 200", body='{"a":' * 201 + "1" + "}" * 201),
    *bodies("`size`", "0 to 2147483647", body='{"size": -1}'),
    *bodies("`from`", "0 to 2147483647", body='{"from": "many"}'),
    *bodies("`from`", "0 to 2147483647", body='{"from": true}'),
    *bodies("`size`", "0 to 2147483647", body='{"size": 2.5}'),
    *bodies("`size`", "0 to 2147483647", body='{"size": 99999999999}'),
    *both(INVALID, "400 parsing_exception", "unknown query `foo`", body='{"query": {"foo": {}}}'),
    *both(INVALID, "400 parsing_exception", "unknown key `nonsense`", body='{"nonsense": 1}'),
    *both(INVALID, "400 parsing_exception", "unknown key `?`", body='{"\\ud800": 1}'),
    *both(INVALID, "`from` + `size` must be at most 10000", body='{"size": 20000}'),
    # the URL parameters
    *both(INVALID, "params: `size`", "0 to 2147483647", params={"size": "9" * 5000}),
    *both(INVALID, "params: `from`", "0 to 2147483647", params={"from": "-1"}),
    *both(INVALID, "params: 'filter_path' is not supported", params={"filter_path": "took"}),
    *both(INVALID, "params: 'source' is not supported", "`body`", params={"source": "{}"}),
    *both(INVALID, "unknown URL parameter `nonsense`", params={"nonsense": "1"}),
    # names
    *everywhere(INVALID, "there is no policy 'nope'", "default", options=pb.Options(policy="nope")),
    *both(NOT_FOUND, "there is no connector 'nope'", "main", connector="nope"),
    pytest.param(rerank(connector="nope"), NOT_FOUND, ["there is no connector 'nope'", "main"]),
    pytest.param(explain(connector="nope"), NOT_FOUND, ["there is no connector 'nope'", "main"]),
    *both(NOT_FOUND, "there is no such index", "nope", index="nope"),
    *both(INVALID, "`index` is empty", index=""),
    pytest.param(explain(index=""), INVALID, ["`index` is empty"]),
    *both(DENIED, "'../secret' is not allowed", index="../secret"),
    *both(DENIED, "'a\\x00b' is not allowed", index="a\x00b"),
    *both(DENIED, "is not allowed", index="x" * 5000),
    # numbers
    *everywhere(INVALID, "rank_window_size is 1001", "1..1000", options=pb.Options(rank_window_size=1001)),
    *everywhere(INVALID, "rank_window_size is 0", "1..1000", options=pb.Options(rank_window_size=0)),
    *everywhere(INVALID, "rank_window_size is -5", "1..1000", options=pb.Options(rank_window_size=-5)),
    *everywhere(INVALID, "budget_ms is -1", "1..5000", options=pb.Options(budget_ms=-1)),
    *everywhere(INVALID, "budget_ms is 0", "1..5000", options=pb.Options(budget_ms=0)),
    *everywhere(INVALID, "budget_ms is 5001", "1..5000", options=pb.Options(budget_ms=5001)),
    *everywhere(INVALID, "min_score is nan", "finite", options=pb.Options(min_score=float("nan"))),
    *everywhere(INVALID, "min_score is inf", "finite", options=pb.Options(min_score=float("inf"))),
    pytest.param(rerank(top_n=0), INVALID, ["`top_n` is 0", "1 or more"]),
    pytest.param(rerank(top_n=-3), INVALID, ["`top_n` is -3", "1 or more"]),
    pytest.param(rerank(top_n=1001), INVALID, ["`top_n` is 1001", "1..1000"]),
    # candidates
    pytest.param(rerank([pb.Candidate(text="x")] * 10_000), INVALID, ["10000 `candidates`", "at most 1000"]),
    pytest.param(rerank([pb.Candidate(hit="{}")] * 10_000), INVALID, ["10000 `candidates`", "at most 1000"]),
    pytest.param(rerank([pb.Candidate()]), INVALID, ["candidates[0]", "`text`, `hit`, or an `id`"]),
    pytest.param(rerank([pb.Candidate(id="d1")]), INVALID, ["candidates[0]", "`index`"]),
    pytest.param(rerank([pb.Candidate(hit='{"_id": "d1"}')]), INVALID, ["candidates[0]", "`index`"]),
    pytest.param(rerank([pb.Candidate(text="a", score=float("nan"))]), INVALID, ["candidates[0].score", "finite"]),
    pytest.param(rerank([pb.Candidate(text="a"), pb.Candidate(hit="{")]), INVALID, ["candidates[1].hit", "not valid"]),
    pytest.param(rerank([pb.Candidate(hit="[]")]), INVALID, ["candidates[0].hit", "array", "an object is needed"]),
    pytest.param(rerank([pb.Candidate(hit='{"_id": 5}')]), INVALID, ["candidates[0].hit", "`_id`"]),
    pytest.param(
        rerank([pb.Candidate(hit='{"_id": "5", "_score": "high"}')]), INVALID, ["candidates[0].hit", "_score"]
    ),
    pytest.param(rerank([pb.Candidate(hit='{"_id": "5", "_score": 1e999}')]), INVALID, ["candidates[0].hit", "large"]),
    pytest.param(
        rerank([pb.Candidate(hit='{"_id": "5", "_source": ' + "[" * 500 + "]" * 500 + "}")]),
        INVALID,
        ["candidates[0].hit", "nested too deeply"],
    ),
    pytest.param(rerank([pb.Candidate(id="d1", index="../a")]), DENIED, ["'../a' is not allowed"]),
]


@pytest.mark.parametrize(("call", "code", "said"), TABLE)
async def test_a_mistake_gets_a_status_and_a_sentence(serve: Serve, call: Call, code: str, said: list[str]) -> None:
    async with serve() as (client, _):
        failed = await status(call(client))
        assert failed.code() is grpc.StatusCode[code], failed.details()
        assert_readable(failed, *said)
        assert (await client.search("docs", QUERY, BODY)).outcome == "RERANKED"  # and the server is as well as before


def assert_readable(failed: grpc.aio.AioRpcError, *said: str) -> None:
    """The message holds these words and nothing that is not for users, and the request can be found in the log."""
    details = failed.details() or ""
    for words in said:
        assert words in details
    assert len(details) < 2500
    for leak in ("Traceback", 'File "', "sys.set_int", "object at 0x", "recursion"):
        assert leak not in details
    assert len(request_id_of(failed)) == 32


@asynccontextmanager
async def with_connectors(*names: str) -> AsyncIterator[RerankClient]:
    configured = settings(connectors={name: {"type": "memory", "indices": {"docs": "unused"}} for name in names})
    connectors = {name: MemoryConnector(name, {"docs": DOCUMENTS}) for name in names}
    app = App(configured, load=loader(WordOverlapScorer()), connectors=connectors)
    await app.start()
    await app.ready()
    try:
        async with RerankClient(f"127.0.0.1:{app.port}") as client:
            yield client
    finally:
        await app.stop()


async def test_no_connector_is_configured() -> None:
    async with with_connectors() as client:
        assert (await client.rerank(QUERY, ["apple", "pear"])).outcome == pb.OUTCOME_RERANKED
        failed = await status(rerank([pb.Candidate(id="d1", index="docs")])(client))
        assert failed.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert_readable(failed, "candidate 0", "`connector`")
        failed = await status(search()(client))
        assert failed.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert_readable(failed, "name a `connector`; allowed: ")
        failed = await status(search(connector="main")(client))
        assert failed.code() is grpc.StatusCode.NOT_FOUND
        assert_readable(failed, "no connector 'main'", "known: none")


async def test_two_connectors_and_none_is_named() -> None:
    async with with_connectors("main", "other") as client:
        for call in (search(), progressive(), explain(), rerank([pb.Candidate(id="d1", index="docs")])):
            failed = await status(call(client))
            assert failed.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert_readable(failed, "`connector`")
        assert (await client.search("docs", QUERY, BODY, connector="other")).outcome == "RERANKED"
        assert (await client.rerank(QUERY, ["apple", "pear"])).outcome == pb.OUTCOME_RERANKED


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (pb.SearchRequest(index="docs", query="AAAA").SerializeToString().replace(b"AAAA", b"\xed\xa0\x80A"), "UTF-8"),
        (b"\xff\xff\xff", "cannot be read"),
        (b"", "`query` is empty"),
    ],
)
async def test_a_message_that_is_none(serve: Serve, message: bytes, said: str) -> None:
    async with serve() as (_, app), raw_channel(app) as channel:
        for method in ("Search", "Rerank"):
            failed = await status(channel.unary_unary(f"/sidecar.v1.RerankService/{method}")(message))
            assert failed.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert_readable(failed)
        stream = channel.unary_stream("/sidecar.v1.RerankService/SearchProgressive")(message)
        failed = await status(stream.read())
        assert failed.code() is grpc.StatusCode.INVALID_ARGUMENT
        failed = await status(channel.unary_unary("/sidecar.v1.RerankService/Search")(message))
        assert said in (failed.details() or "")


async def test_a_message_of_70_mb_is_refused_and_one_of_20_mb_is_not(serve: Serve) -> None:
    async with serve() as (client, app):
        async with raw_channel(app) as channel:
            call = channel.unary_unary("/sidecar.v1.RerankService/Rerank")
            large = rerank_request(QUERY, ["apple " * (70 * 2**20 // 6), "pear"]).SerializeToString()
            failed = await status(call(large))
            assert failed.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert "67108864" in (failed.details() or "")
        allowed = await client.rerank(QUERY, ["apple\n" + " " * 20 * 2**20, "pear"], timeout_s=PATIENCE_S)
        assert len(allowed.results) == 2


async def test_a_document_of_5_mb(serve: Serve) -> None:
    long = "winter storage of apple varieties " * (5 * 2**20 // 34)
    async with serve(configured=settings({"budget_ms": 5000})) as (client, _):
        got = reply(await client.rerank(QUERY, ["pears", long, "apple"], timeout_s=PATIENCE_S))
    assert (got.outcome, [result.original_rank for result in got.results]) == ("RERANKED", [1, 2, 0])


async def test_10000_hits_where_the_policy_allows_them(serve: Serve) -> None:
    configured = settings({"budget_ms": 5000, "limits": {"candidates": 10_000, "rank_window_size": 1000}})
    texts = [f"text {number}" for number in range(9_999)]
    async with serve(configured=configured) as (client, _):
        got = reply(await client.rerank(QUERY, [*texts, "apple"], timeout_s=PATIENCE_S))
    assert sorted(result.original_rank for result in got.results) == list(range(10_000))
    assert (got.outcome, got.meta.candidates) == ("RERANKED", 100)


async def test_a_client_deadline_already_past(serve: Serve) -> None:
    async with serve() as (client, _):
        for timeout_s in (0.0, -1.0, 1e-9):
            failed = await status(client.search("docs", QUERY, BODY, timeout_s=timeout_s))
            assert failed.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            try:  # grpc may look at the clock only after it has sent the request
                late = reply(await client.rerank(QUERY, ["a", "b"], timeout_s=timeout_s))
                assert (late.outcome, late.reason) == ("ORIGINAL_ORDER", "BUDGET_EXHAUSTED")
            except grpc.aio.AioRpcError as error:
                assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED  # noqa: PT017
        assert (await client.search("docs", QUERY, BODY)).outcome == "RERANKED"


async def test_a_client_deadline_within_the_reserve_is_a_status_before_the_engine_is_asked(serve: Serve) -> None:
    server = {"address": "127.0.0.1:0", "metrics_address": None, "shutdown_grace_s": 1, "reserve_ms": 1000}
    async with serve(configured=settings(server=server)) as (client, app):
        failed = await status(client.search("docs", QUERY, BODY, timeout_s=0.9))
        assert failed.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert_readable(failed, "no time to search")
        asked = {"connector": "main", "engine": "memory", "operation": "search", "outcome": "ok"}
        assert app.metrics.registry.get_sample_value("sidecar_connector_requests_total", asked) is None


class TestNoMistake:
    """Odd, but fine: everything that was sent comes back."""

    async def test_duplicate_ids(self, serve: Serve) -> None:
        candidates = [pb.Candidate(id="d3", index="docs"), pb.Candidate(id="d4", index="docs")] * 3
        async with serve() as (client, _):
            got = reply(await client.rerank(QUERY, candidates))
        assert got.outcome == "RERANKED"
        assert got.ids == ["d3"] * 3 + ["d4"] * 3
        assert [result.original_rank for result in got.results] == [0, 2, 4, 1, 3, 5]

    async def test_ids_that_do_not_exist(self, serve: Serve) -> None:
        candidates = [pb.Candidate(id=key, index="docs") for key in ("d0", "nobody", "d3")]
        async with serve() as (client, _):
            got = reply(await client.rerank(QUERY, candidates))
        assert (got.outcome, got.ids, got.meta.scored) == ("RERANKED", ["d3", "nobody", "d0"], 2)

    @pytest.mark.parametrize(
        "hit", ['{"_id": "x", "_index": "docs", "_source": {}}', '{"_id": "d9", "_index": "docs"}', '{"_source": {}}']
    )
    async def test_hits_without_text(self, serve: Serve, hit: str) -> None:
        async with serve() as (client, _):
            got = reply(await client.rerank(QUERY, [pb.Candidate(hit=hit), pb.Candidate(text="apple winter")]))
            assert (got.outcome, got.meta.scored, len(got.results)) == ("RERANKED", 1, 2)
            assert [result.original_rank for result in got.results] == [0, 1]
            got = reply(await client.rerank(QUERY, [pb.Candidate(hit=hit)] * 2))
            assert (got.outcome, got.reason, len(got.results)) == ("ORIGINAL_ORDER", "TEXT_UNAVAILABLE", 2)

    async def test_texts_of_nothing(self, serve: Serve) -> None:
        async with serve() as (client, _):
            got = reply(await client.rerank(QUERY, ["", " \n", "\x00", "apple"]))
        assert (got.outcome, got.meta.scored) == ("RERANKED", 1)
        assert [result.original_rank for result in got.results] == [0, 1, 2, 3]

    async def test_no_candidates(self, serve: Serve) -> None:
        async with serve() as (client, _):
            got = reply(await client.rerank(QUERY, []))
        assert (got.outcome, got.reason, got.ids) == ("SKIPPED", "NO_CANDIDATES", [])

    async def test_nul_and_lone_surrogates(self, serve: Serve) -> None:
        hit = '{"_id": "\\ud800a", "_index": "docs", "_source": {"title": "apple \\u0000 \\udfff winter"}}'
        async with serve() as (client, _):
            for query in ("apple\x00winter", QUERY):
                candidates = [pb.Candidate(text="pear\x00"), pb.Candidate(hit=hit)]
                got = reply(await client.rerank(query, candidates, options=pb.Options(return_passages=True)))
                assert (got.outcome, got.ids) == ("RERANKED", ["?a", ""])
                assert got.results[0].passage.split() == ["apple", "winter"]
            body = {"query": {"match": {"body": "apple \ud800 winter \x00"}}}
            page = await client.search("docs", "apple winter", body)
            assert page.outcome == "RERANKED"

    async def test_stored_surrogates_come_back_as_they_are(self, serve: Serve) -> None:
        odd = {**DOCUMENTS, "odd": {"title": "apple \ud800", "body": "apple \x00 winter 🚗"}}
        async with serve(connector=MemoryConnector("main", {"docs": odd})) as (client, _):
            page = await client.search("docs", QUERY, BODY)
        assert page.outcome == "RERANKED"
        assert next(hit["_source"] for hit in page.hits if hit["_id"] == "odd") == odd["odd"]

    async def test_unknown_fields_of_a_newer_contract_are_passed_over(self, serve: Serve) -> None:
        newer = search_request("docs", QUERY, BODY).SerializeToString() + b"\xfa\x07\x03new"
        async with serve() as (_, app), raw_channel(app) as channel:
            answer = await channel.unary_unary("/sidecar.v1.RerankService/Search")(newer)
        assert pb.SearchResponse.FromString(answer).outcome == pb.OUTCOME_RERANKED

    async def test_many_mistakes_at_once_leave_nothing_behind(self, serve: Serve) -> None:
        async with serve() as (client, _):
            calls = [search(body="{")(client) for _ in range(100)] + [rerank(top_n=0)(client) for _ in range(100)]
            ends = await asyncio.gather(*(status(call) for call in calls))
            assert {end.code() for end in ends} == {grpc.StatusCode.INVALID_ARGUMENT}
            assert (await client.search("docs", QUERY, BODY)).outcome == "RERANKED"
