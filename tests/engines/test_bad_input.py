"""What a user may send or have stored by mistake, on real nodes: a clear status or a right answer, and soon."""

import base64
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import pytest

from sidecar.app import App
from sidecar.client import Page, RerankClient
from tests.calls import QUERY, request_id_of, status, within
from tests.conftest import DOCUMENTS
from tests.engines.engine import Engine, Indices, indices
from tests.engines.faulty import BARE, BODY, TEXTS, hits_of, sidecar_for
from tests.engines.proxy import Exchange, Proxy
from tests.engines.rest import CallRefused, Json

QUICK_S = 2.0
"""What a small call takes at most, on a machine that is busy with something else."""
LARGE_S = 10.0
"""What a call with megabytes takes at most."""
PATIENT = {"search_timeout_ms": int(LARGE_S * 1e3)}


@pytest.fixture(scope="module")
def index(engine: Engine) -> Iterator[str]:
    with indices(engine) as names:
        yield names("plain", TEXTS, DOCUMENTS)


@pytest.fixture
async def served(engine: Engine) -> AsyncIterator[tuple[RerankClient, App]]:
    async with sidecar_for(engine, policy={"budget_ms": 5000}, connector=PATIENT) as served:
        yield served


@pytest.fixture
def client(served: tuple[RerankClient, App]) -> RerankClient:
    return served[0]


async def refused(
    client: RerankClient, index: str, body: Json, code: str, *said: str, within_s: float = QUICK_S, **call: Any
) -> str:
    """The call ends with this status, soon, and its message holds these words and nothing that is not for users."""
    async with within(within_s):
        failed = await status(client.search(index, QUERY, body, **call))
    details = failed.details() or ""
    assert failed.code() is grpc.StatusCode[code], details
    for words in said:
        assert words in details
    assert len(details) < 2500
    assert not any(leak in details for leak in ("Traceback", 'File "', "object at 0x"))
    assert request_id_of(failed)
    return details


