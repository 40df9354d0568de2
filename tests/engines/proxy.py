"""A proxy in front of one node that spoils requests and answers as a test says.

    async with Proxy(node_url) as proxy:
        proxy.spoil("_search", status(503), times=1)   # the first search is answered 503, the next one by the node
        ...                                            # proxy.url in place of the node's
        assert [asked.operation for asked in proxy.reached] == ["_search"]

A spoiler is a coroutine function of an :class:`Exchange`: one request, and the means to ask the node and to answer.
"""

import asyncio
import contextlib
import dataclasses
import functools
import socket
import struct
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from types import TracebackType
from typing import Any, Self

import aiohttp
from yarl import URL

HOP_BY_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "content-length", "host"})
OWN = ("accept", "accept-encoding", "content-type", "user-agent")  # what aiohttp would add
NO_LINGER = struct.pack("ii", 1, 0)
BACKLOG_PROBES = 4


@dataclass(frozen=True, slots=True)
class Asked:
    """One request as it came over the wire. ``headers`` have lower-case names."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def operation(self) -> str:
        """The last part of the path, such as ``_search``; empty for ``/``."""
        return self.target.partition("?")[0].rpartition("/")[2]


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer; its head is written anew, with the right length of ``body``."""

    status: int
    headers: dict[str, str]
    body: bytes

    def head(self, length: int | None = None) -> bytes:
        """Status line and headers. ``length`` is told instead of the true one."""
        try:
            phrase = HTTPStatus(self.status).phrase
        except ValueError:
            phrase = "Unknown"
        headers = {**self.headers, "content-length": str(len(self.body) if length is None else length)}
        lines = [f"HTTP/1.1 {self.status} {phrase}", *(f"{name}: {value}" for name, value in headers.items())]
        return "\r\n".join([*lines, "", ""]).encode("latin-1")

    def plain(self) -> "Answer":
        """The same, not compressed."""
        if self.headers.get("content-encoding") != "gzip":
            return self
        headers = {name: value for name, value in self.headers.items() if name != "content-encoding"}
        return Answer(self.status, headers, zlib.decompress(self.body, wbits=31))

    def with_body(self, body: bytes) -> "Answer":
        """The same answer, with another body that is not compressed."""
        return dataclasses.replace(self.plain(), body=body)


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request on one connection of a client."""

    asked: Asked
    ask_node: Callable[[], Awaitable[Answer]]
    writer: asyncio.StreamWriter

    async def send(self, *parts: bytes) -> None:
        """Send bytes to the client, whatever they are."""
        self.writer.writelines(parts)
        await self.writer.drain()

    async def answer(self, answer: Answer) -> None:
        """Send a whole answer; the connection stays open."""
        await self.send(answer.head(), answer.body)

    def hang_up(self) -> None:
        """Close the connection once what was sent is delivered."""
        self.writer.close()

    async def reset(self) -> None:
        """Reset the connection, after what was sent has had a moment to arrive."""
        await asyncio.sleep(0.02)
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
        self.writer.transport.abort()


Spoiler = Callable[[Exchange], Coroutine[Any, Any, None]]


async def untouched(exchange: Exchange) -> None:
    """Pass the request on, and the node's answer back."""
    await exchange.answer(await exchange.ask_node())


@dataclass
class Rule:
    """Which requests are spoilt: those of an operation (any, if empty), after the first ``skip``, ``times`` times."""

    operation: str
    spoiler: Spoiler
    skip: int = 0
    times: int | None = None
    _seen: int = field(default=0, init=False)

    def takes(self, asked: Asked) -> bool:
        """Whether this request is one of them; counts it."""
        if self.operation and asked.operation != self.operation:
            return False
        self._seen += 1
        return self._seen > self.skip and (self.times is None or self._seen <= self.skip + self.times)


