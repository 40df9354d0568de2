"""A search whose caller is gone ends on the engine too, because its connection closes; and no answer goes astray."""

import asyncio
import itertools
import json
import random
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import pytest

from sidecar.app import App
from sidecar.client import RerankClient
from tests.calls import PATIENCE_S, QUERY, status, within
from tests.engines import spoilers
from tests.engines.engine import Engine, Indices, indices
from tests.engines.faulty import TEXTS, sidecar_for
from tests.engines.proxy import Proxy
from tests.engines.rest import Json

LETTERS = "abcdefgh"
DOCUMENTS = 50_000
KEYS_OF_EACH = 5
RUNS_S = 0.5
"""How long a search runs on the engine before its caller leaves."""
CANCELLED_WITHIN_S = 1.5
"""How long after that the engine may take to cancel it; left alone it runs longer."""


def patterns(count: int) -> Json:
    """A search that takes long on any engine: each pattern is tried on every key, and none fits."""
    letters = itertools.islice(itertools.product(LETTERS, repeat=4), count)
    return {"query": {"bool": {"should": [{"wildcard": {"key": f"*{'*'.join(some)}*z*"}} for some in letters]}}}


SLOW = patterns(200)
"""Takes seconds."""
SLOWER = patterns(1000)
"""Takes 40 s and more on a slow machine; what it must outlast is 12 s."""


CALLER = """
import json, sys
from sidecar.client import BlockingRerankClient

target, index, body = sys.argv[1:]
BlockingRerankClient(target).search(index, "apple", json.loads(body), timeout_s=60)
"""


def _random_keys(chance: random.Random) -> list[str]:
    return ["".join(chance.choices(LETTERS, k=24)) for _ in range(KEYS_OF_EACH)]


@pytest.fixture(scope="module")
def keys(engine: Engine) -> Iterator[str]:
    """An index of so many random keys that SLOW takes its time."""
    chance = random.Random(1)
    with indices(engine) as names:
        index = names("keys", {"mappings": {"properties": {"key": {"type": "keyword"}}}})
        for start in range(0, DOCUMENTS, 5000):
            rows = {str(row): {"key": _random_keys(chance)} for row in range(start, start + 5000)}
            engine.bulk(index, rows)
        yield index


@asynccontextmanager
async def patient(engine: Engine, url: str = "", **connector: Any) -> AsyncIterator[tuple[RerankClient, App]]:
    """A sidecar that lets a search take its time."""
    options = {"search_timeout_ms": 60_000, **connector}
    async with sidecar_for(engine, url, connector=options, server={"shutdown_grace_s": 0.1}) as served:
        yield served


@dataclass(frozen=True)
class Running:
    """A search that the engine is at: for how long, and whether it has been cancelled and is about to end."""

    seconds: float
    cancelled: bool


async def running(engine: Engine, index: str) -> list[Running]:
    """The searches of that index, and their parts, that run on the engine now."""
    answer = await asyncio.to_thread(engine.call, "GET", "/_tasks?actions=*search*&detailed=true")
    tasks = [task for node in answer["nodes"].values() for task in node["tasks"].values()]
    own = [task for task in tasks if index in task.get("description", "")]
    return [Running(task["running_time_in_nanos"] / 1e9, bool(task["cancelled"])) for task in own]


async def until_running(engine: Engine, index: str, holds: Callable[[list[Running]], bool], within_s: float) -> None:
    """Wait until something holds of the searches of that index."""
    async with asyncio.timeout(within_s):
        while not holds(await running(engine, index)):  # noqa: ASYNC110 - an engine tells nobody
            await asyncio.sleep(0.02)


async def started(engine: Engine, index: str) -> None:
    """Wait until a search has run for RUNS_S; none is cancelled."""
    await until_running(engine, index, lambda now: any(task.seconds >= RUNS_S for task in now), PATIENCE_S)
    assert not any(task.cancelled for task in await running(engine, index))


async def assert_cancelled(engine: Engine, index: str) -> None:
    """Every search of that index is soon cancelled or over; those that were cancelled then end."""
    await until_running(engine, index, lambda now: all(task.cancelled for task in now), CANCELLED_WITHIN_S)
    await until_running(engine, index, lambda now: not now, PATIENCE_S)


