"""`rerank-sidecar doctor` and `PolicyService.Status`: a sidecar that does nothing is told from one that works."""

import asyncio
from collections.abc import Sequence
from typing import Any

import grpc
import numpy as np
import pytest
from typer.testing import CliRunner, Result

from connectors.faults import Fault
from connectors.memory import MemoryConnector
from sidecar.cli import app
from sidecar.cost import CostModel
from sidecar.scoring.base import Pair, Scores
from sidecar.scoring.fake import WordOverlapScorer
from sidecar.settings import Settings
from sidecar.v1 import rerank_pb2 as pb
from tests.calls import FORWARDING, ForwardingConnector
from tests.conftest import DOCUMENTS, Serve, settings

runner = CliRunner()
QUERIES = ("apple winter storage", "apple pie crust", "apple trees")


async def examined(serve: Serve, *options: str, configured: Settings | None = None, **served: Any) -> Result:
    async with serve(configured=configured, **served) as (_, sidecar):
        asked = [word for query in QUERIES for word in ("--query", query)]
        target = ["--target", f"127.0.0.1:{sidecar.port}"]
        return await asyncio.to_thread(runner.invoke, app, ["doctor", "--index", "docs", *asked, *target, *options])


def told(result: Result) -> str:
    return " ".join(result.output.split())


async def test_a_sidecar_that_works_is_said_to(serve: Serve) -> None:
    result = await examined(serve, scorer=WordOverlapScorer())
    assert result.exit_code == 0, result.output
    assert "nothing is wrong: 3 queries reranked" in told(result)


async def test_commands_show_the_end_users_own_rights_where_the_engine_asks_for_them(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, configured = ForwardingConnector(), settings(connectors=FORWARDING)
    monkeypatch.delenv("RERANK_SIDECAR_ENGINE_AUTHORIZATION", raising=False)
    refused = await examined(serve, configured=configured, connector=ForwardingConnector())
    assert "UNAUTHENTICATED" in told(refused)
    monkeypatch.setenv("RERANK_SIDECAR_ENGINE_AUTHORIZATION", "Basic dTpw")
    result = await examined(serve, configured=configured, connector=engine)
    assert result.exit_code == 0, result.output
    assert set(engine.asked) == {"Basic dTpw"}


async def test_an_index_without_a_policy_is_not_said_to_have_a_small_window(serve: Serve) -> None:
    nothing = settings(
        policies={"other": {"match": [{"index": "other"}], "text": {"fields": ["body"]}}}, default_policy=None
    )
    result = await examined(serve, configured=nothing)
    assert "3 of 3 queries are in the engine's order (NO_POLICY)" in told(result)
    assert "0 are reranked" not in told(result)


def same(_: int, pairs: Sequence[Pair]) -> Scores:
    return np.ones(len(pairs), np.float32)


def broken(*_: object) -> None:
    raise RuntimeError("broken")


@pytest.mark.parametrize(
    ("policy", "scorer", "options", "sentence"),
    [
        ({"text": {"fields": ["titel", "body"]}}, WordOverlapScorer(), [], "no hit has the field 'titel'"),
        ({}, WordOverlapScorer(fault=same), [], "the model gives all hits of a query the same score"),
        ({}, WordOverlapScorer(fault=broken), [], "3 of 3 queries are in the engine's order (MODEL_ERROR)"),
        ({"rank_window_size": 3}, WordOverlapScorer(), [], "10 hits were asked for and 3 are reranked"),
        ({"enabled": False}, WordOverlapScorer(), [], "(POLICY_DISABLED): the policy says `enabled: false`"),
        ({"mode": "shadow"}, WordOverlapScorer(), [], "(SHADOW): the policy says `mode: shadow`"),
        ({"percent": 0}, WordOverlapScorer(), [], "(HELD_OUT): the policy's `percent` leaves them out"),
        ({}, WordOverlapScorer(max_length=8), [], "of the passages are longer than the model reads"),
        (
            {"fusion": {"method": "linear", "model_weight": 0.0}, "cosine": None},
            WordOverlapScorer(),
            [],
            "no query's hits changed",
        ),
    ],
)
async def test_each_ill_is_named(
    serve: Serve, policy: dict[str, Any], scorer: WordOverlapScorer, options: list[str], sentence: str
) -> None:
    result = await examined(serve, *options, configured=settings(policy), scorer=scorer)
    assert result.exit_code == 1, result.output
    assert sentence in told(result)


async def test_a_field_that_is_there_and_empty_is_not_said_to_be_absent(serve: Serve) -> None:
    blank = MemoryConnector("main", {"docs": {key: {**one, "blank": ""} for key, one in DOCUMENTS.items()}})
    configured = settings({"text": {"fields": ["blank", "body"]}})
    result = await examined(serve, configured=configured, connector=blank, scorer=WordOverlapScorer())
    assert "the field 'blank' of the policy's `text.fields` is empty in every hit" in told(result)
    assert "no hit has" not in told(result)


async def test_a_slow_engine_and_a_tight_budget(serve: Serve) -> None:
    slow = MemoryConnector("main", {"docs": DOCUMENTS}, faults=[Fault(delay_s=0.3, on="search")] * 3)
    result = await examined(serve, configured=settings({"budget_ms": 400}), connector=slow, scorer=WordOverlapScorer())
    assert "of a budget of 400 ms" in told(result)
    tight = await examined(serve, configured=settings({"budget_ms": 200}), cost=CostModel(overhead_s=10))
    assert "(OVERLOADED)" in told(tight)
    assert "a smaller `rank_window_size`" in told(tight)


async def test_status_tells_how_a_policy_has_been_doing(serve: Serve) -> None:
    async with serve(WordOverlapScorer(fault=broken)) as (client, _):
        for _ in range(25):
            await client.search("docs", "apple", {"query": {"match": {"body": "apple"}}})
        found = await client.policies.Status(pb.StatusRequest())
        (status,) = found.policies
        assert (status.policy, status.replies, status.reranked) == ("default", 25, 0)
        assert dict(status.reasons) == {"MODEL_ERROR": 0.2, "CIRCUIT_OPEN": 0.8}
        assert list(status.findings) == ["100% of replies are in the engine's order, most of them for CIRCUIT_OPEN"]
        with pytest.raises(grpc.aio.AioRpcError, match="policy 'none' is not configured; allowed: default"):
            await client.policies.Status(pb.StatusRequest(policy="none"))


def test_mistakes_are_told() -> None:
    result = runner.invoke(app, ["doctor", "--index", "docs"])
    assert (result.exit_code, "name real queries" in result.output) == (2, True)
    absent = runner.invoke(app, ["doctor", "--index", "docs", "--query", "a", "--target", "127.0.0.1:1"])
    assert (absent.exit_code, "UNAVAILABLE" in absent.output) == (2, True)
