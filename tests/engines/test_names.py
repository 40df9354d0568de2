"""What real engines say stands behind a name, and that requests by such names get the policy of what they read."""

import datetime
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import pytest

from connectors.base import Member
from connectors.errors import ConnectorError, IndexNotFound
from sidecar.v1 import rerank_pb2 as pb
from tests.engines.conftest import ConnectorOf, SidecarOn
from tests.engines.engine import Engine, Indices

PIE = {"1": {"title": "apple pie"}, "2": {"title": "apple"}}
TEXT = {"fields": ["title"]}
QUERY = {"query": {"match": {"title": "apple"}}}


@dataclass(frozen=True)
class House:
    """Three open indices, one closed and one hidden; `alias` leads to the first two, `other` to the third."""

    first: str
    second: str
    third: str
    closed: str
    hidden: str
    alias: str
    other: str


def alias_to(engine: Engine, alias: str, *indices: str, leaving: Sequence[str] = ()) -> None:
    """Let an alias lead to these indices, and no longer to those it leaves, in one step."""
    actions = [{"add": {"index": index, "alias": alias}} for index in indices]
    actions += [{"remove": {"index": index, "alias": alias}} for index in leaving]
    engine.call("POST", "/_aliases", {"actions": actions})


@pytest.fixture
def house(engine: Engine, index_name: Indices) -> House:
    """Made afresh for each test."""
    first, second, third = (index_name(label, documents=PIE) for label in ("a-1", "a-2", "b-1"))
    closed = index_name("closed", {})
    engine.call("POST", f"/{closed}/_close?wait_for_active_shards=0")
    hidden = index_name("hidden", {"settings": {"index.hidden": True}}, PIE)
    alias, other = index_name("alias"), index_name("other")
    alias_to(engine, alias, first, second)
    alias_to(engine, other, third)
    return House(first, second, third, closed, hidden, alias, other)


def members(found: Sequence[Member]) -> dict[str, set[str]]:
    return {member.index: set(member.via) for member in found}


async def test_what_an_engine_says_stands_behind_a_name(
    engine: Engine, house: House, connector_of: ConnectorOf
) -> None:
    prefix = house.first.rsplit("-", 3)[0]
    first, second, third, alias = house.first, house.second, house.third, house.alias
    both = {first: {alias}, second: {alias}}
    expected: dict[str, dict[str, set[str]]] = {
        first: {first: set()},
        alias: both,
        f"{alias[:-2]}*": both,
        f"{first},{third}": {first: set(), third: set()},
        f"{alias},{third}": {**both, third: set()},
        f"{prefix}*": {**both, third: {house.other}},
        f"{prefix}*,-{third}": {**both, third: {house.other}},  # by its alias still, which no search reads
        f"{prefix}*,-{alias}": {first: set(), second: set(), third: {house.other}},
        house.closed: {house.closed: set()},
        house.hidden: {house.hidden: set()},
        f"{prefix}-missing*": {},
    }
    async with connector_of(engine) as connector:
        found = {name: members(await connector.resolve(name, timeout_s=10)) for name in expected}
        everything = members(await connector.resolve("_all", timeout_s=10))
    assert found == expected
    assert {first, second, third} <= set(everything)
    assert not {house.closed, house.hidden} & set(everything)


async def test_an_alias_leads_to_hidden_and_closed_indices_too_even_by_a_pattern(
    engine: Engine, house: House, index_name: Indices, connector_of: ConnectorOf
) -> None:
    alias = index_name("backdoor")
    alias_to(engine, alias, house.hidden, house.closed)
    behind = {house.hidden: {alias}, house.closed: {alias}}
    async with connector_of(engine) as connector:
        assert members(await connector.resolve(alias, timeout_s=10)) == behind
        assert members(await connector.resolve(f"{alias[:-2]}*", timeout_s=10)) == behind
        assert members(await connector.resolve(f"{house.hidden[:-2]}*,{house.closed[:-2]}*", timeout_s=10)) == {}


async def test_a_name_that_does_not_exist_is_an_error(engine: Engine, house: House, connector_of: ConnectorOf) -> None:
    missing = f"{house.first}-missing"
    async with connector_of(engine) as connector:
        for name in (missing, f"{house.first},{missing}"):
            with pytest.raises(IndexNotFound, match=missing):
                await connector.resolve(name, timeout_s=10)


async def test_a_cluster_that_is_not_configured_is_an_error_or_nothing(
    engine: Engine, house: House, connector_of: ConnectorOf
) -> None:
    async with connector_of(engine) as connector:
        if engine.kind == "elasticsearch":
            with pytest.raises(ConnectorError, match="no_such_remote_cluster_exception"):
                await connector.resolve(f"nowhere:{house.first}", timeout_s=10)
        else:
            assert await connector.resolve(f"nowhere:{house.first}", timeout_s=10) == ()