class TestBody:
    async def test_one_of_5_mb_is_run(self, client: RerankClient, index: str) -> None:
        words = [f"{number:080}" for number in range(60_000)]  # the engines take no more than 65,536
        body = {"query": {"bool": {"must": [BODY["query"]], "must_not": [{"terms": {"title": words}}]}}}
        assert 8e6 > len(json.dumps(body)) > 5e6
        async with within(LARGE_S):
            page = await client.search(index, QUERY, body)
        assert (page.outcome, page.hits[0]["_id"]) == ("RERANKED", "d3")

    async def test_one_of_9_mb_is_refused_before_the_engine_sees_it(self, client: RerankClient, index: str) -> None:
        body = {"query": {"match": {"body": "apple " * (9 * 2**20 // 6)}}}
        await refused(client, index, body, "INVALID_ARGUMENT", "`body` has", "are allowed")

    async def test_a_query_of_too_many_clauses(self, client: RerankClient, index: str) -> None:
        clauses = [{"term": {"body": f"word{number}"}} for number in range(20_000)]
        body = {"query": {"bool": {"should": clauses}}}
        details = await refused(client, index, body, "INVALID_ARGUMENT", within_s=LARGE_S)
        assert "clause" in details.lower()

    @pytest.mark.parametrize("size", [1e9, 10_001, 2**31 - 1])
    async def test_a_size_beyond_the_engines_limit(self, client: RerankClient, index: str, size: float) -> None:
        await refused(client, index, {**BODY, "size": size}, "INVALID_ARGUMENT", "Result window is too large", "10000")

    @pytest.mark.parametrize("size", [2**31, -1, 1.5, "many"])
    async def test_a_size_that_is_none(self, client: RerankClient, index: str, size: object) -> None:
        await refused(client, index, {**BODY, "size": size}, "INVALID_ARGUMENT", "`size`")

    async def test_nested_deeper_than_anybody_needs(self, client: RerankClient, index: str) -> None:
        body: Json = BODY["query"]
        for _ in range(150):
            body = {"bool": {"must": [body]}}
        await refused(client, index, {"query": body}, "INVALID_ARGUMENT", "nested too deeply")

    async def test_nested_deeper_than_some_engines_take(self, client: RerankClient, engine: Engine, index: str) -> None:
        body: Json = BODY["query"]
        for _ in range(60):
            body = {"bool": {"must": [body]}}
        try:
            engine.call("POST", f"/{index}/_search", {"query": body})
        except CallRefused:
            await refused(client, index, {"query": body}, "INVALID_ARGUMENT", "nested")
        else:
            assert (await client.search(index, QUERY, {"query": body})).outcome == "RERANKED"

    async def test_an_unknown_query(self, client: RerankClient, index: str) -> None:
        await refused(
            client, index, {"query": {"nonsense": {}}}, "INVALID_ARGUMENT", "unknown query [nonsense]", "line 1, column"
        )

    async def test_an_unknown_key(self, client: RerankClient, index: str) -> None:
        body = {**BODY, "nonsense": True}
        await refused(client, index, body, "INVALID_ARGUMENT", "nonsense", "line 1, column")

    async def test_an_unknown_parameter(self, client: RerankClient, index: str) -> None:
        await refused(
            client, index, BODY, "INVALID_ARGUMENT", "unrecognized parameter: [nonsense]", params={"nonsense": "1"}
        )

    async def test_a_value_of_the_wrong_kind(self, client: RerankClient, engine: Engine, index_name: Indices) -> None:
        made = {"mappings": {"properties": {"day": {"type": "date"}}}}
        days = index_name("days", made, {"1": {"day": "2026-01-01"}})
        body = {"query": {"range": {"day": {"gte": "someday"}}}}
        await refused(client, days, body, "INVALID_ARGUMENT", "failed to parse date field [someday]")


class TestScript:
    SCRIPT: Json = {"script_score": {"query": BODY["query"], "script": {"source": "_score * 2"}}}  # noqa: RUF012

    async def test_one_that_the_engine_knows_is_the_engines_to_run(
        self, client: RerankClient, engine: Engine, index: str
    ) -> None:
        engine.needs("painless")
        page = await client.search(index, QUERY, {"query": self.SCRIPT})
        own = {hit["_id"]: hit["_score"] for hit in hits_of(engine, index, {"query": self.SCRIPT})}
        assert page.outcome == "RERANKED"
        assert {hit["_id"]: hit["_score"] for hit in page.hits} == own

    async def test_one_that_does_not_compile(self, client: RerankClient, engine: Engine, index: str) -> None:
        engine.needs("painless")
        broken = {"script_score": {"query": BODY["query"], "script": {"source": "nonsense("}}}
        await refused(client, index, {"query": broken}, "INVALID_ARGUMENT", "compile error")

    async def test_one_in_a_language_that_the_engine_lacks(self, client: RerankClient, index: str) -> None:
        script = {"source": "1", "lang": "cobol"}
        body = {"query": {"script_score": {"query": BODY["query"], "script": script}}}
        await refused(client, index, body, "INVALID_ARGUMENT", "cobol")


class TestIndex:
    async def test_one_that_is_not_there_is_named(self, client: RerankClient) -> None:
        await refused(client, "no-such-index", BODY, "NOT_FOUND", "no such index [no-such-index]")

    async def test_one_of_several_is_not_there(self, client: RerankClient, index: str) -> None:
        await refused(client, f"{index},no-such-index", BODY, "NOT_FOUND", "no such index [no-such-index]")
        page = await client.search(f"{index},no-such-index", QUERY, BODY, params={"ignore_unavailable": "true"})
        assert page.outcome == "RERANKED"

    async def test_a_pattern_that_matches_nothing_is_an_empty_answer(
        self, client: RerankClient, engine: Engine
    ) -> None:
        page = await client.search("no-such-*", QUERY, BODY)
        assert (page.outcome, page.reason, page.hits) == ("SKIPPED", "NO_CANDIDATES", [])
        assert page.response["hits"]["total"] == {"value": 0, "relation": "eq"}
        strict = {"allow_no_indices": "false"}
        await refused(client, "no-such-*", BODY, "NOT_FOUND", "no such index [no-such-*]", params=strict)

    async def test_a_closed_one(self, client: RerankClient, engine: Engine, index_name: Indices) -> None:
        closed = index_name("closed", TEXTS, DOCUMENTS)
        engine.call("POST", f"/{closed}/_close")
        await refused(client, closed, BODY, "FAILED_PRECONDITION", "closed", "index_closed_exception")

    async def test_one_without_documents(self, client: RerankClient, index_name: Indices) -> None:
        page = await client.search(index_name("empty", TEXTS), QUERY, BODY)
        assert (page.outcome, page.reason, page.hits) == ("SKIPPED", "NO_CANDIDATES", [])

    @pytest.mark.parametrize("index", ["Upper", "a b", "a#b", "../x", "_search", "a/b", "x" * 300])
    async def test_what_cannot_be_a_name(self, client: RerankClient, index: str) -> None:
        async with within(QUICK_S):
            failed = await status(client.search(index, QUERY, BODY))
        expected = ("INVALID_ARGUMENT", "PERMISSION_DENIED", "NOT_FOUND")
        assert failed.code() in [grpc.StatusCode[code] for code in expected], failed.details()

    async def test_a_body_that_reads_another_index_where_only_some_are_allowed(
        self, engine: Engine, index: str, index_name: Indices
    ) -> None:
        secret = index_name("secret", None, {"1": {"words": ["winter"]}})
        lookup = {"query": {"terms": {"body": {"index": secret, "id": "1", "path": "words"}}}}
        async with sidecar_for(engine, connector={"allow_indices": [index]}) as (client, _):
            await refused(client, index, lookup, "PERMISSION_DENIED", secret)
            await refused(client, secret, BODY, "PERMISSION_DENIED", secret)
            await refused(client, "*", BODY, "PERMISSION_DENIED", "'*'")
            await refused(client, f"{index},{secret}", BODY, "PERMISSION_DENIED", secret)
            assert (await client.search(index, QUERY, BODY)).outcome == "RERANKED"
        async with sidecar_for(engine) as (client, _):
            assert {hit["_id"] for hit in (await client.search(index, QUERY, lookup)).hits} == {"d2", "d3"}


async def reranked(client: RerankClient, engine: Engine, index: str, body: Json = BODY) -> Page:
    """The same hits as the engine's own, in whatever order, hit for hit unchanged."""
    async with within(LARGE_S):
        page = await client.search(index, QUERY, body)
    own = hits_of(engine, index, body)
    assert sorted(page.hits, key=lambda hit: str(hit["_id"])) == sorted(own, key=lambda hit: str(hit["_id"]))
    return page


class TestStored:
    async def test_source_that_is_not_kept(self, client: RerankClient, engine: Engine, index_name: Indices) -> None:
        made = {"mappings": {"_source": {"enabled": False}, **TEXTS["mappings"]}}
        page = await reranked(client, engine, index_name("no-source", made, DOCUMENTS))
        assert (page.outcome, page.reason) == ("ORIGINAL_ORDER", "TEXT_UNAVAILABLE")
        assert [result.original_rank for result in page.results] == list(range(len(page.hits)))

    async def test_source_that_is_not_kept_but_its_stored_fields_are_asked(
        self, client: RerankClient, engine: Engine, index_name: Indices
    ) -> None:
        fields = {"title": {"type": "text"}, "body": {"type": "text", "store": True}}
        made = {"mappings": {"_source": {"enabled": False}, "properties": fields}}
        page = await reranked(
            client, engine, index_name("stored", made, DOCUMENTS), {**BODY, "stored_fields": ["body"]}
        )
        assert page.outcome in ("RERANKED", "ORIGINAL_ORDER")
        assert all(hit["fields"]["body"] for hit in page.hits)

    async def test_a_field_that_is_an_object(self, client: RerankClient, engine: Engine, index_name: Indices) -> None:
        made = {"mappings": {"properties": {"title": {"type": "object", "enabled": False}, "body": {"type": "text"}}}}
        odd = {
            key: {"title": {"en": one["title"], "n": [1, {"x": None}]}, "body": one["body"]}
            for key, one in DOCUMENTS.items()
        }
        page = await reranked(client, engine, index_name("object", made, odd))
        assert (page.outcome, page.hits[0]["_id"]) == ("RERANKED", "d3")

    async def test_a_field_that_is_binary(self, client: RerankClient, engine: Engine, index_name: Indices) -> None:
        made = {"mappings": {"properties": {"title": {"type": "binary"}, "body": {"type": "text"}}}}
        blob = base64.b64encode(bytes(range(256)) * 4).decode()
        odd = {key: {"title": blob, "body": one["body"]} for key, one in DOCUMENTS.items()}
        page = await reranked(client, engine, index_name("binary", made, odd))
        assert (page.outcome, page.hits[0]["_id"]) == ("RERANKED", "d3")

    async def test_fields_of_no_text_at_all(self, client: RerankClient, engine: Engine, index_name: Indices) -> None:
        made = {"mappings": {"properties": {"title": {"enabled": False, "type": "object"}, "words": {"type": "text"}}}}
        values: list[object] = [True, None, [], {}, [[]], [None]]
        odd = {str(key): {"title": value, "words": "apple"} for key, value in enumerate(values)}
        page = await reranked(client, engine, index_name("odd", made, odd), {"query": {"match": {"words": "apple"}}})
        assert (page.outcome, page.reason) == ("ORIGINAL_ORDER", "TEXT_UNAVAILABLE")

    async def test_a_string_of_10_mb(self, client: RerankClient, engine: Engine, index_name: Indices) -> None:
        long = "winter storage of apple varieties " * (10 * 2**20 // 34)
        documents = {**DOCUMENTS, "long": {"title": "long", "body": long}}
        index = index_name("long", TEXTS, documents)
        for body in (BODY, BARE):
            page = await reranked(client, engine, index, body)
            assert (page.outcome, page.results[0].id) == ("RERANKED", "long")
            assert len(page.results) == len(page.hits) == 6

    async def test_a_document_that_is_deleted_between_search_and_fetch(
        self, engine: Engine, index_name: Indices
    ) -> None:
        if engine.url.startswith("https"):
            pytest.skip("the fault proxy speaks no TLS")
        index = index_name("deleted", TEXTS, DOCUMENTS)

        async def delete_first(exchange: Exchange) -> None:
            answer = await exchange.ask_node()
            engine.call("DELETE", f"/{index}/_doc/d3?refresh=true")
            await exchange.answer(answer)

        async with Proxy(engine.url) as proxy, sidecar_for(engine, proxy.url) as (client, _):
            own = hits_of(engine, index, BARE)
            proxy.spoil("_search", delete_first, times=1)
            page = await client.search(index, QUERY, BARE)
            assert (page.outcome, page.message.meta.scored) == ("RERANKED", len(own) - 1)
            assert sorted(page.hits, key=lambda hit: str(hit["_id"])) == sorted(own, key=lambda hit: str(hit["_id"]))
            place = next(place for place, hit in enumerate(own) if hit["_id"] == "d3")
            assert page.hits[place]["_id"] == "d3"
            assert "d3" not in [hit["_id"] for hit in (await client.search(index, QUERY, BARE)).hits]
