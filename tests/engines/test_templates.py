"""Search templates: the engine makes the body, which is then searched and reranked as any other."""

import json
import re
from collections.abc import Iterator

import grpc
import pytest

from connectors.hits import Json
from sidecar.client import Page, RerankClient, error_details
from sidecar.scoring.fake import WordOverlapScorer
from sidecar.v1 import rerank_pb2 as pb
from tests.conftest import DOCUMENTS
from tests.engines import compare
from tests.engines.asking import Direct, HashScorer, direct, reply_of
from tests.engines.conftest import SidecarOn
from tests.engines.engine import Engine, indices

QUERY = "apple varieties for winter storage"
SOURCE = """{
  "query": {"match": {"body": "{{words}}"}},
  {{#marked}} "highlight": {"fields": {"body": {}}}, {{/marked}}
  "from": {{start}}, "size": {{size}}
}"""
STORED = "rerank-sidecar-test-template"
POLICIES: Json = {
    "on": {"text": {"fields": ["title", "body"]}, "fusion": {"method": "replace"}, "budget_ms": 5000},
    "off": {"text": {"fields": ["title", "body"]}, "enabled": False},
}


@pytest.fixture(scope="module")
def books(engine: Engine) -> Iterator[str]:
    """An index, and a stored template where the engine has them."""
    with indices(engine) as names:
        yield names("books", documents=DOCUMENTS)


@pytest.fixture
def stored(engine: Engine) -> Iterator[str]:
    """The id of a stored template."""
    engine.needs("search templates")
    engine.call("PUT", f"/_scripts/{STORED}", {"script": {"lang": "mustache", "source": SOURCE}})
    yield STORED
    engine.call("DELETE", f"/_scripts/{STORED}")


def params(start: int, size: int, **more: object) -> Json:
    return {"words": "apple winter", "start": start, "size": size, **more}


async def search(client: RerankClient, index: str, template: Json, policy: str = "on", body: str = "") -> Page:
    options = pb.Options(policy=policy)
    asked = pb.SearchRequest(index=index, query=QUERY, template=json.dumps(template), options=options, body=body)
    return Page(await client.stub.Search(asked, timeout=30))


async def refusal(client: RerankClient, index: str, template: Json, body: str = "") -> tuple[str, str, str]:
    """The status of a search that is refused, the engine's or the sidecar's own name of the error, and the message."""
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await search(client, index, template, body=body)
    details = error_details(raised.value)
    return raised.value.code().name, details.reason if details else "", raised.value.details() or ""


async def straight_of(straight: Direct, index: str, template: Json) -> compare.Answer:
    """The engine's own answer, without the HTTP status that OpenSearch adds to those of templates alone."""
    text = await straight.ask("POST", f"/{index}/_search/template", template)
    return compare.Answer(re.sub(r',"status":200}$', "}", text))


class TestMade:
    @pytest.mark.parametrize("marked", [False, True])
    async def test_with_reranking_off_it_is_the_engines_own_answer(
        self, engine: Engine, books: str, stored: str, sidecar_on: SidecarOn, marked: bool
    ) -> None:
        values = params(1, 3, marked=marked)
        async with (
            direct(engine) as straight,
            sidecar_on(engine, policies=POLICIES, default_policy="off") as (client, _),
        ):
            for template in ({"id": stored, "params": values}, {"source": SOURCE, "params": values}):
                page = await search(client, books, template, "off")
                own = await straight_of(straight, books, template)
                assert page.reason == "POLICY_DISABLED"
                assert compare.same(own, compare.Answer(page.message.response)) == []

    @pytest.mark.parametrize(("start", "size"), [(0, 2), (1, 3), (3, 10), (0, 100)])
    async def test_its_hits_are_reranked_and_the_page_is_that_of_the_template(
        self, engine: Engine, books: str, stored: str, sidecar_on: SidecarOn, start: int, size: int
    ) -> None:
        scorer = HashScorer()
        texts = {(books, key): f"{document['title']}\n{document['body']}" for key, document in DOCUMENTS.items()}
        template = {"id": stored, "params": params(start, size, marked=True)}
        async with (
            direct(engine) as straight,
            sidecar_on(engine, scorer=scorer, policies=POLICIES, default_policy="off") as (client, _),
        ):
            page = await search(client, books, template)
            own = await straight_of(straight, books, template)
            wide = await straight_of(straight, books, {"id": stored, "params": params(0, 100, marked=True)})
        expected = compare.ranked(wide, 100, texts, lambda text: scorer.foretold(QUERY, text))
        asked = compare.Page(start, size)
        assert expected.outcome == "RERANKED"
        assert compare.reranked(own, wide, asked, expected, reply_of(page)) == []

    async def test_a_source_that_is_an_object_needs_no_params(
        self, engine: Engine, books: str, sidecar_on: SidecarOn
    ) -> None:
        engine.needs("search templates")
        async with sidecar_on(engine, policies=POLICIES, default_policy="on") as (client, _):
            page = await search(client, books, {"source": {"query": {"match": {"body": "winter"}}, "size": 1}})
        assert (page.outcome, len(page.hits), page.response["hits"]["total"]["value"]) == ("RERANKED", 1, 2)

    async def test_a_template_that_asks_for_another_order_is_skipped(
        self, engine: Engine, books: str, sidecar_on: SidecarOn
    ) -> None:
        engine.needs("search templates")
        source = {"sort": ["_doc"], "size": 2}
        async with sidecar_on(engine, policies=POLICIES, default_policy="on") as (client, _):
            page = await search(client, books, {"source": source})
        assert (page.outcome, page.reason, len(page.hits)) == ("SKIPPED", "NOT_RELEVANCE_SORTED", 2)


