"""Sessions: connections are shared fairly, whoever leaves."""

import asyncio
from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web

from connectors.options import HttpOptions
from connectors.sessions import open_session

LIMIT = aiohttp.ClientTimeout(total=5)


class Server:
    """Answers after a moment, and counts how many it answers at once."""

    def __init__(self) -> None:
        self.url = ""
        self.now = self.most = 0

    async def answer(self, request: web.Request) -> web.Response:
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(0.01)
        self.now -= 1
        return web.json_response({})


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server, app = Server(), web.Application()
    app.router.add_get("/", server.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server.url = site.name
    yield server
    await runner.cleanup()


class TestConnections:
    async def test_one_who_leaves_when_his_turn_has_come_leaves_it_to_the_next(self, server: Server) -> None:
        """Else the next would wait although nobody uses the connection, until his time is over."""
        async with open_session(HttpOptions(hosts=[server.url], connections=1), None) as session:
            leaving: asyncio.Task[None]

            async def ask(then_leaves: bool = False) -> None:
                async with session.request("GET", server.url, timeout=LIMIT) as response:
                    await response.read()
                    if then_leaves:
                        leaving.cancel()

            first = asyncio.create_task(ask(then_leaves=True))
            await asyncio.sleep(0)
            leaving = asyncio.create_task(ask())
            last = asyncio.create_task(ask())
            async with asyncio.timeout(2):
                await asyncio.gather(first, last)
            assert leaving.cancelled()

    async def test_no_more_are_open_at_once_than_configured(self, server: Server) -> None:
        async with open_session(HttpOptions(hosts=[server.url], connections=2), None) as session:

            async def ask() -> None:
                async with session.request("GET", server.url, timeout=LIMIT) as response:
                    await response.read()

            await asyncio.gather(*(ask() for _ in range(10)))
            assert server.most == 2
