"""List and Explain: which policy an index gets, why, and what would be sent to the engine. They run nothing."""

import json
from typing import Any

import pytest

from sidecar.scoring.fake import WordOverlapScorer
from sidecar.settings import Settings
from sidecar.v1 import rerank_pb2 as pb
from tests.calls import RecordingConnector
from tests.conftest import Serve, settings


def several() -> Settings:
    text = {"fields": ["title", {"name": "body", "max_chars": 100}]}
    policies = {
        "news": {"match": [{"index": "news-*"}, {"index": "n", "connector": "main"}], "text": text},
        "off": {"match": [{"index": "old"}], "text": text, "enabled": False, "rank_window_size": 7},
        "rest": {"text": text, "budget_ms": 123},
        "turned_off": {"text": text, "mode": "off"},
    }
    return settings(policies=policies, default_policy="rest")


async def test_list_tells_all_policies_in_the_files_order(serve: Serve) -> None:
    async with serve(configured=several()) as (client, _):
        told = await client.policies.List(pb.ListRequest())
    assert [policy.name for policy in told.policies] == ["news", "off", "rest", "turned_off"]
    assert (told.default_policy, list(told.connectors)) == ("rest", ["main"])
    assert [list(policy.match) for policy in told.policies] == [["news-*", "main:n"], ["old"], [], []]
    assert [policy.enabled for policy in told.policies] == [True, False, True, False]
    assert all(policy.model_ready and policy.model == "default" for policy in told.policies)
    assert len({policy.version for policy in told.policies}) == 4
    assert json.loads(told.policies[2].settings)["budget_ms"] == 123
    assert json.loads(told.policies[0].settings)["text"]["fields"][1]["max_chars"] == 100


async def test_list_tells_that_a_model_failed(serve: Serve) -> None:
    def load(name: str, model: object) -> Any:
        raise ValueError("no head")

    async with serve(load=load, configured=several()) as (client, app):
        await app.ready()
        told = await client.policies.List(pb.ListRequest())
    assert not any(policy.model_ready for policy in told.policies)


@pytest.mark.parametrize(
    ("index", "policy", "why"),
    [
        ("news-2026", "news", "'news-*'"),
        ("n", "news", "exact name"),
        ("old", "off", "exact name"),
        ("else", "rest", "default_policy rest is taken"),
        ("news-1,news-2", "news", "is for policy news"),
        ("news-1,old", "rest", "is for different policies"),
    ],
)
async def test_explain_tells_the_policy_and_why(serve: Serve, index: str, policy: str, why: str) -> None:
    async with serve(configured=several()) as (client, _):
        told = await client.policies.Explain(pb.ExplainRequest(index=index))
    assert told.policy.name == policy
    assert why in told.why


async def test_explain_tells_what_search_then_does(serve: Serve) -> None:
    """The body explained is the body sent, and what is changed is told line by line."""
    connector, scorer = RecordingConnector(), WordOverlapScorer()
    body = {"query": {"match": {"body": "apple"}}, "from": 2, "size": 3, "aggs": {"a": {}}, "sort": ["_score"]}
    options = pb.Options(rank_window_size=4, budget_ms=77)
    async with serve(scorer, connector=connector) as (client, _):
        request = pb.ExplainRequest(index="docs", body=json.dumps(body), options=options)
        told = await client.policies.Explain(request)
        assert (connector.asked, scorer.calls) == ([], 0)
        await client.search("docs", "apple", body, options=pb.Options(rank_window_size=4))
    assert (told.rank_window_size, told.budget_ms, told.skip_reason) == (4, 77, pb.REASON_UNSPECIFIED)
    assert list(told.changes) == ["from: 2 -> 0", "size: 3 -> 5"]
    assert json.loads(told.engine_body) == connector.asked[0][1] == {**body, "from": 0, "size": 5}


async def test_explain_tells_that_nothing_is_changed(serve: Serve) -> None:
    body = {"size": 0, "aggs": {"a": {"terms": {"field": "x"}}}, "big": 2**63 + 1}
    async with serve() as (client, _):
        told = await client.policies.Explain(pb.ExplainRequest(index="docs", body=json.dumps(body)))
        assert (json.loads(told.engine_body), list(told.changes)) == (body, [])
        assert told.skip_reason == pb.REASON_NO_CANDIDATES
        told = await client.policies.Explain(pb.ExplainRequest(index="docs"))
        assert list(told.changes) == ["size: 10 -> 100"]


async def test_explain_tells_why_a_search_would_be_skipped(serve: Serve) -> None:
    async with serve(configured=several()) as (client, _):
        for index, body, reason in (
            ("old", {}, pb.REASON_POLICY_DISABLED),
            ("n", {"sort": "price"}, pb.REASON_NOT_RELEVANCE_SORTED),
            ("n", {"from": 100}, pb.REASON_BEYOND_WINDOW),
        ):
            told = await client.policies.Explain(pb.ExplainRequest(index=index, body=json.dumps(body)))
            assert (told.skip_reason, json.loads(told.engine_body)) == (reason, body)


async def test_explain_without_any_policy(serve: Serve) -> None:
    async with serve(configured=settings({"match": []}, default_policy=None)) as (client, _):
        told = await client.policies.Explain(pb.ExplainRequest(index="docs", body='{"size": 3}'))
    assert not told.HasField("policy")
    assert (told.skip_reason, told.engine_body) == (pb.REASON_NO_POLICY, '{"size":3}')
    assert "no default_policy" in told.why


async def test_a_named_policy_is_taken_whatever_the_index(serve: Serve) -> None:
    async with serve(configured=several()) as (client, _):
        request = pb.ExplainRequest(index="news-1", options=pb.Options(policy="rest"))
        told = await client.policies.Explain(request)
    assert (told.policy.name, told.budget_ms) == ("rest", 123)
    assert "the request names policy rest" in told.why
