"""A small typed client, asyncio and blocking.

    async with RerankClient("localhost:50051") as client:
        page = await client.search("articles", "apple varieties for storage", {"query": {"match": {"text": "apple"}}})
        for hit in page.hits:
            print(hit["_id"])

The contract's messages are returned unchanged, with the engine's JSON decoded: see proto/sidecar/v1/rerank.proto.
A gRPC error (``grpc.RpcError``) means that there is no answer, and :func:`error_details` tells a program why; a
degraded answer is not an error, see ``outcome``.
"""

import json
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc

from sidecar.error_details import ErrorDetails as ErrorDetails
from sidecar.error_details import decode
from sidecar.v1 import rerank_pb2 as pb
from sidecar.v1 import rerank_pb2_grpc as pb_grpc

MAX_MESSAGE_BYTES = 64 * 2**20
"""Largest message received or sent; gRPC's own default of 4 MB refuses a hundred long documents."""
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
    template: Mapping[str, Any] | None = None,
) -> pb.SearchRequest:
    """Return a Search message; ``body`` is the app's own search body, ``template`` a search template that makes it."""
    return pb.SearchRequest(
        connector=connector,
        index=index,
        query=query,
        body="" if body is None else json.dumps(body),
        params=dict(params or {}),
        options=options,
        template="" if template is None else json.dumps(template),
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
    """Return a Rerank message; a plain string is a candidate with that text.

    Raises:
        TypeError: ``candidates`` is a single string, whose characters would be candidates.
    """
    if isinstance(candidates, str):
        raise TypeError("`candidates` is a string; give a list of texts or candidates")
    request = pb.RerankRequest(query=query, index=index, connector=connector, top_n=top_n, options=options)
    for one in candidates:
        if isinstance(one, str):
            request.candidates.add(text=one)  # inside the request: see sidecar/replies.py
        else:
            request.candidates.append(one)
    return request


def error_details(error: grpc.RpcError) -> ErrorDetails | None:
    """Return what the sidecar sent with an error beside status and message; None if it came from elsewhere.

    Its ``reason`` is the engine's own name of the error, or else the sidecar's:

        try:
            page = client.search("articles", "apple", body)
        except grpc.RpcError as error:
            why = error_details(error)
            if why and why.reason == "index_not_found_exception":
                print(why.metadata["index"])
    """
    trailing: Any = getattr(error, "trailing_metadata", tuple)() or ()
    return decode((str(key), value) for key, value in trailing)


@dataclass(frozen=True)
class Tls:
    """How a client connects to a port with ``server.tls``.

    ``ca_certs`` is a PEM file of the trusted CAs, None for gRPC's own; ``client_cert`` and ``client_key`` are PEM files
    of the certificate to present if the port asks for one. ``server_name`` is the name that the port's certificate must
    be for, None for the target's host.
    """

    ca_certs: str | Path | None = None
    client_cert: str | Path | None = None
    client_key: str | Path | None = None
    server_name: str | None = None

    def credentials(self) -> grpc.ChannelCredentials:
        """Return the credentials for gRPC. Raises OSError if a file cannot be read."""
        files = (self.ca_certs, self.client_cert, self.client_key)
        trusted, shown, key = (None if file is None else Path(file).read_bytes() for file in files)
        return grpc.ssl_channel_credentials(trusted, key, shown)

    @property
    def options(self) -> list[tuple[str, Any]]:
        """Options of a channel with these credentials."""
        return [*_OPTIONS, *([("grpc.ssl_target_name_override", self.server_name)] if self.server_name else [])]


def _metadata(authorization: str | None, api_key: str | None) -> tuple[tuple[str, str], ...]:
    """Return the metadata of a call; without ``api_key`` the end user's header is sent as `authorization`."""
    own = () if api_key is None else (("authorization", f"Bearer {api_key}"),)
    name = "authorization" if api_key is None else "x-engine-authorization"
    return own if authorization is None else (*own, (name, authorization))


class RerankClient:
    """Calls a sidecar from asyncio code.

    Every call takes ``timeout_s``, after which it raises DEADLINE_EXCEEDED, and ``authorization``: the end user's own
    ``Authorization`` header for the engine (such as ``Bearer ...``), which a connector with ``forward_authorization``
    sends. It travels as metadata of the call, so protect the connection to the sidecar.
    """

    def __init__(self, target: str, tls: Tls | None = None, api_key: str | None = None) -> None:
        """Prepare calls to ``target``, ``host:port``, without connecting yet. Without ``tls`` they are in plain text.

        ``api_key`` is a key or a token for a sidecar with ``server.auth``.
        """
        self._api_key = api_key
        if tls:
            self._channel = grpc.aio.secure_channel(target, tls.credentials(), options=tls.options)
        else:
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
        authorization: str | None = None,
        **request: Any,
    ) -> Page:
        """Search and rerank; further arguments are those of :func:`search_request`."""
        message = search_request(index, query, body, **request)
        return Page(await self.stub.Search(message, timeout=timeout_s, metadata=self.metadata(authorization)))

    async def search_progressive(
        self,
        index: str,
        query: str,
        body: Mapping[str, Any] | None = None,
        *,
        timeout_s: float = _TIMEOUT_S,
        authorization: str | None = None,
        **request: Any,
    ) -> AsyncIterator[Page]:
        """Yield the page in the engine's order first, in the final order second."""
        message = pb.SearchProgressiveRequest(search=search_request(index, query, body, **request))
        metadata = self.metadata(authorization)
        async for answer in self.stub.SearchProgressive(message, timeout=timeout_s, metadata=metadata):
            yield Page(answer.search)

    async def rerank(
        self,
        query: str,
        candidates: Iterable[str | pb.Candidate],
        *,
        timeout_s: float = _TIMEOUT_S,
        authorization: str | None = None,
        **request: Any,
    ) -> pb.RerankResponse:
        """Rerank candidates; further arguments are those of :func:`rerank_request`."""
        message = rerank_request(query, candidates, **request)
        return await self.stub.Rerank(message, timeout=timeout_s, metadata=self.metadata(authorization))

    def metadata(self, authorization: str | None = None) -> tuple[tuple[str, str], ...]:
        """Return the metadata for calls of the stubs: the API key, and the end user's ``authorization``, if given."""
        return _metadata(authorization, self._api_key)

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

    def __init__(self, target: str, tls: Tls | None = None, api_key: str | None = None) -> None:
        """Prepare calls to ``target``, ``host:port``, without connecting yet. Without ``tls`` they are in plain text.

        ``api_key`` is a key or a token for a sidecar with ``server.auth``.
        """
        self._api_key = api_key
        if tls:
            self._channel = grpc.secure_channel(target, tls.credentials(), options=tls.options)
        else:
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
        authorization: str | None = None,
        **request: Any,
    ) -> Page:
        """Search and rerank; further arguments are those of :func:`search_request`."""
        message = search_request(index, query, body, **request)
        return Page(self.stub.Search(message, timeout=timeout_s, metadata=self.metadata(authorization)))

    def search_progressive(
        self,
        index: str,
        query: str,
        body: Mapping[str, Any] | None = None,
        *,
        timeout_s: float = _TIMEOUT_S,
        authorization: str | None = None,
        **request: Any,
    ) -> Iterator[Page]:
        """Yield the page in the engine's order first, in the final order second."""
        message = pb.SearchProgressiveRequest(search=search_request(index, query, body, **request))
        metadata = self.metadata(authorization)
        for answer in self.stub.SearchProgressive(message, timeout=timeout_s, metadata=metadata):
            yield Page(answer.search)

    def rerank(
        self,
        query: str,
        candidates: Iterable[str | pb.Candidate],
        *,
        timeout_s: float = _TIMEOUT_S,
        authorization: str | None = None,
        **request: Any,
    ) -> pb.RerankResponse:
        """Rerank candidates; further arguments are those of :func:`rerank_request`."""
        message = rerank_request(query, candidates, **request)
        return self.stub.Rerank(message, timeout=timeout_s, metadata=self.metadata(authorization))

    def metadata(self, authorization: str | None = None) -> tuple[tuple[str, str], ...]:
        """Return the metadata for calls of the stubs: the API key, and the end user's ``authorization``, if given."""
        return _metadata(authorization, self._api_key)

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
