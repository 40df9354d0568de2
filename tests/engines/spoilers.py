"""What can become of an answer on its way from a node: spoilers for :class:`tests.engines.proxy.Proxy`."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

from tests.engines.proxy import Answer, Exchange, Spoiler

Json = dict[str, Any]

HTML = b"<html><head><title>Error</title></head><body><h1>nginx</h1></body></html>"
SHARD_FAILURE: Json = {
    "shard": 0,
    "index": "broken",
    "node": "n1",
    "reason": {"type": "es_rejected_execution_exception", "reason": "the queue is full"},
}


def delayed(*, before_s: float = 0.0, after_s: float = 0.0) -> Spoiler:
    """Wait before the request is passed on, and before its answer comes back."""

    async def spoil(exchange: Exchange) -> None:
        await asyncio.sleep(before_s)
        answer = await exchange.ask_node()
        await asyncio.sleep(after_s)
        await exchange.answer(answer)

    return spoil


def dripping(*, chunks: int, over_s: float) -> Spoiler:
    """The head at once, and the body in so many pieces over so many seconds."""

    async def spoil(exchange: Exchange) -> None:
        answer = await exchange.ask_node()
        await exchange.send(answer.head())
        size = max(1, -(-len(answer.body) // chunks))
        for start in range(0, len(answer.body), size):
            await asyncio.sleep(over_s / chunks)
            await exchange.send(answer.body[start : start + size])

    return spoil


def cut(share: float = 0.5, *, reset: bool = False) -> Spoiler:
    """The true length, this share of the body, and then the connection ends."""

    async def spoil(exchange: Exchange) -> None:
        answer = await exchange.ask_node()
        await exchange.send(answer.head(), answer.body[: int(len(answer.body) * share)])
        await _end(exchange, reset)

    return spoil


def stalled(share: float = 0.5) -> Spoiler:
    """As :func:`cut`, but the connection stays open and nothing more comes."""

    async def spoil(exchange: Exchange) -> None:
        answer = await exchange.ask_node()
        await exchange.send(answer.head(), answer.body[: int(len(answer.body) * share)])
        await asyncio.Event().wait()

    return spoil


def ended(*, reset: bool = False, asks: bool = True) -> Spoiler:
    """No answer: the connection ends, before or after the node was asked."""

    async def spoil(exchange: Exchange) -> None:
        if asks:
            await exchange.ask_node()
        await _end(exchange, reset)

    return spoil


async def silent(exchange: Exchange) -> None:
    """The request is taken, and nothing ever comes."""
    await asyncio.Event().wait()


def answered(status: int, body: bytes = b"", media_type: str = "", **headers: str) -> Spoiler:
    """An answer of the proxy's own, without asking the node; ``retry_after`` becomes ``retry-after``."""
    said = {name.replace("_", "-"): value for name, value in headers.items()}
    typed = {"content-type": media_type} if media_type else {}

    async def spoil(exchange: Exchange) -> None:
        await exchange.answer(Answer(status, typed | said, body))

    return spoil


def error(status: int, error_type: str, reason: str = "because", **headers: str) -> Spoiler:
    """An engine's own refusal."""
    root = {"type": error_type, "reason": reason}
    body = json.dumps({"error": {**root, "root_cause": [root]}, "status": status}).encode()
    return answered(status, body, "application/json", **headers)


def raw(garbage: bytes, *, then_open: bool = False) -> Spoiler:
    """These bytes in place of an answer, and then the connection ends, or stays open."""

    async def spoil(exchange: Exchange) -> None:
        await exchange.send(garbage)
        if then_open:
            await asyncio.Event().wait()
        exchange.hang_up()

    return spoil


def rewritten(change: Callable[[Answer], Answer]) -> Spoiler:
    """The node's answer, changed."""

    async def spoil(exchange: Exchange) -> None:
        await exchange.answer(change(await exchange.ask_node()))

    return spoil


def with_json(change: Callable[[Json], object]) -> Spoiler:
    """The node's answer with its JSON changed in place."""

    def changed(answer: Answer) -> Answer:
        body = json.loads(answer.plain().body)
        change(body)
        return answer.with_body(json.dumps(body).encode())

    return rewritten(changed)


def one_shard_failed(answer: Json) -> None:
    """For :func:`with_json`: one more shard, which failed."""
    shards = answer["_shards"]
    shards.update(total=shards["total"] + 1, failed=1, failures=[SHARD_FAILURE])


def typed(media_type: str) -> Spoiler:
    """The node's answer under another content type."""
    return rewritten(lambda answer: Answer(answer.status, answer.headers | {"content-type": media_type}, answer.body))


def truncated_json(answer: Answer) -> Answer:
    """For :func:`rewritten`: half of the JSON, honestly measured."""
    plain = answer.plain().body
    return answer.with_body(plain[: len(plain) // 2])


async def _end(exchange: Exchange, reset: bool) -> None:
    if reset:
        await exchange.reset()
    else:
        exchange.hang_up()


BROKEN: dict[str, Spoiler] = {
    "closed before it asked the node": ended(asks=False),
    "closed after it asked the node": ended(),
    "reset before it asked the node": ended(reset=True, asks=False),
    "reset after it asked the node": ended(reset=True),
    "cut after the head": cut(0.0),
    "cut in the middle of the body": cut(),
    "reset in the middle of the body": cut(reset=True),
    "429": error(429, "es_rejected_execution_exception"),
    "502 without a word": answered(502),
    "502 in HTML": answered(502, HTML, "text/html"),
    "503 without a word": answered(503),
    "503 in HTML": answered(503, HTML, "text/html"),
    "503 of the engine": error(503, "cluster_block_exception"),
    "504 without a word": answered(504),
    "504 in HTML": answered(504, HTML, "text/html"),
}
"""What another try may help against."""

WRONG: dict[str, Spoiler] = {
    "500 of the engine": error(500, "null_pointer_exception"),
    "garbage": raw(b"\x00\x01\x02 garbage \xff\r\n\r\n"),
    "HTML in place of JSON": answered(200, HTML, "text/html"),
    "another content type": typed("text/plain"),
    "no JSON": answered(200, b"{nonsense", "application/json", x_elastic_product="Elasticsearch"),
    "half of the JSON": rewritten(truncated_json),
    "no body": answered(200, b"", "application/json", x_elastic_product="Elasticsearch"),
    "a redirect": answered(302, location="http://127.0.0.1:9/"),
}
"""An answer, but not to what was asked: it is not asked again."""

LATE: dict[str, Spoiler] = {
    "silence": silent,
    "a late request": delayed(before_s=30),
    "a late answer": delayed(after_s=30),
    "a body that stops": stalled(),
    "a head that stops": raw(b"HTTP/1.1 200 OK\r\ncontent-ty", then_open=True),
    "a dripping body": dripping(chunks=100, over_s=30),
}
"""No complete answer in time."""
