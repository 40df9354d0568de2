"""The proxy that spoils answers does what it says: each fault as a plain HTTP client sees it."""

import asyncio
import json
import time
from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web
from yarl import URL

from tests.calls import until
from tests.connector_fixtures import Asked as Received
from tests.connector_fixtures import Server, json_answer, serving
from tests.engines import spoilers
from tests.engines.proxy import Proxy, Spoiler

PAGE = {"took": 1, "_shards": {"total": 1, "successful": 1, "failed": 0}, "hits": {"hits": [{"_id": "x" * 500}]}}


async def page(_: Received) -> web.StreamResponse:
    answer = json_answer(PAGE)
    answer.enable_compression(web.ContentCoding.gzip)
    return answer


@pytest.fixture
async def node() -> AsyncIterator[Server]:
    async with serving(page) as server:
        yield server


@pytest.fixture
async def proxy(node: Server) -> AsyncIterator[Proxy]:
    async with Proxy(node.url) as proxy:
        yield proxy


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=0.5)) as session:
        yield session


async def ask(client: aiohttp.ClientSession, proxy: Proxy, target: str = "/books/_search?q=a%2Cb") -> object:
    async with client.post(URL(proxy.url + target, encoded=True), data=b'{"size": 1}') as response:
        response.raise_for_status()
        return await response.json()


class TestPassing:
    async def test_nothing_is_changed_but_the_connection(
        self, client: aiohttp.ClientSession, proxy: Proxy, node: Server
    ) -> None:
        assert await ask(client, proxy) == PAGE
        (received,) = node.asked
        assert (received.method, received.target, received.body) == ("POST", "/books/_search?q=a%2Cb", b'{"size": 1}')
        (asked,) = proxy.reached
        assert (asked.operation, asked.body, asked.target) == ("_search", received.body, received.target)

    async def test_one_connection_serves_many_requests(self, client: aiohttp.ClientSession, proxy: Proxy) -> None:
        for _ in range(3):
            await ask(client, proxy)
        assert (proxy.connections, proxy.count("_search")) == (1, 3)

    async def test_a_client_that_leaves_takes_its_request_to_the_node_with_it(
        self, client: aiohttp.ClientSession
    ) -> None:
        arrived = asyncio.Event()

        async def sleep(_: Received) -> web.StreamResponse:
            arrived.set()
            await asyncio.sleep(30)
            return json_answer({})

        async with serving(sleep) as node, Proxy(node.url) as proxy:
            asking = asyncio.create_task(ask(client, proxy))
            await arrived.wait()
            asking.cancel()
            await asyncio.wait_for(node.disconnected.wait(), 2)
            await until(lambda: proxy.connections == 0)


class TestScript:
    async def test_only_the_named_operation(self, client: aiohttp.ClientSession, proxy: Proxy) -> None:
        proxy.spoil("_mget", spoilers.answered(503))
        assert await ask(client, proxy) == PAGE
        with pytest.raises(aiohttp.ClientResponseError, match="503"):
            await ask(client, proxy, "/_mget")

    async def test_only_so_often(self, client: aiohttp.ClientSession, proxy: Proxy) -> None:
        proxy.spoil("_search", spoilers.answered(503), skip=1, times=1)
        assert await ask(client, proxy) == PAGE
        with pytest.raises(aiohttp.ClientResponseError, match="503"):
            await ask(client, proxy)
        assert await ask(client, proxy) == PAGE
        assert (proxy.count("_search"), len(proxy.reached)) == (3, 2)

    async def test_healed(self, client: aiohttp.ClientSession, proxy: Proxy) -> None:
        proxy.spoil("", spoilers.answered(503))
        proxy.heal()
        assert await ask(client, proxy) == PAGE
        assert proxy.count("_search") == 1


