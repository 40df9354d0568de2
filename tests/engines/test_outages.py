"""Many calls while a node fails: a node killed under load comes back, and faults leave nothing behind."""

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from sidecar.client import RerankClient
from tests.calls import SLACK_S, until
from tests.conftest import DOCUMENTS
from tests.engines.catalog import ENGINES
from tests.engines.conftest import TARGETS, FreshNode
from tests.engines.engine import Engine, Indices
from tests.engines.faulty import BARE, BODY, BUDGET_S, SEARCH_TIMEOUT_S, TEXTS, search, sidecar_for
from tests.engines.proxy import Proxy
from tests.engines.rest import Json
from tests.engines.spoilers import BROKEN, LATE, WRONG

log = logging.getLogger(__name__)

BODIES = (BODY, BARE)
FAILED = {"UNAVAILABLE", "DEADLINE_EXCEEDED"}
CALLERS = 10
MAY_DIFFER = 4
"""Sockets, or tasks, that come and go by themselves while they are counted."""
BACK_WITHIN_S = 2.0
"""After a node is healthy again, no call fails that begins later than this."""
OPEN_FILES = Path("/proc/self/fd")


@dataclass(frozen=True)
class End:
    """How one call ended: when it began, how long it took, and its outcome or status."""

    began: float
    took_s: float
    end: str


async def call(client: RerankClient, index: str, body: Json) -> End:
    began = time.monotonic()
    try:
        end = (await search(client, index, body)).outcome
    except grpc.aio.AioRpcError as error:
        end = error.code().name
    return End(began, time.monotonic() - began, end)


@asynccontextmanager
async def callers(client: RerankClient, index: str, count: int) -> AsyncIterator[list[End]]:
    """So many callers who ask again and again, each when it has its answer; the list grows meanwhile."""
    ends: list[End] = []

    async def keep_calling(number: int) -> None:
        while True:
            ends.append(await call(client, index, BODIES[number % 2]))
            await asyncio.sleep(0.02)

    async with working(keep_calling, count):
        yield ends


@asynccontextmanager
async def working(work: Callable[[int], Coroutine[None, None, None]], count: int) -> AsyncIterator[None]:
    """So many that work without end, each with its number; none may fail meanwhile."""
    tasks = [asyncio.create_task(work(number)) for number in range(count)]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(result, asyncio.CancelledError) for result in results), results


class Stalls(list[tuple[float, float]]):
    """When an idle thread could not run, from and to: then the machine stood still, not the sidecar."""

    def during(self, end: End) -> float:
        """For how many seconds of a call."""
        over = end.began + end.took_s
        return sum(max(0.0, min(to, over) - max(since, end.began)) for since, to in self)


@contextmanager
def stalls() -> Iterator[Stalls]:
    """Watches for them."""
    found = Stalls()
    over = threading.Event()

    def watch() -> None:
        last = time.monotonic()
        while not over.wait(0.01):
            now = time.monotonic()
            if now - last > 0.1:
                found.append((last, now))
            last = now

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield found
    finally:
        over.set()
        watching.join()


@pytest.mark.parametrize("name", [name for name in TARGETS.plain if name in ENGINES])
async def test_a_node_killed_under_load_and_started_again(fresh_node: FreshNode, name: str) -> None:
    engine = await asyncio.to_thread(fresh_node, name)
    engine.bulk("books", DOCUMENTS)
    with stalls() as stalled:
        async with sidecar_for(engine) as (client, _), callers(client, "books", CALLERS) as ends:
            await until(lambda: len(ends) >= 100)
            killed = time.monotonic()
            await asyncio.to_thread(engine.kill)
            dead, known = time.monotonic(), len(ends)
            await until(lambda: len(ends) >= known + 100)
            starting = time.monotonic()
            await asyncio.to_thread(engine.restart)
            back, known = time.monotonic(), len(ends)
            await until(lambda: len(ends) >= known + 200)
    assert {end.end for end in ends if end.began + end.took_s < killed} == {"RERANKED"}
    assert {end.end for end in ends if dead <= end.began and end.began + end.took_s < starting} <= FAILED
    assert {end.end for end in ends} <= {"RERANKED", "ORIGINAL_ORDER", *FAILED}
    assert max(end.took_s - stalled.during(end) for end in ends) < max(BUDGET_S, SEARCH_TIMEOUT_S) + SLACK_S
    last_failure = max(end.began for end in ends if end.end != "RERANKED")
    first_success = min(end.began for end in ends if end.end == "RERANKED" and end.began > dead)
    log.info(
        "%s: healthy again, first success %+.3f s, last failure %+.3f s",
        name,
        first_success - back,
        last_failure - back,
    )
    assert last_failure - back < BACK_WITHIN_S
    assert {end.end for end in ends[-100:]} == {"RERANKED"}


def sockets() -> int:
    """Sockets that this process has open."""
    count = 0
    for link in OPEN_FILES.iterdir():
        try:
            count += str(link.readlink()).startswith("socket:")
        except FileNotFoundError:  # the folder's own, or one closed meanwhile
            continue
    return count


@pytest.mark.skipif(not OPEN_FILES.is_dir(), reason="this system does not tell which sockets are open")
async def test_500_faulty_calls_leave_no_connection_and_no_task_behind(engine: Engine, index_name: Indices) -> None:
    if engine.url.startswith("https"):
        pytest.skip("the fault proxy speaks no TLS")
    faults = [*BROKEN.values(), *WRONG.values(), *LATE.values()]
    index = index_name("faults", TEXTS, DOCUMENTS)
    hurried = {"policy": {"budget_ms": 200}, "connector": {"search_timeout_ms": 200}}
    async with Proxy(engine.url) as proxy, sidecar_for(engine, proxy.url, **hurried) as (client, _):

        async def calls_at_once(body: Json) -> set[str]:
            return {end.end for end in await asyncio.gather(*(call(client, index, body) for _ in range(CALLERS)))}

        def kept() -> tuple[int, int]:
            """Sockets and tasks beside those of connections that are kept open, both ends of which are here."""
            return sockets() - 2 * proxy.connections, len(asyncio.all_tasks()) - proxy.connections

        await calls_at_once(BARE)
        before = kept()
        for number in range(50):
            proxy.heal()
            proxy.spoil(("_search", "_mget")[number % 2], faults[number % len(faults)])
            assert await calls_at_once(BODIES[number % 2]) <= {*FAILED, "ORIGINAL_ORDER"}
        proxy.heal()
        await until(lambda: all(now <= then + MAY_DIFFER for now, then in zip(kept(), before, strict=True)))
        assert proxy.connections <= CALLERS
        assert await calls_at_once(BODY) == {"RERANKED"}
