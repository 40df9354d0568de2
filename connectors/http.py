"""What the connectors over HTTP share: one search, one ``_mget``, one time limit, one reading of failures."""

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
    """One HTTP request: method, path with query string, body, and who is asking.

    ``compressed`` says that the body is gzip, and that the answer may be; ``trace`` are the headers of the trace
    that it is made in.
    """

    method: str
    target: str
    body: bytes | None = None
    authorization: str | None = field(default=None, repr=False)
    compressed: bool = False
    trace: Mapping[str, str] = field(default_factory=trace_headers.get)

    @property
    def headers(self) -> dict[str, str]:
        """What the client is to send beside its own headers."""
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
    """One HTTP answer, whatever its status; ``media_type`` has no parameters and is empty when there was none.

    ``retry_after`` is the header as it came, empty when there was none.
    """

    status: int
    media_type: str
    body: bytes
    retry_after: str = ""


@dataclass(frozen=True, slots=True)
class _Credential:
    """The header of every call, kept out of everything that shows an object."""

    header: str | None = field(repr=False)


@dataclass(slots=True)
class _State:
    """What a connector and its views have in common: whether it is closed, and why every call is refused, if so."""

    closed: bool = False
    refused: str = ""


class HttpConnector(ABC):
    """A search engine asked through its official client; a subclass sends a request and closes connections."""

    product: ClassVar[str]
    """What ``GET /`` of the right engine says, see :mod:`connectors.products`."""

    def __init__(self, name: str, options: HttpOptions) -> None:
        self.name = name
        self.identity = ""
        self._options = options
        self._credential = _Credential(options.authorization)
        self._state = _State()

    def acting_as(self, authorization: str) -> Self:
        """See :meth:`connectors.base.Connector.acting_as`.

        The view shares client and connections, which hold no credential of their own (but a client certificate, which
        belongs to the connection). Closing it closes nothing. A view of a view has the last authorization.

        Raises:
            ValueError: the header cannot be sent (empty, over 16 KiB, not printable ASCII), or this connector signs
                its requests, so that no other credential can go with them.
        """
        if self._options.aws is not None:
            raise ValueError(f"connector {self.name!r} signs its requests (`aws`), and cannot act for a user")
        check_forwarded(authorization)
        view = copy.copy(self)
        view._credential, view.identity = _Credential(authorization), identity_of(authorization)
        return view

    @abstractmethod
    async def _send(self, call: Call, request: Request, timeout_s: float) -> Answer:
        """Send once and return the answer of any status; raise only ``ConnectorError``."""

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
        """See :meth:`connectors.base.Connector.fetch`; no refs or no fields need no call and find nothing.

        References that no ``_mget`` takes, see :func:`connectors.wire.can_be_fetched`, are not found either.
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
            EngineRefused: this is another product. Every other call is refused likewise from then on, until an answer
                to this one comes from the right product.
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
        """The JSON of a good answer, not read yet; without ``check`` even where the product is known to be wrong."""
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
    """The same with a body in gzip; a large one is compressed in a thread, for it would hold up every other call."""
    body = request.body
    if body is not None:
        body = await asyncio.to_thread(gzip.compress, body) if len(body) > _LARGE_BYTES else gzip.compress(body)
    return replace(request, body=body, compressed=True)


def json_of(call: Call, answer: Answer) -> bytes:
    """The body of a good answer; any other is raised as what it means."""
    if not 200 <= answer.status < 300:
        wait_s = retry_after(answer.retry_after, datetime.now(UTC)) if answer.retry_after else None
        raise refusal(call, answer.status, answer.body, wait_s)
    if answer.media_type not in JSON_TYPES:
        what = answer.media_type or "no content type"
        raise MalformedAnswer(call.sentence(f"the engine's answer should be JSON, but has {what[:LONGEST_NAME]}"))
    return answer.body