BROKEN: dict[str, tuple[Spoiler, type[Exception], int]] = {
    "a body cut by closing": (spoilers.cut(), aiohttp.ClientPayloadError, 1),
    "a body cut by a reset": (spoilers.cut(reset=True), aiohttp.ClientError, 1),
    "closed before the node was asked": (spoilers.ended(asks=False), aiohttp.ServerDisconnectedError, 0),
    "closed after the node was asked": (spoilers.ended(), aiohttp.ServerDisconnectedError, 1),
    "reset before the node was asked": (spoilers.ended(reset=True, asks=False), aiohttp.ClientOSError, 0),
    "reset after the node was asked": (spoilers.ended(reset=True), aiohttp.ClientOSError, 1),
    "silence": (spoilers.silent, TimeoutError, 0),
    "a body that stops": (spoilers.stalled(), TimeoutError, 1),
    "a late answer": (spoilers.delayed(after_s=5), TimeoutError, 1),
    "a late request": (spoilers.delayed(before_s=5), TimeoutError, 0),
    "a dripping body": (spoilers.dripping(chunks=100, over_s=5), TimeoutError, 1),
    "garbage": (spoilers.raw(b"\x00\x01 garbage\r\n\r\n"), aiohttp.ClientResponseError, 0),
    "no JSON": (spoilers.answered(200, b"{nonsense", "application/json"), json.JSONDecodeError, 0),
    "half of the JSON": (spoilers.rewritten(spoilers.truncated_json), json.JSONDecodeError, 1),
    "another content type": (spoilers.typed("text/html"), aiohttp.ContentTypeError, 1),
}


@pytest.mark.parametrize(("spoiler", "seen", "reached"), BROKEN.values(), ids=BROKEN)
async def test_what_a_client_sees(
    client: aiohttp.ClientSession, proxy: Proxy, spoiler: Spoiler, seen: type[Exception], reached: int
) -> None:
    proxy.spoil("_search", spoiler, times=1)
    with pytest.raises(seen):
        await ask(client, proxy)
    assert (proxy.count("_search"), len(proxy.reached)) == (1, reached)
    assert await ask(client, proxy) == PAGE
    await until(lambda: proxy.connections == 1)


async def test_an_answer_without_a_body(client: aiohttp.ClientSession, proxy: Proxy) -> None:
    proxy.spoil("_search", spoilers.answered(200, b"", "application/json"), times=1)
    assert await ask(client, proxy) is None
    assert await ask(client, proxy) == PAGE


async def test_a_slow_answer_is_whole(client: aiohttp.ClientSession, proxy: Proxy) -> None:
    proxy.spoil("_search", spoilers.dripping(chunks=10, over_s=0.1))
    started = time.monotonic()
    assert await ask(client, proxy) == PAGE
    assert time.monotonic() - started >= 0.1


async def test_a_refusal_has_the_engines_form_and_its_headers(client: aiohttp.ClientSession, proxy: Proxy) -> None:
    proxy.spoil("_search", spoilers.error(429, "circuit_breaking_exception", retry_after="3"))
    async with client.post(f"{proxy.url}/_search") as response:
        assert (response.status, response.headers["retry-after"]) == (429, "3")
        assert (await response.json())["error"]["root_cause"][0]["type"] == "circuit_breaking_exception"


async def test_a_failed_shard_is_added_to_the_nodes_own_answer(client: aiohttp.ClientSession, proxy: Proxy) -> None:
    proxy.spoil("_search", spoilers.with_json(spoilers.one_shard_failed))
    answer = await ask(client, proxy)
    assert isinstance(answer, dict)
    assert answer["hits"] == PAGE["hits"]
    assert answer["_shards"] == {"total": 2, "successful": 1, "failed": 1, "failures": [spoilers.SHARD_FAILURE]}


async def test_refusing_is_for_new_connections_and_for_open_ones(client: aiohttp.ClientSession, proxy: Proxy) -> None:
    await ask(client, proxy)
    url = proxy.url
    async with proxy.refusing():
        assert proxy.connections == 0
        for _ in range(2):
            with pytest.raises(aiohttp.ClientConnectionError):
                await ask(client, proxy)
    assert proxy.url == url
    assert await ask(client, proxy) == PAGE


async def test_stuck_is_neither_refused_nor_accepted(client: aiohttp.ClientSession, proxy: Proxy) -> None:
    await ask(client, proxy)
    async with proxy.stuck():
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=0.3)) as other:
            with pytest.raises(TimeoutError):
                await ask(other, proxy)
        assert proxy.count("_search") == 1
    assert await ask(client, proxy) == PAGE
