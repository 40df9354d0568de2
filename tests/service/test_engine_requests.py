"""What is sent to the engine beside the app's own body: a template's body, a time limit, the end user's rights."""

import json
from typing import Any

import grpc
import pytest

from connectors.errors import EngineUnavailable, InvalidQuery
from connectors.hits import Hits, Json
from sidecar.settings import Settings
from sidecar.v1 import rerank_pb2 as pb
from tests.calls import BODY, QUERY, RecordingConnector, engine_ids, status
from tests.conftest import DOCUMENTS, Serve, settings

TEMPLATE = {"source": {"query": {"match": {"body": "{{words}}"}}}, "params": {"words": "apple winter"}}


class TemplateConnector(RecordingConnector):
    """Makes BODY of any template, and keeps who asked."""

    def __init__(self) -> None:
        super().__init__()
        self.rendered: list[Json] = []
        self.users: list[str] = []

    async def render(self, template: Json, *, timeout_s: float) -> Json:
        """See :meth:`connectors.base.Connector.render`."""
        self.rendered.append(template)
        if "id" in template:
            raise InvalidQuery("no such template", status=400, error_type="illegal", reason="unable to find script")
        return {**BODY, "size": 3}

    def acting_as(self, authorization: str) -> "TemplateConnector":
        """See :meth:`connectors.base.Connector.acting_as`; views share what was asked."""
        self.users.append(authorization)
        super().acting_as(authorization)
        return self


def template_request(**request: Any) -> pb.SearchRequest:
    return pb.SearchRequest(index="docs", query=QUERY, **request)


async def test_a_template_is_made_into_a_body_by_the_engine_and_reranked(serve: Serve) -> None:
    engine = TemplateConnector()
    async with serve(connector=engine) as (client, _):
        got = await client.stub.Search(template_request(template=json.dumps(TEMPLATE)))
        told = await client.policies.Explain(pb.ExplainRequest(index="docs", template=json.dumps(TEMPLATE)))
    assert engine.rendered == [TEMPLATE, TEMPLATE]
    assert got.outcome == pb.OUTCOME_RERANKED
    assert len(got.results) == 3
    assert engine.asked[0][1] == {**BODY, "from": 0, "size": 100} == json.loads(told.engine_body)


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({"template": json.dumps(TEMPLATE), "body": "{}"}, "exclude each other"),
        ({"template": "[1]"}, "template"),
        ({"template": "{"}, "template"),
        ({"template": '{"id": "gone"}'}, "unable to find script"),
    ],
)
async def test_a_template_that_cannot_be_used_is_named(serve: Serve, request_: dict[str, str], words: str) -> None:
    async with serve(connector=TemplateConnector()) as (client, _):
        error = await status(client.stub.Search(template_request(**request_)))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert words in str(error.details())


async def test_a_template_that_makes_what_nobody_can_walk_is_refused(serve: Serve) -> None:
    class Deep(TemplateConnector):
        async def render(self, template: Json, *, timeout_s: float) -> Json:
            body: Json = {"match_all": {}}
            for _ in range(1000):
                body = {"bool": {"must": body}}
            return {"query": body}

    async with serve(connector=Deep()) as (client, _):
        error = await status(client.stub.Search(template_request(template=json.dumps(TEMPLATE))))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "`template` is nested too deeply" in str(error.details())


async def test_a_search_that_the_engine_breaks_on_only_when_widened_is_asked_as_it_is(serve: Serve) -> None:
    class Breaking(RecordingConnector):
        async def search(self, *args: Any, **more: Any) -> Any:
            found = await super().search(*args, **more)
            if "size" in args[1]:
                raise EngineUnavailable("null_pointer_exception", status=500, transient=False)
            return found

    engine = Breaking()
    async with serve(connector=engine) as (client, _):
        page = await client.search("docs", QUERY, BODY)
        error = await status(client.search("docs", QUERY, {**BODY, "size": 5}))
    assert (page.outcome, page.reason) == ("SKIPPED", "WINDOW_REFUSED")
    assert error.code() == grpc.StatusCode.UNAVAILABLE
    assert len(engine.asked) == 4


class Refusing(RecordingConnector):
    """Refuses every search with a window, as an index with a small `max_result_window` does."""

    async def search(self, *args: Any, **more: Any) -> Any:
        """See :meth:`connectors.base.Connector.search`."""
        found = await super().search(*args, **more)
        if args[1].get("size", 10) > 10:
            raise InvalidQuery("too large", status=400, error_type="illegal_argument_exception", reason="too large")
        return found


