"""Answers without an end: what is read of them is bounded, decompressed too, and the call ends at once."""

import asyncio
import gzip
import time
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from connectors import AnswerTooLarge, DocumentRef
from tests.connector_fixtures import EMPTY_ANSWER, HTTP_KINDS, Server, always, connect, json_answer, serving

MIB = 2**20
LIMIT_MIB = 2
MOST_HELD = 6 * LIMIT_MIB * MIB
TIMEOUT_S = 60.0

pytestmark = pytest.mark.parametrize("kind", HTTP_KINDS)


def endless(encoding: str) -> Iterator[bytes]:
    """A JSON list that goes on for ever; compressed, each kilobyte stands for a megabyte."""
    if encoding == "identity":
        yield b'{"hits": ['
        while True:
            yield b'{"_id": "x"},' * 5000
    packer = zlib.compressobj(wbits=31)
    yield packer.compress(b'{"hits": [') + packer.flush(zlib.Z_SYNC_FLUSH)
    yield packer.compress(b" " * MIB) + packer.flush(zlib.Z_SYNC_FLUSH)
    more = packer.compress(b" " * MIB) + packer.flush(zlib.Z_SYNC_FLUSH)
    while True:
        yield more * 50  # 50 MiB in one read of the socket


@asynccontextmanager
async def flooding(encoding: str, status: int = 200) -> AsyncIterator[Server]:
    """A server whose answers have no end; ``disconnected`` is set when the client has closed the connection."""
    server = Server("")
    ended: list[asyncio.Event] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ended.append(end := asyncio.Event())
        await reader.readuntil(b"\r\n\r\n")
        writer.write(
            f"HTTP/1.1 {status} OK\r\nx-elastic-product: Elasticsearch\r\ncontent-type: application/json\r\n"
            f"content-encoding: {encoding}\r\nconnection: close\r\n\r\n".encode()
        )
        try:
            for chunk in endless(encoding):
                writer.write(chunk)
                await writer.drain()
        except ConnectionError:
            server.disconnected.set()
        finally:
            writer.close()
            end.set()

    listener = await asyncio.start_server(answer, "127.0.0.1", 0)
    server.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    try:
        yield server
    finally:
        listener.close()
        for end in ended:
            await asyncio.wait_for(end.wait(), 5)


@pytest.fixture
def peak() -> Iterator[None]:
    tracemalloc.start()
    yield
    tracemalloc.stop()


@pytest.mark.parametrize("status", [200, 503])
@pytest.mark.parametrize("encoding", ["identity", "gzip"])
async def test_an_answer_without_an_end_is_left(kind: str, encoding: str, status: int, peak: None) -> None:
    async with flooding(encoding, status) as server, connect(kind, server.url, max_answer_mib=LIMIT_MIB) as connector:
        started = time.monotonic()
        tracemalloc.reset_peak()
        held = tracemalloc.get_traced_memory()[0]
        with pytest.raises(AnswerTooLarge, match=r"search on 'books': .* larger than 2 MiB \(`max_answer_mib`\)"):
            await connector.search("books", {}, timeout_s=TIMEOUT_S)
        assert tracemalloc.get_traced_memory()[1] - held < MOST_HELD
        assert time.monotonic() - started < TIMEOUT_S / 6
        await asyncio.wait_for(server.disconnected.wait(), 5)


async def test_every_call_is_bounded(kind: str) -> None:
    async with flooding("identity") as server, connect(kind, server.url, max_answer_mib=1) as connector:
        for call in (
            connector.fetch([DocumentRef("books", "1")], ["title"], timeout_s=TIMEOUT_S),
            connector.resolve("books", timeout_s=TIMEOUT_S),
            connector.info(timeout_s=TIMEOUT_S),
        ):
            with pytest.raises(AnswerTooLarge):
                await call


@pytest.mark.parametrize("packed", [False, True])
async def test_an_answer_may_be_as_large_as_the_limit(kind: str, packed: bool) -> None:
    body = json_answer(EMPTY_ANSWER).body
    assert isinstance(body, bytes)

    def answer(size: int) -> web.Response:
        whole = body.ljust(size)
        encoding = {"Content-Encoding": "gzip"} if packed else {}
        headers = {"X-Elastic-Product": "Elasticsearch", "Content-Type": "application/json", **encoding}
        return web.Response(body=gzip.compress(whole) if packed else whole, headers=headers)

    fits, exceeds = serving(always(lambda: answer(MIB))), serving(always(lambda: answer(MIB + 1)))
    async with fits as server, connect(kind, server.url, max_answer_mib=1) as connector:
        assert (await connector.search("books", {}, timeout_s=10)).hits == ()
    async with exceeds as server, connect(kind, server.url, max_answer_mib=1) as connector:
        with pytest.raises(AnswerTooLarge):
            await connector.search("books", {}, timeout_s=10)
        assert len(server.asked) == 1, "the same call would be answered the same"


async def test_no_node_is_blamed_for_it(kind: str) -> None:
    sizes = iter([2 * MIB, 0, 0, 0])
    answer = always(lambda: json_answer({**EMPTY_ANSWER, "pad": "x" * next(sizes)}))
    async with serving(answer) as server, serving(answer) as other:
        async with connect(kind, server.url, other.url, max_answer_mib=1) as connector:
            with pytest.raises(AnswerTooLarge):
                await connector.search("books", {}, timeout_s=10)
            for _ in range(3):
                await connector.search("books", {}, timeout_s=10)
        assert (len(server.asked), len(other.asked)) == (2, 2)