class Proxy:
    """A proxy on a port of 127.0.0.1, to the node at ``node_url`` (http). It serves as long as it is entered.

    ``asked`` are all requests so far, ``reached`` those that were passed on to the node. ``url`` stays the same while
    the proxy is :meth:`refusing` or :meth:`stuck`.
    """

    def __init__(self, node_url: str) -> None:
        self.asked: list[Asked] = []
        self.reached: list[Asked] = []
        self._node_url = node_url.rstrip("/")
        self._rules: list[Rule] = []
        self._port = 0
        self._server: asyncio.Server | None = None
        self._serving: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    @property
    def url(self) -> str:
        """The proxy's own address."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def connections(self) -> int:
        """Connections of clients that are open now."""
        return len(self._serving)

    def spoil(self, operation: str, spoiler: Spoiler, *, skip: int = 0, times: int | None = None) -> None:
        """Spoil requests of this operation (any, if empty) from now on: all but the first ``skip``, ``times`` times."""
        self._rules.append(Rule(operation, spoiler, skip, times))

    def heal(self) -> None:
        """Spoil nothing more, and forget what was asked."""
        self._rules.clear()
        self.asked.clear()
        self.reached.clear()

    def count(self, operation: str) -> int:
        """How many requests of this operation came since the last :meth:`heal`."""
        return sum(asked.operation == operation for asked in self.asked)

    @asynccontextmanager
    async def refusing(self, but: Exchange | None = None) -> AsyncIterator[None]:
        """Meanwhile connections are refused; those that were open are closed, but for that of one exchange."""
        await self._close(but)
        try:
            yield
        finally:
            await self._listen()

    @asynccontextmanager
    async def stuck(self, but: Exchange | None = None) -> AsyncIterator[None]:
        """As :meth:`refusing`, but connections are neither refused nor accepted: the queue of new ones is full."""
        await self._close(but)
        with _full_queue(self._port):
            yield
        await self._listen()

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, force_close=True),
            auto_decompress=False,
            timeout=aiohttp.ClientTimeout(total=60),
        )
        await self._listen()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._close()
        await self._session.close()

    async def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        made = lambda: asyncio.StreamReaderProtocol(_Reader(), self._serve)  # noqa: E731
        self._server = await loop.create_server(made, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    async def _close(self, but: Exchange | None = None) -> None:
        """Stop listening and end every connection, but for that of one exchange."""
        assert self._server
        self._server.close()
        ending = [(task, writer) for task, writer in self._serving.items() if not but or writer is not but.writer]
        for task, writer in ending:
            writer.transport.abort()
            task.cancel()
        await asyncio.gather(*(task for task, _ in ending), return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, request after request, until either side has enough."""
        assert isinstance(reader, _Reader)
        task = asyncio.current_task()
        assert task
        self._serving[task] = writer
        try:
            while not writer.is_closing() and (asked := await _read_request(reader)):
                self.asked.append(asked)
                exchange = Exchange(asked, functools.partial(self._ask, asked), writer)
                await _unless(reader.gone, self._spoiler(asked)(exchange))
        except (ConnectionError, aiohttp.ClientError, asyncio.CancelledError):
            writer.transport.abort()  # the client is gone, or the node: let the client see that nobody answers
        finally:
            del self._serving[task]
            writer.close()

    def _spoiler(self, asked: Asked) -> Spoiler:
        return next((rule.spoiler for rule in self._rules if rule.takes(asked)), untouched)

    async def _ask(self, asked: Asked) -> Answer:
        self.reached.append(asked)
        headers = {name: value for name, value in asked.headers.items() if name not in HOP_BY_HOP}
        url = URL(self._node_url + asked.target, encoded=True)
        sending = self._session.request(
            asked.method, url, headers=headers, data=asked.body or None, skip_auto_headers=OWN, allow_redirects=False
        )
        async with sending as response:
            said = {name.lower(): value for name, value in response.headers.items() if name.lower() not in HOP_BY_HOP}
            return Answer(response.status, said, await response.read())


class _Reader(asyncio.StreamReader):
    """A reader that tells at once when the client has left, though nobody reads."""

    def __init__(self) -> None:
        super().__init__(limit=2**20)
        self.gone = asyncio.Event()

    def feed_eof(self) -> None:
        super().feed_eof()
        self.gone.set()

    def set_exception(self, exc: Exception) -> None:
        super().set_exception(exc)
        self.gone.set()


async def _unless(gone: asyncio.Event, work: Coroutine[Any, Any, None]) -> None:
    """Do the work, and drop it when the client has gone."""
    doing, leaving = asyncio.ensure_future(work), asyncio.ensure_future(gone.wait())
    try:
        await asyncio.wait((doing, leaving), return_when=asyncio.FIRST_COMPLETED)
        if doing.done():
            await doing
    finally:
        doing.cancel()
        leaving.cancel()
        await asyncio.gather(doing, leaving, return_exceptions=True)


async def _read_request(reader: asyncio.StreamReader) -> Asked | None:
    """The next request on this connection; None when there is none."""
    try:
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")[:-2]
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        method, target, _ = first.split(" ", 2)
        body = await reader.readexactly(int(headers.get("content-length", 0)))
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    assert "transfer-encoding" not in headers, "no client that is tested sends chunks"
    return Asked(method, target, headers, body)


@contextmanager
def _full_queue(port: int) -> Iterator[None]:
    """A port that listens, accepts nothing, and whose queue of new connections is full."""
    with contextlib.ExitStack() as closing:
        listener = closing.enter_context(socket.socket())
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen(0)
        for _ in range(BACKLOG_PROBES):
            probe = closing.enter_context(socket.socket())
            probe.setblocking(False)
            probe.connect_ex(("127.0.0.1", port))
        yield
