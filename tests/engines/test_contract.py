"""What every connector promises, on real engines: the contract of tests/service, and names that only they know."""

from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime

import pytest

from connectors import Connector, InvalidQuery, Member
from tests.engines.conftest import connected
from tests.engines.engine import Engine, Indices
from tests.service.test_connector_contract import (  # noqa: F401
    TestFetch,
    TestLife,
    TestRefusals,
    TestSearch,
    TestSource,
    filled,
)
from tests.service.test_connector_names import TestResolve  # noqa: F401

LOGS = [{"@timestamp": "2026-01-01T00:00:00Z", "title": f"line {number}"} for number in range(3)]


@pytest.fixture(scope="module")
def filled_engine(any_engine: Engine) -> Iterator[Engine]:
    """The engine with the contract's documents."""
    with filled(any_engine.access):
        yield any_engine


@pytest.fixture
def kind(any_engine: Engine) -> str:
    """Which connector."""
    return any_engine.kind


@pytest.fixture
async def connector(filled_engine: Engine) -> AsyncIterator[Connector]:
    async with connected(filled_engine) as made:
        yield made


class TestNames:
    async def test_an_alias_stands_for_its_indices(self, connector: Connector, index_name: Indices) -> None:
        alias = index_name("alias")
        first, second = (index_name(label, {"aliases": {alias: {}}}) for label in ("first", "second"))
        members = await connector.resolve(alias, timeout_s=10)
        assert sorted(members, key=lambda member: member.index) == [Member(first, (alias,)), Member(second, (alias,))]

    async def test_an_alias_that_moves_is_followed(
        self, connector: Connector, any_engine: Engine, index_name: Indices
    ) -> None:
        alias = index_name("alias")
        old, new = index_name("old", {"aliases": {alias: {}}}), index_name("new", {})
        assert await connector.resolve(alias, timeout_s=10) == (Member(old, (alias,)),)
        moves = [{"remove": {"index": old, "alias": alias}}, {"add": {"index": new, "alias": alias}}]
        any_engine.call("POST", "/_aliases", {"actions": moves})
        assert await connector.resolve(alias, timeout_s=10) == (Member(new, (alias,)),)

    async def test_a_data_stream_stands_for_its_backing_indices(
        self, connector: Connector, index_name: Indices
    ) -> None:
        stream = index_name.stream("logs", LOGS)
        (member,) = await connector.resolve(stream, timeout_s=10)
        assert member.index.startswith(f".ds-{stream}-")
        assert member.via == (stream,)
        hits = await connector.search(stream, {}, timeout_s=10)
        assert {hit.ref.index for hit in hits.hits} == {member.index}
        assert len(await connector.fetch([hit.ref for hit in hits.hits], ["title"], timeout_s=10)) == len(LOGS)

    async def test_date_math_is_resolved_by_the_engine(self, connector: Connector, index_name: Indices) -> None:
        prefix = index_name("day")
        years = [datetime.now(UTC).year + offset for offset in (-1, 0, 1)]
        for year in years:
            index_name.named(f"{prefix}-{year}", {})
        members = await connector.resolve(f"<{prefix}-{{now/y{{yyyy}}}}>", timeout_s=10)
        assert [member.index for member in members] == [f"{prefix}-{datetime.now(UTC).year}"]

    async def test_what_is_excluded_is_left_out(self, connector: Connector, index_name: Indices) -> None:
        kept, left = index_name("kept", {}), index_name("left", {})
        both = f"{kept.removesuffix('0-kept')}*"
        members = await connector.resolve(f"{both},-{left}", timeout_s=10)
        assert [member.index for member in members] == [kept]


class TestRender:
    async def test_a_template_makes_a_body(self, connector: Connector, any_engine: Engine) -> None:
        any_engine.needs("search templates")
        template = {"source": {"query": {"match": {"title": "{{words}}"}}, "size": 3}, "params": {"words": "car"}}
        assert await connector.render(template, timeout_s=10) == {"query": {"match": {"title": "car"}}, "size": 3}

    async def test_a_template_that_is_no_json_is_refused(self, connector: Connector, any_engine: Engine) -> None:
        any_engine.needs("search templates")
        with pytest.raises(InvalidQuery):
            await connector.render({"source": '{"query": {{words}', "params": {}}, timeout_s=10)