class TestRefused:
    async def test_an_unknown_template_is_told_by_the_engines_own_name(
        self, engine: Engine, books: str, sidecar_on: SidecarOn
    ) -> None:
        engine.needs("search templates")
        async with sidecar_on(engine, policies=POLICIES, default_policy="on") as (client, _):
            code, reason, message = await refusal(client, books, {"id": "no-such-template"})
        assert (code, reason) == ("FAILED_PRECONDITION", "resource_not_found_exception")
        assert "no-such-template" in message

    @pytest.mark.parametrize(
        ("template", "reason"),
        [
            ({"source": '{"query": {{words}'}, "script_exception"),
            ({}, "action_request_validation_exception"),
            ({"source": '{"query": {"no_such_query": {}}}'}, "parsing_exception"),
        ],
        ids=["no mustache", "nothing", "no query"],
    )
    async def test_a_template_that_cannot_be_searched(
        self, engine: Engine, books: str, sidecar_on: SidecarOn, template: Json, reason: str
    ) -> None:
        engine.needs("search templates")
        async with sidecar_on(engine, policies=POLICIES, default_policy="on") as (client, _):
            assert (await refusal(client, books, template))[:2] == ("INVALID_ARGUMENT", reason)

    async def test_a_page_that_is_no_number(self, engine: Engine, books: str, sidecar_on: SidecarOn) -> None:
        engine.needs("search templates")
        async with sidecar_on(engine, policies=POLICIES, default_policy="on") as (client, _):
            code, reason, message = await refusal(client, books, {"source": '{"size": "{{size}}"}'})
        assert (code, reason) == ("INVALID_ARGUMENT", "INVALID_REQUEST")
        assert "`size`" in message

    async def test_body_and_template_exclude_each_other(
        self, engine: Engine, books: str, sidecar_on: SidecarOn
    ) -> None:
        async with sidecar_on(engine, policies=POLICIES, default_policy="on") as (client, _):
            code, reason, message = await refusal(client, books, {"id": "any"}, body="{}")
        assert (code, reason) == ("INVALID_ARGUMENT", "INVALID_REQUEST")
        assert "exclude each other" in message

    async def test_an_engine_without_templates_says_so(self, engine: Engine, books: str, sidecar_on: SidecarOn) -> None:
        """The call fails as the caller's, in the engine's words, and the next one is served."""
        if "search templates" not in engine.lacks:
            pytest.skip("this engine has search templates")
        scorer = WordOverlapScorer()
        async with sidecar_on(engine, scorer=scorer, policies=POLICIES, default_policy="on") as (client, _):
            code, reason, message = await refusal(client, books, {"source": {"size": 1}})
            assert code == "INVALID_ARGUMENT"
            assert reason
            assert "no handler found" in message
            page = await client.search(books, QUERY, {"query": {"match": {"body": "apple"}}})
        assert page.outcome == "RERANKED"
