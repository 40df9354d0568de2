"""Aliases and patterns on their way through the server: the policy is that of what stands behind the name, now."""

import threading
from collections.abc import Mapping
from typing import Any

import grpc
import pytest

from connectors.base import Member
from connectors.errors import EngineTimeout, IndexNotFound
from connectors.hits import Hits, Json
from connectors.memory import Fault, MemoryConnector
from sidecar.client import Page, RerankClient
from sidecar.settings import Settings
from sidecar.v1 import rerank_pb2 as pb
from tests.calls import BODY, PATIENCE_S, QUERY, status, within
from tests.conftest import DOCUMENTS, Serve, settings


class AliasConnector(MemoryConnector):
    """A memory connector whose aliases can be moved; it counts how often it was asked what names stand for."""

    def __init__(self, **aliases: str) -> None:
        super().__init__("main", {"books-1": DOCUMENTS, "films-1": DOCUMENTS})
        self.aliases = aliases
        self.resolved: list[str] = []
        self.searched: list[Json] = []

    async def search(
        self, index: str, body: Json, *, timeout_s: float, params: Mapping[str, str] | None = None
    ) -> Hits:
        """See :meth:`connectors.base.Connector.search`."""
        self.searched.append(body)
        return await super().search(self.aliases.get(index, index), body, timeout_s=timeout_s, params=params)

    async def resolve(self, expression: str, *, timeout_s: float) -> tuple[Member, ...]:
        """See :meth:`connectors.base.Connector.resolve`."""
        self.resolved.append(expression)
        found = await super().resolve(self.aliases.get(expression, expression), timeout_s=timeout_s)
        return tuple(Member(one.index, (expression,) if expression in self.aliases else ()) for one in found)


def two_policies(books: tuple[str, ...] = ("books-*",), budget_ms: int = 2000, **server: Any) -> Settings:
    def policy(*patterns: str, window: int, **more: Any) -> dict[str, Any]:
        match = [{"index": pattern} for pattern in patterns]
        return {"match": match, "text": {"fields": ["title", "body"]}, "rank_window_size": window, **more}

    return settings(
        policies={
            "books": policy(*books, window=5, budget_ms=budget_ms),
            "films": policy("films-*", window=4, budget_ms=budget_ms, on_conflict="refuse"),
        },
        default_policy="books",
        server={"address": "127.0.0.1:0", "metrics_address": None, **server},
    )


async def search(client: RerankClient, index: str, **options: Any) -> Page:
    return await client.search(index, QUERY, BODY, options=pb.Options(**options))


async def test_an_alias_gets_the_policy_of_its_index(serve: Serve) -> None:
    engine = AliasConnector(now="films-1")
    async with serve(connector=engine, configured=two_policies()) as (client, _):
        for _ in range(3):
            page = await search(client, "now")
            assert (page.outcome, page.message.meta.policy) == ("RERANKED", "films")
    assert engine.resolved == ["now"]
    assert [body["size"] for body in engine.searched] == [10, 10, 10]


async def test_a_moved_alias_is_noticed_by_its_first_hits(serve: Serve) -> None:
    engine = AliasConnector(now="films-1")
    async with serve(connector=engine, configured=two_policies()) as (client, _):
        assert (await search(client, "now")).message.meta.policy == "films"
        engine.aliases["now"] = "books-1"
        page = await search(client, "now")
        assert (page.outcome, page.message.meta.policy) == ("RERANKED", "books")
        assert {hit["_index"] for hit in page.hits} == {"books-1"}
        engine.searched.clear()
        assert (await search(client, "now")).message.meta.policy == "books"
    assert engine.resolved == ["now", "now"]
    assert len(engine.searched) == 1


async def test_when_asking_again_fails_the_hits_that_are_there_are_used(serve: Serve) -> None:
    engine = AliasConnector(now="films-1")
    async with serve(connector=engine, configured=two_policies()) as (client, _):
        await search(client, "now")
        engine.aliases["now"] = "books-1"
        engine.script.append(Fault(error=EngineTimeout("slow"), on="resolve"))
        page = await search(client, "now")
    assert page.outcome == "RERANKED"
    assert {hit["_index"] for hit in page.hits} == {"books-1"}


async def test_an_engine_that_cannot_tell_costs_no_search(serve: Serve) -> None:
    engine = AliasConnector(now="films-1")
    engine.script.append(Fault(error=IndexNotFound("no such thing"), on="resolve"))
    async with serve(connector=engine, configured=two_policies()) as (client, _):
        page = await search(client, "now")
        told = await client.policies.Explain(pb.ExplainRequest(index="now"))
    assert (page.outcome, page.message.meta.policy) == ("RERANKED", "books")
    assert "could not say" in told.why


async def test_an_engine_that_is_slow_to_tell_holds_up_nobody_for_long(serve: Serve) -> None:
    engine = AliasConnector(now="films-1")
    engine.script.append(Fault(delay_s=PATIENCE_S, on="resolve", always=True))
    async with serve(connector=engine, configured=two_policies(budget_ms=400)) as (client, _):
        async with within(0.1):  # a quarter of the budget
            page = await search(client, "now")
        assert page.outcome == "RERANKED"
        async with within(0.1):
            texts = await client.rerank(QUERY, ["apple", "winter storage"], index="else")
        assert texts.outcome == pb.OUTCOME_RERANKED


async def test_a_caller_without_time_gets_its_candidates_back_though_names_are_unknown(serve: Serve) -> None:
    engine = AliasConnector(now="films-1")
    engine.script.append(Fault(delay_s=PATIENCE_S, on="resolve", always=True))
    async with serve(connector=engine, configured=two_policies()) as (client, _):
        got = await client.rerank(QUERY, ["apple", "winter"], index="now", options=pb.Options(budget_ms=1))
    assert (got.outcome, got.reason) == (pb.OUTCOME_ORIGINAL_ORDER, pb.REASON_BUDGET_EXHAUSTED)