@pytest.fixture
def itself(engine: Engine) -> Iterator[str]:
    """The name under which the engine's node is a remote cluster of its own."""
    if engine.node is None:
        pytest.skip("the remote clusters of somebody's cluster are not ours to set")
    (node,) = engine.call("GET", "/_nodes/_local/transport")["nodes"].values()
    seeds = "cluster.remote.eu.seeds"
    engine.call("PUT", "/_cluster/settings", {"persistent": {seeds: [node["transport"]["publish_address"]]}})
    try:
        yield "eu"
    finally:
        engine.call("PUT", "/_cluster/settings", {"persistent": {seeds: None}})


async def test_an_index_of_another_cluster_is_called_as_its_hits_are(
    engine: Engine, house: House, itself: str, connector_of: ConnectorOf
) -> None:
    async with connector_of(engine) as connector:
        for name in (f"{itself}:{house.first}", f"{itself}:{house.other}", f"{itself}:{house.first[:-3]}*"):
            read = {hit.ref.index for hit in (await connector.search(name, {"size": 100}, timeout_s=10)).hits}
            assert read
            assert all(index.startswith(f"{itself}:") for index in read)
            found = members(await connector.resolve(name, timeout_s=10))
            assert set(found) == read
        assert members(await connector.resolve(f"{house.alias},{itself}:{house.alias}", timeout_s=10)) == {
            house.first: {house.alias},
            house.second: {house.alias},
            f"{itself}:{house.first}": {f"{itself}:{house.alias}"},
            f"{itself}:{house.second}": {f"{itself}:{house.alias}"},
        }


async def test_an_alias_of_another_cluster_gets_the_policy_of_its_index_there(
    engine: Engine, house: House, itself: str, sidecar_on: SidecarOn
) -> None:
    changes = two_policies(house)
    changes["policies"]["large"]["match"] = [{"index": f"{itself}:{house.first}"}]
    changes["policies"]["small"]["match"] = [{"index": house.first}]
    alias_to(engine, house.alias, house.first, leaving=[house.second])
    async with sidecar_on(engine, **changes) as (client, _):
        pages = [await client.search(name, "apple", QUERY) for name in (f"{itself}:{house.alias}", house.alias)]
    assert [page.message.meta.policy for page in pages] == ["large", "small"]
    assert [{hit["_index"] for hit in page.hits} for page in pages] == [{f"{itself}:{house.first}"}, {house.first}]


async def test_date_math_stands_for_the_index_of_today(
    engine: Engine, index_name: Indices, connector_of: ConnectorOf
) -> None:
    name = index_name("day")
    days = [datetime.datetime.now(datetime.UTC).date() + datetime.timedelta(days=shift) for shift in (0, 1)]
    for day in days:  # of tomorrow too, should midnight pass
        index_name.named(f"{name}-{day:%Y.%m.%d}", {})
    async with connector_of(engine) as connector:
        found = await connector.resolve(f"<{name}-{{now/d}}>", timeout_s=10)
    assert len(found) == 1
    assert found[0].index in {f"{name}-{day:%Y.%m.%d}" for day in days}


async def test_a_data_stream_stands_for_its_backing_indices(
    engine: Engine, index_name: Indices, connector_of: ConnectorOf, sidecar_on: SidecarOn
) -> None:
    stream = index_name.stream(
        "stream", [{"@timestamp": "2026-11-23", "title": title} for title in ("apple pie", "apple")]
    )
    policies = {"streams": {"match": [{"index": f"{stream[:-2]}*"}], "text": TEXT}, "rest": {"text": TEXT}}
    async with connector_of(engine) as connector:
        (member,) = await connector.resolve(stream, timeout_s=10)
    assert member.index.startswith(".ds-")
    assert member.via == (stream,)
    async with sidecar_on(engine, policies=policies, default_policy="rest") as (client, _):
        page = await client.search(f"{stream[:-4]}*", "apple", QUERY)
    assert page.message.meta.policy == "streams"
    assert {hit["_index"] for hit in page.hits} == {member.index}


def two_policies(house: House, **on_conflict: str) -> dict[str, Any]:
    """Policies `large` of the first index and `small` of the second, and `rest` for all else, as a catch-all."""
    return {
        "policies": {
            "rest": {"match": [{"index": "*"}], "text": TEXT},
            "large": {
                "match": [{"index": house.first}],
                "text": TEXT,
                "rank_window_size": 20,
                "on_conflict": on_conflict.get("large", "default"),
            },
            "small": {
                "match": [{"index": house.second}],
                "text": TEXT,
                "rank_window_size": 10,
                "on_conflict": on_conflict.get("small", "default"),
            },
        },
        "default_policy": "rest",
    }