async def test_what_is_refused_without_being_widened_is_asked_once(serve: Serve) -> None:
    engine = Refusing()
    async with serve(connector=engine) as (client, _):
        error = await status(client.search("docs", QUERY, {**BODY, "size": 100}))
        assert len(engine.asked) == 1
        page = await client.search("docs", QUERY, BODY)
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert (page.outcome, page.reason, len(engine.asked)) == ("SKIPPED", "WINDOW_REFUSED", 3)


async def test_the_second_try_has_a_time_limit_too(serve: Serve) -> None:
    engine = Refusing()
    async with serve(connector=engine, configured=settings({"engine_timeout": True})) as (client, _):
        await client.search("docs", QUERY, BODY)
    first, second = (int(asked[1]["timeout"].removesuffix("ms")) for asked in engine.asked)
    assert 0 < second <= first <= 1600  # four fifths of `search_timeout_ms`


async def test_the_engine_is_told_when_to_stop_where_the_policy_says_so(serve: Serve) -> None:
    engine = RecordingConnector()
    async with serve(connector=engine, configured=settings({"engine_timeout": True})) as (client, _):
        await client.search("docs", QUERY, BODY)
        await client.search("docs", QUERY, {**BODY, "timeout": "7s"})
        await client.search("docs", QUERY, BODY, params={"timeout": "8s"})
        await client.search("docs", QUERY, {**BODY, "size": 0})
        told = await client.policies.Explain(pb.ExplainRequest(index="docs", body=json.dumps(BODY)))
    ours, body, url, skipped = (asked[1].get("timeout") for asked in engine.asked)
    assert (body, url) == ("7s", None)
    for timeout in (ours, skipped):
        assert timeout is not None
        assert timeout.endswith("ms")
        assert 0 < int(timeout.removesuffix("ms")) <= 1600
    assert any(change.startswith("timeout: none -> ") for change in told.changes)


def forwarding() -> Settings:
    connector = {"type": "opensearch", "hosts": ["http://127.0.0.1:9200"], "forward_authorization": True}
    return settings({"order_cache_s": 60}, connectors={"main": connector})


async def test_the_end_users_rights_are_used_and_never_the_sidecars_own(serve: Serve) -> None:
    engine = TemplateConnector()
    async with serve(connector=engine, configured=forwarding()) as (client, _):
        await client.search("docs", QUERY, BODY, authorization="Basic one")
        error = await status(client.search("docs", QUERY, BODY))
        missing = await status(client.rerank(QUERY, [pb.Candidate(id="d1", index="docs")]))
        texts = await client.rerank(QUERY, ["apple", "winter storage"])
    assert engine.users == ["Basic one"]
    assert len(engine.asked) == 1
    for refused in (error, missing):
        assert refused.code() == grpc.StatusCode.UNAUTHENTICATED
        assert "`authorization`" in str(refused.details())
    assert texts.outcome == pb.OUTCOME_RERANKED


async def test_no_user_sees_an_order_kept_for_another(serve: Serve) -> None:
    async with serve(connector=RecordingConnector(), configured=forwarding()) as (client, _):
        remembered = [
            (await client.search("docs", QUERY, BODY, authorization=user)).message.meta.remembered
            for user in ("Basic one", "Basic two", "Basic one")
        ]
    assert remembered == [False, False, True]


async def test_without_forwarding_the_callers_authorization_is_left_alone(serve: Serve) -> None:
    engine = TemplateConnector()
    async with serve(connector=engine) as (client, _):
        await client.search("docs", QUERY, BODY, authorization="Basic one")
    assert engine.users == []


async def test_hits_without_ids_are_passed_on(serve: Serve) -> None:
    """As `stored_fields: _none_` leaves them: nothing can be fetched, so nothing is scored and nothing lost."""

    class Nameless(RecordingConnector):
        async def search(self, *args: Any, **more: Any) -> Any:
            found = await super().search(*args, **more)
            rows = [{"_index": hit.ref.index, "_score": hit.score} for hit in found.hits]
            return Hits.read(json.dumps({**found.raw, "hits": {**found.raw["hits"], "hits": rows}}))

    async with serve(connector=Nameless()) as (client, _):
        page = await client.search("docs", QUERY, {**BODY, "stored_fields": "_none_"})
    assert (page.outcome, page.reason) == ("ORIGINAL_ORDER", "TEXT_UNAVAILABLE")
    assert len(page.hits) == len(await engine_ids()) <= len(DOCUMENTS)
