"""Sends Rerank calls to a running sidecar as a plan says, in a process of its own.

    python -m tests.bench.generator < plan.json > result.json

In an open loop a call is sent when it is due, whatever became of those before it, and its latency counts from the
moment it was *due*: a generator that falls behind makes latencies longer, never hides them. The bytes of the documents
are built beforehand; only the query, new in each call, is put in front of them.
"""

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field
from itertools import cycle
from typing import Any, Literal

import grpc

from sidecar.v1 import rerank_pb2 as pb
from tests.bench import texts
from tests.bench.arrivals import Arrivals, due_s

_METHOD = "/sidecar.v1.RerankService/Rerank"
_MAX_BYTES = 64 * 2**20
NO_ANSWER = "NO_ANSWER"
"""The outcome of a call that was still open when patience ended."""


@dataclass(frozen=True)
class Stream:
    """Calls of one kind. ``size`` is a document's length in ``unit``; only ``mean_tokens`` are spread, lognormally.

    ``arrivals`` is ``closed`` for ``callers`` that each send their next call when the last one was answered.
    """

    name: str = "calls"
    arrivals: Arrivals | Literal["closed"] = "constant"
    rate_per_s: float = 1.0
    callers: int = 1
    candidates: int = 100
    size: int = 85
    unit: Literal["mean_tokens", "words", "characters"] = "mean_tokens"
    budget_ms: int | None = None
    documents: int = 32
    """Number of lists of candidates; calls take them in turn, so documents recur after that many calls."""
    fresh_queries: bool = True
    seed: int = 7


@dataclass(frozen=True)
class Plan:
    """Streams that run side by side for ``seconds``; outstanding answers are then awaited for ``patience_s``."""

    address: str
    seconds: float
    streams: list[Stream]
    patience_s: float = 10.0
    max_calls: int | None = None
    """Calls after which closed streams end, even before ``seconds`` have passed; None: no limit."""


@dataclass(frozen=True, slots=True)
class Call:
    """How one call went.

    ``due_s`` counts from the start of the run, ``lag_ms`` is how much later than due the call was sent, ``latency_ms``
    counts from when it was due, and ``server_ms`` is the reply's own total.
    """

    stream: str
    due_s: float
    lag_ms: float
    latency_ms: float
    outcome: str
    reason: str = ""
    scored: int = 0
    server_ms: float = 0.0
    outside_ms: float = 0.0
    """The part of ``server_ms`` in which the device did not work for the call."""
    tokenize_ms: float = 0.0
    queue_ms: float = 0.0
    score_ms: float = 0.0
    device_ms: float = 0.0


@dataclass
class Result:
    """All calls, and what sending them took: processor time of this process and the time it ran, in s."""

    calls: list[Call] = field(default_factory=list)
    cpu_s: float = 0.0
    wall_s: float = 0.0


def main() -> None:
    """Read a plan from stdin, run it and write its result to stdout."""
    plan = plan_of(json.load(sys.stdin))
    json.dump(asdict(asyncio.run(send(plan))), sys.stdout)


def plan_of(tree: dict[str, Any]) -> Plan:
    """A plan from its JSON."""
    return Plan(**{**tree, "streams": [Stream(**stream) for stream in tree["streams"]]})


class Requests:
    """The requests of a stream, joined from prebuilt bytes: protobuf merges messages whose bytes are concatenated."""

    def __init__(self, stream: Stream) -> None:
        self._queries = texts.queries(stream.seed)
        self._lists = cycle([_candidates(stream, number) for number in range(stream.documents)])
        options = pb.Options(budget_ms=stream.budget_ms) if stream.budget_ms else None
        self._tail = pb.RerankRequest(options=options).SerializeToString()
        self._fixed = None if stream.fresh_queries else pb.RerankRequest(query=texts.QUERY).SerializeToString()

    def __next__(self) -> bytes:
        head = self._fixed or pb.RerankRequest(query=next(self._queries)).SerializeToString()
        return b"".join((head, next(self._lists), self._tail))