async def test_elasticsearch_119617_an_alias_gets_the_policy_of_its_own_index(
    engine: Engine, house: House, sidecar_on: SidecarOn
) -> None:
    alias_to(engine, house.alias, house.first, leaving=[house.second])
    async with sidecar_on(engine, **two_policies(house)) as (client, _):
        page = await client.search(house.alias, "apple", QUERY)
        told = await client.policies.Explain(pb.ExplainRequest(index=house.alias))
        other = await client.search(house.other, "apple", QUERY)
    assert page.outcome == "RERANKED"
    assert page.message.meta.policy == "large"
    assert {hit["_index"] for hit in page.hits} == {house.first}
    assert told.policy.name == "large"
    assert told.why == (
        f"what '{house.alias}' on connector 'main' stands for is for policy large "
        f"('{house.first}': large '{house.first}')"
    )
    assert other.message.meta.policy == "rest"


async def test_an_alias_that_moves_is_noticed_by_the_next_call(
    engine: Engine, house: House, sidecar_on: SidecarOn
) -> None:
    alias_to(engine, house.alias, house.first, leaving=[house.second])
    server = {"address": "127.0.0.1:0", "metrics_address": None, "names_ttl_s": 3600}
    async with sidecar_on(engine, **two_policies(house), server=server) as (client, _):
        before = await client.search(house.alias, "apple", QUERY)
        alias_to(engine, house.alias, house.second, leaving=[house.first])
        after = [await client.search(house.alias, "apple", QUERY) for _ in range(2)]
        alias_to(engine, house.alias, house.first, leaving=[house.second])
        back = await client.search(house.alias, "apple", QUERY)
        while back.message.meta.policy != "large":  # an answer that hits have corrected is not doubted for a second
            back = await client.search(house.alias, "apple", QUERY)
    assert [page.message.meta.policy for page in (before, *after)] == ["large", "small", "small"]
    assert {hit["_index"] for hit in back.hits} == {house.first}
    assert {hit["_index"] for page in after for hit in page.hits} == {house.second}


@pytest.mark.parametrize(
    ("on_conflict", "policy"),
    [({}, "rest"), ({"large": "strictest"}, "small"), ({"large": "strictest", "small": "refuse"}, None)],
)
async def test_indices_that_disagree_are_settled_as_their_policies_say(
    engine: Engine, house: House, sidecar_on: SidecarOn, on_conflict: dict[str, str], policy: str | None
) -> None:
    async with sidecar_on(engine, **two_policies(house, **on_conflict)) as (client, _):
        for name in (house.alias, f"{house.first},{house.second}"):
            if policy:
                assert (await client.search(name, "apple", QUERY)).message.meta.policy == policy
                continue
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await client.search(name, "apple", QUERY)
            assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
            told = caught.value.details() or ""
            assert f"'{house.first}': large" in told
            assert f"'{house.second}': small" in told
            assert "policy small refuses that" in told
        assert (await client.search(house.first, "apple", QUERY)).message.meta.policy == "large"


async def test_indices_that_agree_share_their_policy_however_they_are_named(
    engine: Engine, house: House, sidecar_on: SidecarOn
) -> None:
    changes = two_policies(house, large="refuse", small="refuse")
    changes["policies"]["large"]["match"] = [{"index": house.first}, {"index": house.second}]
    changes["policies"]["small"]["match"] = [{"index": house.third}]
    prefix = house.first.rsplit("-", 3)[0]
    names = (house.alias, f"{house.alias[:-2]}*", f"{house.second},{house.first}", f"{house.alias},{house.first}")
    async with sidecar_on(engine, **changes) as (client, _):
        pages = [await client.search(name, "apple", QUERY) for name in names]
        without = await client.search(f"{prefix}*,-{house.third}", "apple", QUERY)
        with pytest.raises(grpc.aio.AioRpcError, match="refuses that"):
            await client.search(f"{prefix}*", "apple", QUERY)
    assert {page.message.meta.policy for page in (*pages, without)} == {"large"}
    assert all({hit["_index"] for hit in page.hits} == {house.first, house.second} for page in (*pages, without))


async def test_a_hidden_index_that_a_search_reads_makes_the_sidecar_ask_once_a_second_and_not_each_time(
    engine: Engine, house: House, sidecar_on: SidecarOn, connector_of: ConnectorOf
) -> None:
    prefix = house.first.rsplit("-", 3)[0]
    changes = two_policies(house)
    async with connector_of(engine) as connector:
        asked: list[str] = []
        resolve = connector.resolve

        async def counted(expression: str, *, timeout_s: float) -> tuple[Member, ...]:
            asked.append(expression)
            return await resolve(expression, timeout_s=timeout_s)

        connector.resolve = counted  # type: ignore[method-assign]  # counts, and asks as before
        async with sidecar_on(engine, connector=connector, **changes) as (client, _):
            begun = time.monotonic()
            for _ in range(10):
                page = await client.search(
                    f"{prefix}*,-{house.closed}",
                    "apple",
                    {**QUERY, "size": 20},
                    params={"expand_wildcards": "open,hidden"},
                )
    assert house.hidden in {hit["_index"] for hit in page.hits}
    assert 2 <= len(asked) <= 2 + (time.monotonic() - begun)
