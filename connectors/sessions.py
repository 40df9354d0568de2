"""One node's HTTP session, made the same way for both engines' clients."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from io import BytesIO
from typing import Any

import aiohttp

from connectors.options import HttpOptions

_LARGE_BYTES = 2**20


class TooLarge(ValueError):
    """An answer is over the size limit. A ``ValueError``, for which the clients do not blame the node."""


class Response(aiohttp.ClientResponse):
    """An answer of at most ``most_bytes``; the connection of a larger one is closed."""

    most_bytes: int

    async def read(self) -> bytes:
        """Read the whole body, decompressed.

        Raises:
            TooLarge: the body has more than ``most_bytes``.
        """
        try:
            return b"".join([part async for part in self._parts()])
        except BaseException:
            self.close()
            raise

    async def _parts(self) -> AsyncIterator[bytes]:
        left = self.most_bytes
        async for part in self.content.iter_any():
            left -= len(part)
            if left < 0:
                raise TooLarge(f"the answer is larger than {self.most_bytes} bytes")
            yield part


def open_session(
    options: HttpOptions,
    context: ssl.SSLContext | None,
    *,
    response_class: type[Response] = Response,
) -> aiohttp.ClientSession:
    """Open a session that keeps connections alive and holds no cookie, no credential and no proxy of the environment.

    It follows no redirect: an answer must not choose the host of the next call, and engines send no 3xx. Connecting
    has its own time limit if another node can be tried.

    Requests queue for a connection here, not in aiohttp (3.14): there, a request cancelled at the moment it is given a
    connection takes its slot with it, and those behind it wait although the connection is free.
    """
    pins = options.tls.pins() if options.tls else None
    bounded = type(response_class.__name__, (response_class,), {"most_bytes": options.max_answer_mib * 2**20})
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, ssl=pins or context or True),
        cookie_jar=aiohttp.DummyCookieJar(),
        skip_auto_headers=("accept", "accept-encoding", "user-agent"),
        response_class=bounded,
        trust_env=False,
    )
    ask, turns = session.request, asyncio.Semaphore(options.connections)

    @asynccontextmanager
    async def request(method: str, url: Any, **given: Any) -> AsyncIterator[aiohttp.ClientResponse]:
        total_s = given["timeout"].total
        limits = aiohttp.ClientTimeout(total=total_s, sock_connect=connect_timeout_s(options, total_s))
        secured = {"ssl": context} if context else {}
        body = {"data": _streamed(given["data"])} if "data" in given else {}
        changed = {**given, **secured, **body, "timeout": limits, "allow_redirects": False}
        async with turns, ask(method, url, **changed) as answer:
            yield answer

    session.request = request  # type: ignore[method-assign,assignment]
    return session


def _streamed(body: Any) -> Any:
    """Return a large body as a file, since aiohttp warns about large bodies given as bytes."""
    return BytesIO(body) if isinstance(body, bytes) and len(body) > _LARGE_BYTES else body


def connect_timeout_s(options: HttpOptions, left_s: float | None) -> float | None:
    """Seconds that connecting may take: ``left_s`` (None: no limit), or less if another node can be tried after it."""
    if left_s is None or len(options.nodes) == 1 or options.max_attempts == 1:
        return left_s
    return min(options.connect_timeout_s, left_s / 2)