async def test_indices_of_policies_that_refuse_company_are_refused(serve: Serve) -> None:
    async with serve(connector=AliasConnector(), configured=two_policies()) as (client, _):
        error = await status(search(client, "*"))
        named = await search(client, "*", policy="films")
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    for word in ("books-1", "films-1", "refuses"):
        assert word in str(error.details())
    assert named.message.meta.policy == "films"


async def test_no_one_is_asked_where_it_would_change_nothing(serve: Serve) -> None:
    engine = AliasConnector(now="books-1")
    async with serve(connector=engine, configured=settings()) as (client, _):
        await search(client, "now")
        await search(client, "books-*")
    assert engine.resolved == []


async def test_with_nothing_remembered_each_call_asks(serve: Serve) -> None:
    engine = AliasConnector(now="films-1")
    async with serve(connector=engine, configured=two_policies(names_ttl_s=0)) as (client, _):
        for _ in range(3):
            await search(client, "now")
    assert engine.resolved == ["now"] * 3


async def test_explain_asks_as_a_search_does(serve: Serve) -> None:
    async with serve(connector=AliasConnector(now="films-1"), configured=two_policies()) as (client, _):
        told = await client.policies.Explain(pb.ExplainRequest(index="now"))
    assert told.policy.name == "films"
    assert told.rank_window_size == 4


async def test_where_not_all_is_allowed_texts_are_fetched_from_concrete_indices_only(serve: Serve) -> None:
    """An alias may have a filter, and a fetch by id passes it by."""
    connectors = {"main": {"type": "memory", "indices": {"x": "unused"}, "allow_indices": ["now", "books-*"]}}
    async with serve(connector=AliasConnector(now="films-1"), configured=settings(connectors=connectors)) as (
        client,
        _,
    ):
        allowed = await client.rerank(QUERY, [pb.Candidate(id=key, index="books-1") for key in DOCUMENTS], index="now")
        behind = await status(client.rerank(QUERY, [pb.Candidate(id="d1", index="films-1")], index="now"))
        by_alias = await status(client.rerank(QUERY, [pb.Candidate(id="d1")], index="now"))
    assert (allowed.outcome, allowed.meta.scored) == (pb.OUTCOME_RERANKED, len(DOCUMENTS))
    assert {behind.code(), by_alias.code()} == {grpc.StatusCode.PERMISSION_DENIED}
    assert "films-1" in str(behind.details())
    assert "'now' is not a concrete index" in str(by_alias.details())


async def test_a_call_that_names_many_indices_has_the_text_of_all(serve: Serve) -> None:
    """Few of them are asked for at once; those that are too many candidates are refused before any is."""
    names = [f"books-{number}" for number in range(40)]
    connectors = {"main": {"type": "memory", "indices": {"x": "unused"}, "allow_indices": ["books-*"]}}
    engine = MemoryConnector("main", dict.fromkeys(names, DOCUMENTS))
    limited = settings({"limits": {"candidates": 40}, "rank_window_size": 40}, connectors=connectors)
    async with serve(connector=engine, configured=limited) as (client, _):
        candidates = [pb.Candidate(id="d1", index=name) for name in names]
        reply = await client.rerank(QUERY, candidates, connector="main")
        assert (reply.outcome, reply.meta.scored) == (pb.OUTCOME_RERANKED, len(names))
        refused = await status(client.rerank(QUERY, [*candidates, candidates[0]], connector="main"))
        assert refused.details() == "there are 41 `candidates`, at most 40 are allowed"


async def test_a_point_in_time_tells_nothing_of_where_an_alias_leads(serve: Serve) -> None:
    class PointInTime(AliasConnector):
        async def search(self, index: str, body: Json, **more: Any) -> Hits:
            plain = {key: value for key, value in body.items() if key != "pit"}
            return await super().search(index or "books-1", plain, **more)

    engine = PointInTime(now="films-1")
    async with serve(connector=engine, configured=two_policies()) as (client, _):
        page = await client.search("now", QUERY, {**BODY, "pit": {"id": "opened on books-1"}})
        assert page.message.meta.policy == "films"
        assert {hit["_index"] for hit in page.hits} == {"books-1"}
    assert engine.resolved == ["now"]


@pytest.mark.parametrize("index", ["books-1", "books-2", "books-1,books-2"])
async def test_names_that_settle_themselves_ask_nobody(serve: Serve, index: str) -> None:
    configured = two_policies(books=("books-1", "books-2"))
    engine = AliasConnector()
    async with serve(connector=engine, configured=configured) as (client, _):
        told = await client.policies.Explain(pb.ExplainRequest(index=index))
    assert told.policy.name == "books"
    assert engine.resolved == []


async def test_the_policy_of_thousands_of_indices_is_worked_out_beside_the_event_loop(serve: Serve) -> None:
    threads: list[int] = []

    class Watched(str):
        """An index name that tells which threads look at it to match it."""

        __slots__ = ()

        def startswith(self, *arguments: Any) -> bool:
            """See :meth:`str.startswith`."""
            threads.append(threading.get_ident())
            return super().startswith(*arguments)

    class Large(AliasConnector):
        async def resolve(self, expression: str, *, timeout_s: float) -> tuple[Member, ...]:
            found = await super().resolve(expression, timeout_s=timeout_s)
            return (*found, *(Member(Watched(f"films-{number}"), ("now",)) for number in range(2, 5000)))

    async with serve(connector=Large(now="films-1"), configured=two_policies()) as (client, _):
        for _ in range(2):
            assert (await search(client, "now")).message.meta.policy == "films"
    assert threads
    assert threading.get_ident() not in threads
