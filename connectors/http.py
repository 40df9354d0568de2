"""The base of the HTTP connectors, which builds requests, keeps the time limit and reads failures for both engines."""

import asyncio
import copy
import gzip
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import ClassVar, Self

from connectors.attempts import Call, attempt
from connectors.base import EngineInfo, Member
from connectors.credentials import check_forwarded, identity_of
from connectors.errors import EngineRefused, EngineUnavailable, MalformedAnswer
from connectors.hits import DocumentRef, Hits, Json
from connectors.options import HttpOptions
from connectors.products import WRONG_PRODUCT, wrong_product
from connectors.refusals import refusal, retry_after
from connectors.trace_context import trace_headers
from connectors.wire import (
    LONGEST_NAME,
    MGET,
    RENDER,
    can_be_fetched,
    decode,
    encode,
    mget_body,
    read_documents,
    read_hits,
    read_info,
    read_members,
    read_template,
    resolve_target,
    search_target,
)

JSON = "application/json"
JSON_TYPES = frozenset({JSON, "application/vnd.elasticsearch+json"})
_LARGE_ANSWER_BYTES = 2**20
_LARGE_BYTES = 64 * 2**10


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request: method, path with query string, body, and authorization.

    ``compressed`` says that the body is gzip, and that the answer may be; ``trace`` holds the headers of the trace
    that the request belongs to.
    """

    method: str
    target: str
    body: bytes | None = None
    authorization: str | None = field(default=None, repr=False)
    compressed: bool = False
    trace: Mapping[str, str] = field(default_factory=trace_headers.get)

    @property
    def headers(self) -> dict[str, str]:
        """The headers to send beside the client's own."""
        named = {
            "accept": JSON,
            "accept-encoding": "gzip" if self.compressed else None,
            "content-type": JSON if self.body is not None else None,
            "content-encoding": "gzip" if self.compressed and self.body is not None else None,
            "authorization": self.authorization,
        }
        return {**self.trace, **{name: value for name, value in named.items() if value is not None}}


@dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP answer of any status.

    ``media_type`` has no parameters, ``retry_after`` is the header as sent; each is empty if there was none.
    """

    status: int
    media_type: str
    body: bytes
    retry_after: str = ""


@dataclass(frozen=True, slots=True)
class _Credential:
    """The ``Authorization`` header of every call, hidden from every ``repr``."""

    header: str | None = field(repr=False)


@dataclass(slots=True)
class _State:
    """State that a connector and its views share: whether it is closed, and why all calls are refused, if they are."""

    closed: bool = False
    refused: str = ""


class HttpConnector(ABC):
    """A search engine reached through its official client; subclasses send requests and close connections."""

    product: ClassVar[str]
    """The engine that ``GET /`` must name, see :mod:`connectors.products`."""

    def __init__(self, name: str, options: HttpOptions) -> None:
        self.name = name
        self.identity = ""
        self._options = options
        self._credential = _Credential(options.authorization)
        self._state = _State()

    def acting_as(self, authorization: str) -> Self:
        """See :meth:`connectors.base.Connector.acting_as`.

        The view shares the client and its connections, which hold no credential except a client certificate. Closing
        a view closes nothing. A view of a view has the last authorization.

        Raises:
            ValueError: the header cannot be sent (empty, over 16 KiB, not printable ASCII), or this connector signs
                its requests, which excludes other credentials.
        """
        if self._options.aws is not None:
            raise ValueError(f"connector {self.name!r} signs its requests (`aws`), and cannot act for a user")
        check_forwarded(authorization)
        view = copy.copy(self)
        view._credential, view.identity = _Credential(authorization), identity_of(authorization)
        return view

    @abstractmethod
    async def _send(self, call: Call, request: Request, timeout_s: float) -> Answer:
        """Send once and return the answer, whatever its status; raise only ``ConnectorError``."""

    @abstractmethod
    async def _disconnect(self) -> None:
        """Close all connections; safe to call twice."""

    async def search(
        self, index: str, body: Json, *, timeout_s: float, params: Mapping[str, str] | None = None
    ) -> Hits:
        """See :meth:`connectors.base.Connector.search`."""
        call = Call(self.name, f"search on {index[:LONGEST_NAME]!r}")
        request = Request("POST", search_target(call, index, params, pit="pit" in body), encode(call, body))
        answer = await self._answer(call, request, timeout_s)
        large = len(answer) > _LARGE_ANSWER_BYTES
        return await asyncio.to_thread(read_hits, call, answer) if large else read_hits(call, answer)

    async def resolve(self, expression: str, *, timeout_s: float) -> tuple[Member, ...]:
        """See :meth:`connectors.base.Connector.resolve`."""
        call = Call(self.name, f"resolving {expression[:LONGEST_NAME]!r}")
        request = Request("GET", resolve_target(call, expression))
        return read_members(call, expression, await self._ask(call, request, timeout_s))

    async def render(self, template: Json, *, timeout_s: float) -> Json:
        """See :meth:`connectors.base.Connector.render`."""
        call = Call(self.name, "rendering a search template")
        request = Request("POST", RENDER, encode(call, template))
        return read_template(call, await self._ask(call, request, timeout_s))

    async def fetch(
        self, refs: Sequence[DocumentRef], fields: Sequence[str], *, timeout_s: float
    ) -> dict[DocumentRef, Json]:
        """See :meth:`connectors.base.Connector.fetch`; without refs or fields the engine is not asked.

        References that an ``_mget`` cannot take, see :func:`connectors.wire.can_be_fetched`, count as not found.
        """
        wanted = list(filter(can_be_fetched, dict.fromkeys(refs)))
        if not wanted or not fields:
            return {}
        call = Call(self.name, f"fetch of {len(wanted)} documents")
        request = Request("POST", MGET, encode(call, mget_body(wanted, fields)))
        return read_documents(call, wanted, await self._ask(call, request, timeout_s))

    async def info(self, *, timeout_s: float) -> EngineInfo:
        """See :meth:`connectors.base.Connector.info`.

        Raises:
            EngineRefused: another product answered. From then on every other call is refused too, until a later
                ``info`` finds the right product.
        """
        call = Call(self.name, "asking for the version")
        found = read_info(call, await self._ask(call, Request("GET", "/"), timeout_s, check=False))
        self._state.refused = wrong_product(self.product, found)
        self._check_product(call)
        return found

    async def close(self) -> None:
        """See :meth:`connectors.base.Connector.close`; a later call raises ``EngineUnavailable``."""
        if self.identity:
            return
        self._state.closed = True
        await self._disconnect()

    def _check_product(self, call: Call) -> None:
        if cause := self._state.refused:
            raise EngineRefused(call.sentence(cause), error_type=WRONG_PRODUCT, reason=cause)

    async def _ask(self, call: Call, request: Request, timeout_s: float, *, check: bool = True) -> Json:
        return decode(call, await self._answer(call, request, timeout_s, check=check))

    async def _answer(self, call: Call, request: Request, timeout_s: float, *, check: bool = True) -> bytes:
        """Return a successful answer's JSON undecoded; without ``check`` even if the product is known to be wrong."""
        if check:
            self._check_product(call)
        authorized = replace(request, authorization=self._credential.header)

        async def once(left_s: float) -> bytes:
            if self._state.closed:
                raise EngineUnavailable(call.sentence("the connector is closed"), transient=False)
            ready = await compressed(authorized) if self._options.compress else authorized
            return json_of(call, await self._send(call, ready, left_s))

        return await attempt(call, once, timeout_s=timeout_s, max_attempts=self._options.max_attempts)


async def compressed(request: Request) -> Request:
    """Return the request with its body in gzip; over 64 KiB in a thread, as it would block every other call."""
    body = request.body
    if body is not None:
        body = await asyncio.to_thread(gzip.compress, body) if len(body) > _LARGE_BYTES else gzip.compress(body)
    return replace(request, body=body, compressed=True)


def json_of(call: Call, answer: Answer) -> bytes:
    """Return the body of a successful JSON answer.

    Raises:
        MalformedAnswer: the content type is not JSON.
        ConnectorError: the status is not 2xx, see :func:`connectors.refusals.refusal`.
    """
    if not 200 <= answer.status < 300:
        wait_s = retry_after(answer.retry_after, datetime.now(UTC)) if answer.retry_after else None
        raise refusal(call, answer.status, answer.body, wait_s)
    if answer.media_type not in JSON_TYPES:
        what = answer.media_type or "no content type"
        raise MalformedAnswer(call.sentence(f"the engine's answer should be JSON, but has {what[:LONGEST_NAME]}"))
    return answer.body
