"""Servers that the connectors are tested against: a recording one, a raw one, and just enough of Elasticsearch."""

import asyncio
import json
import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote

from aiohttp import web

from connectors import Connector, DocumentRef, EngineRefused, Json
from connectors.elasticsearch import ElasticsearchConnector
from connectors.memory import MemoryConnector
from connectors.opensearch import OpenSearchConnector
from connectors.options import HttpOptions

ELASTIC_TYPE = "application/vnd.elasticsearch+json;compatible-with=8"
EMPTY_ANSWER: Json = {"took": 1, "timed_out": False, "_shards": {}, "hits": {"hits": []}}
HTTP_KINDS = ("elasticsearch", "opensearch")
RESOLVE = "/_resolve/index/"


@dataclass(frozen=True)
class Asked:
    """One request as it came over the wire; ``target`` is the undecoded path and query string."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes


Handler = Callable[[Asked], Awaitable[web.StreamResponse]]


@dataclass
class Server:
    """A server of this test, and what it was asked so far."""

    url: str
    asked: list[Asked] = field(default_factory=list)
    disconnected: asyncio.Event = field(default_factory=asyncio.Event)


@asynccontextmanager
async def serving(handler: Handler, tls: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    """A server that answers every request by ``handler``; ``disconnected`` is set when a client leaves early."""
    server = Server("")

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        asked = Asked(request.method, request.raw_path, dict(request.headers), await request.read())
        server.asked.append(asked)
        try:
            return await handler(asked)
        except asyncio.CancelledError:
            server.disconnected.set()
            raise

    runner = web.ServerRunner(
        web.Server(answer, handler_cancellation=True, auto_decompress=False), shutdown_timeout=0.1
    )
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await site.start()
    server.url = f"{'https' if tls else 'http'}://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield server
    finally:
        await runner.cleanup()


@asynccontextmanager
async def serving_bytes(chunks: list[bytes], *, reset: bool = False) -> AsyncIterator[Server]:
    """A server that answers each request with the next chunk, HTTP or not, and hangs up, or resets the connection."""
    server = Server("")

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: (\d+)", head)
        body = await reader.readexactly(int(length[1])) if length else b""
        method, target, _ = head.decode().split(" ", 2)
        server.asked.append(Asked(method, target, {}, body))
        writer.write(chunks[min(len(server.asked), len(chunks)) - 1])
        await writer.drain()
        if reset:
            await asyncio.sleep(0.01)
            writer.transport.abort()
        writer.close()

    listener = await asyncio.start_server(answer, "127.0.0.1", 0)
    server.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    try:
        yield server
    finally:
        listener.close()
        await listener.wait_closed()


def json_answer(body: object, status: int = 200, media_type: str = "application/json") -> web.Response:
    """An answer that both clients take for their engine's."""
    headers = {"X-Elastic-Product": "Elasticsearch", "Content-Type": media_type}
    return web.Response(status=status, body=json.dumps(body).encode(), headers=headers)


def error_answer(status: int, error_type: str, reason: str = "because", **more: object) -> web.Response:
    """A refusal in the engines' form."""
    root: Json = {"type": error_type, "reason": reason, **more}
    return json_answer({"error": {**root, "root_cause": [root]}, "status": status}, status)


def always(response: Callable[[], web.StreamResponse]) -> Handler:
    """A handler that gives the same answer to every request."""

    async def handler(_: Asked) -> web.StreamResponse:
        return response()

    return handler


def one_by_one(*responses: Callable[[], web.StreamResponse]) -> Handler:
    """A handler that gives each answer once, the last one for ever."""
    left = list(responses)

    async def handler(_: Asked) -> web.StreamResponse:
        return (left.pop(0) if len(left) > 1 else left[0])()

    return handler


def elasticsearch_of(memory: MemoryConnector) -> Handler:
    """Just enough of Elasticsearch: ``GET /``, ``_search``, ``_mget`` and ``_resolve``, out of the memory connector."""

    async def handler(asked: Asked) -> web.StreamResponse:
        if asked.body and "compatible-with" not in asked.headers.get("Content-Type", ""):
            return error_answer(406, "media_type_header_exception")
        try:
            return json_answer(await _elasticsearch(memory, asked), media_type=ELASTIC_TYPE)
        except EngineRefused as error:
            return error_answer(error.status, error.error_type, error.reason)

    return handler


async def _elasticsearch(memory: MemoryConnector, asked: Asked) -> Json:
    path, _, query = asked.target.partition("?")
    if path == "/":
        return {"version": {"number": "8.19.0", "build_flavor": "default"}}
    if path.startswith(RESOLVE):
        members = await memory.resolve(unquote(path.removeprefix(RESOLVE)), timeout_s=5)
        return {"indices": [{"name": member.index} for member in members], "aliases": [], "data_streams": []}
    body = json.loads(asked.body)
    if path == "/_mget":
        return {"docs": [await _mget_row(memory, row) for row in body["docs"]]}
    index, operation = path.removeprefix("/").split("/")
    assert operation == "_search"
    return (await memory.search(unquote(index), body, timeout_s=5, params=dict(parse_qsl(query)))).raw


async def _mget_row(memory: MemoryConnector, row: Json) -> Json:
    ref = DocumentRef(row["_index"], row["_id"])
    found = await memory.fetch([ref], row["_source"], timeout_s=5)
    document: dict[str, Any] = {"_source": found[ref]} if ref in found else {}
    return {"_index": ref.index, "_id": ref.id, "found": ref in found, **document}


def connect(kind: str, *urls: str, name: str = "test", **options: Any) -> AbstractAsyncContextManager[Connector]:
    """A connector of that kind to these nodes, closed at the end."""
    maker = OpenSearchConnector if kind == "opensearch" else ElasticsearchConnector
    return closing(maker(name, HttpOptions(urls, **options)))


@asynccontextmanager
async def closing(connector: Connector) -> AsyncIterator[Connector]:
    """The connector, closed at the end."""
    try:
        yield connector
    finally:
        await connector.close()
