"""What the tests rely on: nodes that answer, keep their data over a crash, and leave nothing behind."""

import json
import os
import select
import subprocess
import sys
from pathlib import Path

import pytest

from tests.engines.conftest import ConnectorOf, FreshNode, SidecarOn, check
from tests.engines.engine import Engine, Indices
from tests.engines.rest import CallRefused

BOOKS = {"1": {"title": "Car repair"}, "2": {"title": "Apple pie"}}


def test_a_node_answers_with_the_version_of_its_jars(engine: Engine) -> None:
    version = engine.call("GET", "/")["version"]
    assert version["number"] == engine.version
    assert version.get("distribution", "elasticsearch") == engine.kind


async def test_the_connector_finds_what_was_written(
    engine: Engine, index_name: Indices, connector_of: ConnectorOf
) -> None:
    books = index_name("books", documents=BOOKS)
    async with connector_of(engine) as connector:
        hits = await connector.search(books, {"query": {"match": {"title": "pie"}}}, timeout_s=10)
    assert [hit.ref.id for hit in hits.hits] == ["2"]


async def test_a_sidecar_searches_it(engine: Engine, index_name: Indices, sidecar_on: SidecarOn) -> None:
    books = index_name("books", documents=BOOKS)
    async with sidecar_on(engine, policy={"text": {"fields": ["title"]}}) as (client, _):
        reply = await client.search(books, "apple", {"query": {"match_all": {}}})
    assert reply.outcome == "RERANKED"
    assert [hit["_id"] for hit in reply.hits] == ["2", "1"]


async def test_a_secured_node_refuses_strangers(
    secured_engine: Engine, index_name: Indices, connector_of: ConnectorOf
) -> None:
    books = index_name("books", documents=BOOKS)
    with pytest.raises(CallRefused, match="401"):
        secured_engine.call("GET", "/", authorization="Basic bm9ib2R5OndyaXRlcw==")
    async with connector_of(secured_engine) as connector:
        assert len((await connector.search(books, {}, timeout_s=10)).hits) == 2


@pytest.mark.parametrize("name", ["opensearch-3", "elasticsearch-9", "elasticsearch-8-secured"])
def test_a_killed_node_comes_back_with_its_data(fresh_node: FreshNode, name: str) -> None:
    node = fresh_node(name)
    node.bulk("books", BOOKS)
    url = node.url
    node.kill()
    with pytest.raises(OSError, match="refused"):
        node.call("GET", "/")
    node.restart()
    assert node.url == url
    assert node.call("GET", "/books/_count")["count"] == 2


def test_a_node_dies_with_the_process_that_started_it() -> None:
    check("opensearch-3")
    command = [sys.executable, "-m", "tests.engines", "run", "opensearch-3"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        facts = json.loads(parent.stdout.readline())
        assert Path(facts["home"]).is_dir()
        gone = os.pidfd_open(facts["pid"])
        parent.kill()
    try:
        assert select.select([gone], [], [], 30)[0], "the node runs on"
    finally:
        os.close(gone)
    assert not Path(facts["home"]).exists()
