"""The cosine beside the model: a say of its own where it is there in time, and never at the model's expense."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from sidecar.cost import CostModel
from sidecar.loaded import LoadedModel
from sidecar.scoring.base import Pair, Scorer, Scores
from sidecar.scoring.fake import KeepingScorer, WordOverlapScorer
from sidecar.settings import ModelSettings, Settings
from tests.calls import until
from tests.conftest import Serve, settings

QUERY = "apple winter"
BODY = {"query": {"match": {"body": "apple"}}, "size": 10}
SLOW = 0.004
"""Seconds a token: some 0.2 s a call of this corpus."""


def configured(*, order_rest: bool = False, **policy: Any) -> Settings:
    return settings({"fusion": {"method": "linear"}, "cosine": {"order_rest": order_rest}, **policy})


def loading(model: Scorer, near: Scorer, cost: CostModel | None = None) -> Any:
    """A loader of two scorers, each with a cost model of its own."""

    def load(name: str, one: ModelSettings) -> LoadedModel:
        own = CostModel(overhead_s=1e-4) if name == "near" or cost is None else cost
        return LoadedModel.of(name, near if name == "near" else model, own, one)

    return load


async def test_what_is_read_in_time_has_a_say_and_is_told(serve: Serve) -> None:
    model, near = WordOverlapScorer(), KeepingScorer()
    async with serve(load=loading(model, near), configured=configured()) as (client, app):
        await app.ready()
        page = await client.search("docs", QUERY, BODY)
    assert page.outcome == "RERANKED"
    assert page.message.meta.compared == page.message.meta.scored == page.message.meta.candidates == 5
    assert page.message.meta.cosine_version == near.version
    assert all(result.HasField("cosine") and result.HasField("relevance_score") for result in page.results)


async def test_documents_read_before_cost_no_time_after_the_model(serve: Serve) -> None:
    near = KeepingScorer()
    async with serve(load=loading(WordOverlapScorer(seconds_per_token=1e-4), near), configured=configured()) as (
        client,
        app,
    ):
        await app.ready()
        await client.search("docs", QUERY, BODY)
        calls = near.calls
        page = await client.search("docs", "apple storage", BODY)
    assert near.calls == calls + 1, "one job, beside the model"
    assert page.message.meta.compared == 5


async def test_a_cosine_that_would_be_late_is_left_out_and_made_later(serve: Serve) -> None:
    near = KeepingScorer(seconds_per_token=SLOW)
    slow = CostModel(overhead_s=1e-4, token_s=SLOW)

    def load(name: str, one: ModelSettings) -> LoadedModel:
        if name == "near":
            return LoadedModel.of(name, near, slow, one)
        return LoadedModel.of(name, WordOverlapScorer(), CostModel(overhead_s=1e-4), one)

    async with serve(load=load, configured=configured(budget_ms=120)) as (client, app):
        await app.ready()
        started = time.monotonic()
        page = await client.search("docs", QUERY, BODY)
        took_s = time.monotonic() - started
        assert (page.outcome, page.message.meta.scored, page.message.meta.compared) == ("RERANKED", 5, 0)
        assert took_s < 0.15
        await until(lambda: near.pairs_scored == 5)
        near.seconds_per_token = 0.0
        again = await client.search("docs", QUERY, BODY)
    assert again.message.meta.compared == 5


async def test_a_policy_may_not_wait_for_new_documents(serve: Serve) -> None:
    near = KeepingScorer()
    own = settings({"fusion": {"method": "linear"}, "cosine": {"wait": False}})
    async with serve(load=loading(WordOverlapScorer(), near), configured=own) as (client, app):
        await app.ready()
        first = await client.search("docs", QUERY, BODY)
        await until(lambda: near.pairs_scored == 5)
        second = await client.search("docs", QUERY, BODY)
    assert [page.message.meta.compared for page in (first, second)] == [0, 5]


@pytest.mark.parametrize("fault", ["raises", "nan", "hangs"])
async def test_a_cosine_that_fails_never_costs_the_models_order(serve: Serve, fault: str) -> None:
    def break_(_: int, pairs: Sequence[Pair]) -> Scores | None:
        if fault == "raises":
            raise RuntimeError("a fault of the bi-encoder")
        if fault == "hangs":
            time.sleep(0.6)
        return np.full(len(pairs), np.nan, np.float32)

    load = loading(WordOverlapScorer(), KeepingScorer(fault=break_))
    async with serve(load=load, configured=configured(budget_ms=400)) as (client, app):
        await app.ready()
        page = await client.search("docs", QUERY, BODY)
    assert (page.outcome, page.message.meta.scored, page.message.meta.compared) == ("RERANKED", 5, 0)


@pytest.mark.parametrize("order_rest", [True, False])
async def test_what_the_model_has_no_time_for_is_ordered_by_the_cosine_if_the_policy_says_so(
    serve: Serve, *, order_rest: bool
) -> None:
    never = CostModel(overhead_s=10.0)
    load = loading(WordOverlapScorer(), KeepingScorer(), never)
    async with serve(load=load, configured=configured(order_rest=order_rest)) as (client, app):
        await app.ready()
        await client.search("docs", QUERY, BODY)  # the one that is tried all the same
        page = await client.search("docs", QUERY, BODY)
        ids = [result.id for result in page.results]
    if order_rest:
        assert (page.outcome, page.reason, page.message.meta.scored) == ("PARTIAL", "OVERLOADED", 0)
        assert page.message.meta.compared == 5
        cosines = [result.cosine for result in page.results]
        assert cosines[0] == max(cosines)
        assert not any(result.HasField("relevance_score") for result in page.results)
        assert sorted(ids) == sorted(hit["_id"] for hit in page.hits)
    else:
        assert (page.outcome, page.reason) == ("ORIGINAL_ORDER", "OVERLOADED")
        assert not any(result.HasField("cosine") for result in page.results)


async def test_a_bi_encoder_that_did_not_load_costs_its_opinion_only(serve: Serve) -> None:
    def load(name: str, one: ModelSettings) -> LoadedModel:
        if name == "near":
            raise ValueError("no such file")
        return LoadedModel.of(name, WordOverlapScorer(), CostModel(overhead_s=1e-4), one)

    async with serve(load=load, configured=configured()) as (client, app):
        await app.ready()
        page = await client.search("docs", QUERY, BODY)
    assert (page.outcome, page.message.meta.compared) == ("RERANKED", 0)


async def test_many_callers_get_their_answers_while_documents_are_read_in_spare_time(serve: Serve) -> None:
    near = KeepingScorer(seconds_per_token=2e-4)
    model = WordOverlapScorer(seconds_per_token=1e-4)
    cost = CostModel(overhead_s=1e-4, token_s=1e-4)
    async with serve(load=loading(model, near, cost), configured=configured()) as (client, app):
        await app.ready()
        pages = await asyncio.gather(*(client.search("docs", f"apple w{number}", BODY) for number in range(40)))
        assert {page.outcome for page in pages} == {"RERANKED"}
        assert all(page.message.meta.compared in (0, 5) for page in pages)