class TestCancelledOnTheEngine:
    async def test_the_search_would_run_on_if_nobody_left(self, engine: Engine, keys: str) -> None:
        async with patient(engine) as (client, _):
            call = asyncio.create_task(client.search(keys, QUERY, SLOW, timeout_s=PATIENCE_S))
            await started(engine, keys)
            await asyncio.sleep(CANCELLED_WITHIN_S)
            assert any(task.seconds > CANCELLED_WITHIN_S and not task.cancelled for task in await running(engine, keys))
            assert not call.done()
            call.cancel()
        await assert_cancelled(engine, keys)

    async def test_the_caller_cancels(self, engine: Engine, keys: str) -> None:
        async with patient(engine) as (client, _):
            call = asyncio.create_task(client.search(keys, QUERY, SLOW, timeout_s=PATIENCE_S))
            await started(engine, keys)
            call.cancel()
            await assert_cancelled(engine, keys)

    async def test_the_caller_cancels_a_stream(self, engine: Engine, keys: str) -> None:
        async def first_page() -> None:
            async for _ in client.search_progressive(keys, QUERY, SLOW, timeout_s=PATIENCE_S):
                return

        async with patient(engine) as (client, _):
            call = asyncio.create_task(first_page())
            await started(engine, keys)
            call.cancel()
            await assert_cancelled(engine, keys)

    async def test_the_callers_deadline_passes(self, engine: Engine, keys: str) -> None:
        async with patient(engine) as (client, _):
            failed = await status(client.search(keys, QUERY, SLOW, timeout_s=RUNS_S))
            assert failed.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            await assert_cancelled(engine, keys)

    async def test_the_callers_process_dies(self, engine: Engine, keys: str) -> None:
        async with patient(engine) as (_, app):
            arguments = (f"127.0.0.1:{app.port}", keys, json.dumps(SLOW))
            caller = await asyncio.create_subprocess_exec(sys.executable, "-c", CALLER, *arguments)
            await started(engine, keys)
            caller.kill()
            await assert_cancelled(engine, keys)
            await caller.wait()

    async def test_the_longest_time_of_a_search_passes(self, engine: Engine, keys: str) -> None:
        async with patient(engine, search_timeout_ms=int(RUNS_S * 1e3)) as (client, _):
            async with within(RUNS_S):
                failed = await status(client.search(keys, QUERY, SLOW))
            assert failed.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            await assert_cancelled(engine, keys)

    async def test_the_sidecar_stops(self, engine: Engine, keys: str) -> None:
        async with patient(engine) as (client, app):
            call = asyncio.create_task(client.search(keys, QUERY, SLOW, timeout_s=PATIENCE_S))
            await started(engine, keys)
            await app.stop()
            await assert_cancelled(engine, keys)
            with pytest.raises(grpc.aio.AioRpcError):
                await call

    async def test_many_callers_leave_at_once(self, engine: Engine, keys: str) -> None:
        async with patient(engine) as (client, _):
            calls = [asyncio.create_task(client.search(keys, QUERY, SLOW, timeout_s=PATIENCE_S)) for _ in range(5)]
            await started(engine, keys)
            for call in calls:
                call.cancel()
            await assert_cancelled(engine, keys)
            page = await client.search(keys, QUERY, {"size": 3})
            assert len(page.hits) == 3


class TestStoppedByTheEngine:
    async def test_a_policy_with_engine_timeout_lets_the_engine_end_a_search_before_its_caller_gives_up(
        self, engine: Engine, keys: str
    ) -> None:
        """OpenSearch ends it by an error, Elasticsearch by what it has found, or by neither while at one pattern.

        It is told to stop after four fifths of the time, and looks at the clock every 0.2 s or after a pattern; a slow
        machine took up to 2 s longer.
        """
        connector = {"search_timeout_ms": 15_000}
        async with sidecar_for(engine, policy={"engine_timeout": True}, connector=connector) as (client, _):
            try:
                page = await client.search(keys, QUERY, SLOWER, timeout_s=PATIENCE_S)
            except grpc.aio.AioRpcError as error:
                assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED, error.details()  # noqa: PT017
                said = "the engine ended the search at its `timeout`"
                assert engine.kind == "elasticsearch" or said in (error.details() or "")  # noqa: PT017
            else:
                assert page.response["timed_out"] is True
        await until_running(engine, keys, lambda now: not now, PATIENCE_S)


NUMBERS = {str(number): {"title": "apple", "body": f"apple number{number}"} for number in range(50)}


def numbered(number: int) -> Json:
    """A search that finds one pair of documents only."""
    return {"query": {"ids": {"values": [str(number), str((number + 7) % len(NUMBERS))]}}}


class TestConnectionsAfterCancelling:
    """A connection whose call was cancelled still has that call's answer under way: nobody else may read it."""

    @pytest.mark.parametrize("connections", [1, 3])
    async def test_every_answer_belongs_to_its_query(
        self, engine: Engine, index_name: Indices, connections: int
    ) -> None:
        if engine.url.startswith("https"):
            pytest.skip("the fault proxy speaks no TLS")
        index = index_name("numbers", TEXTS, NUMBERS)
        chance = random.Random(2)
        async with Proxy(engine.url) as proxy, patient(engine, proxy.url, connections=connections) as (client, _):
            proxy.spoil("_search", spoilers.dripping(chunks=3, over_s=0.015))

            async def ask(number: int) -> set[str]:
                page = await client.search(index, QUERY, numbered(number), timeout_s=PATIENCE_S)
                return {hit["_id"] for hit in page.hits}

            async def ask_and_leave(number: int) -> None:
                call = asyncio.create_task(ask(number))
                await asyncio.sleep(chance.uniform(0, 0.03))
                call.cancel()
                await asyncio.gather(call, return_exceptions=True)

            for number in range(100):
                wanted = number % len(NUMBERS)
                _, found, _ = await asyncio.gather(ask_and_leave(number + 1), ask(wanted), ask_and_leave(number + 2))
                assert found == set(numbered(wanted)["query"]["ids"]["values"])