def _candidates(stream: Stream, number: int) -> bytes:
    seed = stream.seed * 1000 + number
    of_size = {"mean_tokens": texts.passages, "words": texts.of_words, "characters": texts.of_characters}[stream.unit]
    found = of_size(stream.size, stream.candidates, seed)
    return pb.RerankRequest(candidates=[pb.Candidate(text=text) for text in found]).SerializeToString()


async def send(plan: Plan) -> Result:
    """Send the calls of a plan and wait for their answers."""
    options = [("grpc.max_receive_message_length", _MAX_BYTES), ("grpc.max_send_message_length", _MAX_BYTES)]
    result = Result()
    async with grpc.aio.insecure_channel(plan.address, options=options) as channel:
        await asyncio.wait_for(channel.channel_ready(), plan.patience_s)
        call: Callable[..., Awaitable[Any]] = channel.unary_unary(_METHOD)
        prepared = [(stream, Requests(stream)) for stream in plan.streams]
        cpu, started = time.process_time(), time.perf_counter()
        sender = _Sender(call, plan, started, result)
        async with asyncio.TaskGroup() as group:
            for stream, requests in prepared:
                group.create_task(sender.stream(stream, requests))
        result.cpu_s, result.wall_s = time.process_time() - cpu, time.perf_counter() - started
    return result


@dataclass
class _Sender:
    call: Callable[..., Awaitable[Any]]
    plan: Plan
    started: float
    result: Result

    async def stream(self, stream: Stream, requests: Requests) -> None:
        if stream.arrivals == "closed":
            async with asyncio.TaskGroup() as group:
                for _ in range(stream.callers):
                    group.create_task(self._caller(stream, requests))
            return
        async with asyncio.TaskGroup() as group:
            for at in due_s(stream.arrivals, stream.rate_per_s, self.plan.seconds, stream.seed):
                await asyncio.sleep(max(0.0, self.started + at - time.perf_counter()))
                group.create_task(self._one(stream, requests, at))

    async def _caller(self, stream: Stream, requests: Requests) -> None:
        most = self.plan.max_calls
        while (now := time.perf_counter() - self.started) < self.plan.seconds:
            if most is not None and len(self.result.calls) >= most:
                return
            await self._one(stream, requests, now)

    async def _one(self, stream: Stream, requests: Requests, due: float) -> None:
        sent = time.perf_counter() - self.started
        patience_s = max(0.1, self.plan.seconds + self.plan.patience_s - sent)
        raw = b""
        try:
            async with asyncio.timeout(patience_s):
                raw = await self.call(next(requests))
            outcome, reason = "", ""
        except TimeoutError:
            outcome, reason = NO_ANSWER, ""
        except grpc.aio.AioRpcError as error:
            outcome, reason = "ERROR", error.code().name
        latency_ms = (time.perf_counter() - self.started - due) * 1e3
        times = (due, (sent - due) * 1e3, latency_ms)
        self.result.calls.append(
            Call(stream.name, *times, outcome, reason) if outcome else _answered(stream, times, raw)
        )


def _answered(stream: Stream, times: tuple[float, float, float], raw: bytes) -> Call:
    reply = pb.RerankResponse.FromString(raw)
    spent = reply.meta.timings
    return Call(
        stream.name,
        *times,
        outcome=pb.Outcome.Name(reply.outcome).removeprefix("OUTCOME_"),
        reason=pb.Reason.Name(reply.reason).removeprefix("REASON_"),
        scored=reply.meta.scored,
        server_ms=spent.total_ms,
        outside_ms=spent.total_ms - spent.device_ms,
        tokenize_ms=spent.tokenize_ms,
        queue_ms=spent.queue_ms,
        score_ms=spent.score_ms,
        device_ms=spent.device_ms,
    )


if __name__ == "__main__":
    main()
