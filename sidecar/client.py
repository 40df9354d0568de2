"""A small typed client, asyncio and blocking.

    async with RerankClient("localhost:50051") as client:
        page = await client.search("articles", "apple varieties for storage", {"query": {"match": {"text": "apple"}}})
        for hit in page.hits:
            print(hit["_id"])

The messages of the contract are returned as they are, with the engine's JSON read: see proto/sidecar/v1/rerank.proto.
A gRPC error (``grpc.RpcError``) means that there is nothing to show; a degraded answer is none, see ``outcome``.
"""

import json
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import TracebackType
from typing import Any, Self

import grpc

from sidecar.v1 import rerank_pb2 as pb
from sidecar.v1 import rerank_pb2_grpc as pb_grpc

MAX_MESSAGE_BYTES = 64 * 2**20
"""Largest message taken or sent; gRPC's own default of 4 MB refuses a hundred long documents."""
_OPTIONS = [("grpc.max_receive_message_length", MAX_MESSAGE_BYTES), ("grpc.max_send_message_length", MAX_MESSAGE_BYTES)]
_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Page:
    """The answer to a search."""

    message: pb.SearchResponse

    @cached_property
    def response(self) -> dict[str, Any]:
        """The engine's own response, its hits in the new order."""
        return dict(json.loads(self.message.response))

    @property
    def hits(self) -> list[dict[str, Any]]:
        """The engine's hits in the new order."""
        return list(self.response["hits"]["hits"])

    @property
    def results(self) -> list[pb.Result]:
        """Ranks and scores, one for each hit, in the same order."""
        return list(self.message.results)

    @property
    def outcome(self) -> str:
        """RERANKED, PARTIAL, ORIGINAL_ORDER or SKIPPED."""
        return pb.Outcome.Name(self.message.outcome).removeprefix("OUTCOME_")

    @property
    def reason(self) -> str:
        """Why it is not RERANKED; UNSPECIFIED when it is."""
        return pb.Reason.Name(self.message.reason).removeprefix("REASON_")


def search_request(
    index: str,
    query: str,
    body: Mapping[str, Any] | None = None,
    *,
    connector: str = "",
    params: Mapping[str, str] | None = None,
    options: pb.Options | None = None,
) -> pb.SearchRequest:
    """A Search message; ``body`` is the app's own search body."""
    return pb.SearchRequest(
        connector=connector,
        index=index,
        query=query,
        body=json.dumps(body or {}),
        params=dict(params or {}),
        options=options,
    )


def rerank_request(
    query: str,
    candidates: Iterable[str | pb.Candidate],
    *,
    index: str = "",
    connector: str = "",
    top_n: int | None = None,
    options: pb.Options | None = None,
) -> pb.RerankRequest:
    """A Rerank message; a plain string is a candidate with that text.

    Raises:
        TypeError: ``candidates`` is a single string, whose characters would be candidates.
    """
    if isinstance(candidates, str):
        raise TypeError("`candidates` is a string; give a list of texts or candidates")
    messages = [pb.Candidate(text=one) if isinstance(one, str) else one for one in candidates]
    return pb.RerankRequest(
        query=query, candidates=messages, index=index, connector=connector, top_n=top_n, options=options
    )


class RerankClient:
    """Calls a sidecar from asyncio code; every call takes ``timeout_s``, after which it raises DEADLINE_EXCEEDED."""

    def __init__(self, target: str) -> None:
        """``target`` is ``host:port``; no connection is made yet."""
        self._channel = grpc.aio.insecure_channel(target, options=_OPTIONS)
        self.stub: pb_grpc.RerankServiceAsyncStub = pb_grpc.RerankServiceStub(self._channel)  # type: ignore[assignment]
        self.policies: pb_grpc.PolicyServiceAsyncStub = pb_grpc.PolicyServiceStub(self._channel)  # type: ignore[assignment]

    async def search(
        self,
        index: str,
        query: str,
        body: Mapping[str, Any] | None = None,
        *,
        timeout_s: float = _TIMEOUT_S,
        **request: Any,
    ) -> Page:
        """Search and rerank; further arguments are those of :func:`search_request`."""
        return Page(await self.stub.Search(search_request(index, query, body, **request), timeout=timeout_s))

    async def search_progressive(
        self,
        index: str,
        query: str,
        body: Mapping[str, Any] | None = None,
        *,
        timeout_s: float = _TIMEOUT_S,
        **request: Any,
    ) -> AsyncIterator[Page]:
        """The engine's order first, the final one second."""
        message = pb.SearchProgressiveRequest(search=search_request(index, query, body, **request))
        async for answer in self.stub.SearchProgressive(message, timeout=timeout_s):
            yield Page(answer.search)

    async def rerank(
        self, query: str, candidates: Iterable[str | pb.Candidate], *, timeout_s: float = _TIMEOUT_S, **request: Any
    ) -> pb.RerankResponse:
        """Rerank candidates; further arguments are those of :func:`rerank_request`."""
        return await self.stub.Rerank(rerank_request(query, candidates, **request), timeout=timeout_s)

    async def close(self) -> None:
        """Close the connection."""
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


class BlockingRerankClient:
    """Calls a sidecar from ordinary code; the same methods as :class:`RerankClient`. Safe to share among threads."""

    def __init__(self, target: str) -> None:
        """``target`` is ``host:port``; no connection is made yet."""
        self._channel = grpc.insecure_channel(target, options=_OPTIONS)
        self.stub = pb_grpc.RerankServiceStub(self._channel)
        self.policies = pb_grpc.PolicyServiceStub(self._channel)

    def search(
        self,
        index: str,
        query: str,
        body: Mapping[str, Any] | None = None,
        *,
        timeout_s: float = _TIMEOUT_S,
        **request: Any,
    ) -> Page:
        """Search and rerank; further arguments are those of :func:`search_request`."""
        return Page(self.stub.Search(search_request(index, query, body, **request), timeout=timeout_s))

    def search_progressive(
        self,
        index: str,
        query: str,
        body: Mapping[str, Any] | None = None,
        *,
        timeout_s: float = _TIMEOUT_S,
        **request: Any,
    ) -> Iterator[Page]:
        """The engine's order first, the final one second."""
        message = pb.SearchProgressiveRequest(search=search_request(index, query, body, **request))
        for answer in self.stub.SearchProgressive(message, timeout=timeout_s):
            yield Page(answer.search)

    def rerank(
        self, query: str, candidates: Iterable[str | pb.Candidate], *, timeout_s: float = _TIMEOUT_S, **request: Any
    ) -> pb.RerankResponse:
        """Rerank candidates; further arguments are those of :func:`rerank_request`."""
        return self.stub.Rerank(rerank_request(query, candidates, **request), timeout=timeout_s)

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
