"""The same search asked of the engine itself and of the sidecar, and scorers whose order a test can foretell."""

import json
import ssl
import zlib
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote, urlencode

import aiohttp
import grpc
import numpy as np

from sidecar.client import Page as ClientPage
from sidecar.client import RerankClient, error_details, search_request
from sidecar.scoring.base import Pair, Scores
from sidecar.v1 import rerank_pb2 as pb
from tests.engines.compare import Answer, Place, Reply
from tests.engines.engine import Engine
from tests.engines.rest import Json

PATIENCE_S = 30.0
"""A busy machine may take so long for one search."""


class Refused(Exception):
    """An engine or the sidecar answered with an error; ``kind`` is the engine's own name of it."""

    def __init__(self, code: str, kind: str, message: str) -> None:
        super().__init__(f"{code} {kind}: {message}")
        self.code = code
        self.kind = kind
        self.message = message


class Direct:
    """Asks an engine without the project's own code, and keeps the text of what it answers."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def search(self, index: str, body: Json, params: Mapping[str, str] | None = None) -> Answer:
        """The engine's answer, or :class:`Refused`; a point in time is searched without its index."""
        path = "/_search" if "pit" in body else f"/{quote(index, safe=',*')}/_search"
        return Answer(await self.ask("POST", f"{path}?{urlencode(params or {})}", body))

    async def ask(self, method: str, path: str, body: Json | None = None) -> str:
        """The text of any answer, or :class:`Refused`."""
        async with self._session.request(method, path, json=body) as response:
            text = (await response.read()).decode()
            if response.status >= 400:
                error = json.loads(text)["error"]
                root = (error.get("root_cause") or [error])[0]
                raise Refused(str(response.status), root["type"], str(root.get("reason")))
        return text


@asynccontextmanager
async def direct(engine: Engine) -> AsyncIterator[Direct]:
    """A way to the engine itself."""
    context = ssl.create_default_context(cafile=engine.ca_certs) if engine.ca_certs else None
    authorization = engine.access.authorization
    headers = {"Authorization": authorization} if authorization else {}
    connector = aiohttp.TCPConnector(ssl=context or True)
    timeout = aiohttp.ClientTimeout(PATIENCE_S)
    async with aiohttp.ClientSession(engine.url, connector=connector, headers=headers, timeout=timeout) as session:
        yield Direct(session)


async def through(
    client: RerankClient,
    index: str,
    query: str,
    body: Json,
    params: Mapping[str, str] | None = None,
    options: pb.Options | None = None,
) -> Reply:
    """The sidecar's answer, or :class:`Refused`."""
    message = search_request(index, query, body, params=params, options=options)
    try:
        return reply_of(ClientPage(await client.stub.Search(message, timeout=PATIENCE_S)))
    except grpc.aio.AioRpcError as error:
        details = error_details(error)
        raise Refused(error.code().name, details.reason if details else "", error.details() or "") from None


def reply_of(page: ClientPage) -> Reply:
    """What the tests look at of an answer."""
    return Reply(Answer(page.message.response), page.outcome, page.reason, [_place(one) for one in page.results])


def _place(result: pb.Result) -> Place:
    given: list[Any] = [
        getattr(result, name) if result.HasField(name) else None for name in ("original_score", "relevance_score")
    ]
    return Place(result.id, result.index, result.original_rank, *given)


class HashScorer:
    """Scores that look random, some below 0, and are always the same for the same query and text."""

    version = "hash"
    max_length = 100_000

    def encode(self, query: str, passages: Sequence[str]) -> list[Pair]:
        """One token, which is a digest of both."""
        return [Pair([zlib.crc32(f"{query}\n{passage}".encode(errors="surrogatepass"))]) for passage in passages]

    def score(self, pairs: Sequence[Pair]) -> Scores:
        """-8 to 8 by that digest."""
        return np.array([pair.input_ids[0] / 2**28 - 8 for pair in pairs], np.float32)

    def foretold(self, query: str, text: str) -> float:
        """The score of one text."""
        return float(self.score(self.encode(query, [text]))[0])


def overlap(query: str, text: str) -> float:
    """The score of the project's word-overlap scorer for words without punctuation, worked out another way."""
    words = set(query.split())
    return float(np.float32(len(words & set(text.split())) / len(words)))


@asynccontextmanager
async def points_in_time(
    engine: Engine, straight: Direct, expressions: Iterable[str]
) -> AsyncIterator[dict[str, Json]]:
    """A point in time for each index expression, as the value of a body's ``pit``."""
    is_elastic = engine.kind == "elasticsearch"
    path, key = ("_pit", "id") if is_elastic else ("_search/point_in_time", "pit_id")
    opened: dict[str, Json] = {}
    for one in dict.fromkeys(expressions):
        answer = await straight.ask("POST", f"/{quote(one, safe=',*')}/{path}?keep_alive=5m")
        opened[one] = {"id": json.loads(answer)[key], "keep_alive": "5m"}
    try:
        yield opened
    finally:
        for pit in opened.values():
            await straight.ask("DELETE", f"/{path}", {key: pit["id"] if is_elastic else [pit["id"]]})
