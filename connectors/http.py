"""What the connectors over HTTP share: one search, one ``_mget``, one time limit, one reading of failures."""

import functools
import os
import ssl
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import aiohttp

from connectors.attempts import Call, attempt
from connectors.base import EngineInfo, Member
from connectors.errors import EngineUnavailable, MalformedAnswer, NoAnswer
from connectors.hits import DocumentRef, Hits, Json
from connectors.options import HttpOptions
from connectors.refusals import refusal
from connectors.wire import (
    LONGEST_NAME,
    MGET,
    RENDER,
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

JSON_TYPES = frozenset({"application/json", "application/vnd.elasticsearch+json"})


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request: method, path with query string, and body."""

    method: str
    target: str
    body: bytes | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP answer, whatever its status; ``media_type`` has no parameters and is empty when there was none."""

    status: int
    media_type: str
    body: bytes


class HttpConnector(ABC):
    """A search engine asked through its official client; a subclass sends a request and closes connections."""

    def __init__(self, name: str, options: HttpOptions) -> None:
        self.name = name
        self._options = options
        self._closed = False

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
        return read_hits(call, await self._answer(call, request, timeout_s))

    async def resolve(self, expression: str, *, timeout_s: float) -> tuple[Member, ...]:
        """See :meth:`connectors.base.Connector.resolve`."""
        call = Call(self.name, f"resolving {expression[:LONGEST_NAME]!r}")
        return read_members(call, await self._ask(call, Request("GET", resolve_target(call, expression)), timeout_s))

    async def render(self, template: Json, *, timeout_s: float) -> Json:
        """See :meth:`connectors.base.Connector.render`."""
        call = Call(self.name, "rendering a search template")
        request = Request("POST", RENDER, encode(call, template))
        return read_template(call, await self._ask(call, request, timeout_s))

    async def fetch(
        self, refs: Sequence[DocumentRef], fields: Sequence[str], *, timeout_s: float
    ) -> dict[DocumentRef, Json]:
        """See :meth:`connectors.base.Connector.fetch`; no refs or no fields need no call and find nothing."""
        wanted = list(dict.fromkeys(refs))
        if not wanted or not fields:
            return {}
        call = Call(self.name, f"fetch of {len(wanted)} documents")
        request = Request("POST", MGET, encode(call, mget_body(wanted, fields)))
        return read_documents(call, wanted, await self._ask(call, request, timeout_s))

    async def info(self, *, timeout_s: float) -> EngineInfo:
        """See :meth:`connectors.base.Connector.info`."""
        call = Call(self.name, "asking for the version")
        return read_info(call, await self._ask(call, Request("GET", "/"), timeout_s))

    async def close(self) -> None:
        """See :meth:`connectors.base.Connector.close`; a later call raises ``EngineUnavailable``."""
        self._closed = True
        await self._disconnect()

    async def _ask(self, call: Call, request: Request, timeout_s: float) -> Json:
        return decode(call, await self._answer(call, request, timeout_s))

    async def _answer(self, call: Call, request: Request, timeout_s: float) -> bytes:
        """The JSON of a good answer, not read yet."""

        async def once(left_s: float) -> bytes:
            if self._closed:
                raise EngineUnavailable(call.sentence("the connector is closed"), transient=False)
            return json_of(call, await self._send(call, request, left_s))

        return await attempt(call, once, timeout_s=timeout_s, max_attempts=self._options.max_attempts)


def stay_on_host(session: aiohttp.ClientSession) -> None:
    """Let a session follow no redirect: no answer names the host of the next call, and a 3xx is no engine's."""
    session.request = functools.partial(session.request, allow_redirects=False)  # type: ignore[method-assign]


def json_of(call: Call, answer: Answer) -> bytes:
    """The body of a good answer; any other is raised as what it means."""
    if not 200 <= answer.status < 300:
        raise refusal(call, answer.status, answer.body)
    if answer.media_type not in JSON_TYPES:
        what = answer.media_type or "no content type"
        raise MalformedAnswer(call.sentence(f"the engine's answer should be JSON, but has {what[:LONGEST_NAME]}"))
    return answer.body


def no_answer(call: Call, error: Exception) -> NoAnswer:
    """What a client's failure to get an answer means, told by the failure of aiohttp or of the system behind it."""
    cause = next(
        (link for link in _chain(error) if isinstance(link, (aiohttp.ClientError, OSError, UnicodeError))), error
    )
    if isinstance(cause, (ssl.SSLError, aiohttp.ClientSSLError)):
        return EngineUnavailable(call.sentence(f"TLS failed: {_tls_reason(cause)}"), transient=False)
    if isinstance(cause, aiohttp.ClientConnectorDNSError):
        return EngineUnavailable(call.sentence(f"no host is named {cause.host!r}"))
    if isinstance(cause, aiohttp.ClientConnectorError):
        reason = os.strerror(cause.os_error.errno or 0)
        return EngineUnavailable(call.sentence(f"cannot connect to {cause.host}:{cause.port} ({reason})"))
    if isinstance(cause, (aiohttp.ClientResponseError, UnicodeError)):
        return MalformedAnswer(call.sentence("what came back is not HTTP with JSON in UTF-8"))
    if isinstance(cause, aiohttp.ClientPayloadError):
        return EngineUnavailable(call.sentence("the connection broke in the middle of the answer"))
    return EngineUnavailable(call.sentence("the connection was closed before an answer came"))


def _chain(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def _tls_reason(error: BaseException) -> str:
    inner = getattr(error, "certificate_error", None) or getattr(error, "os_error", None) or error
    return str(getattr(inner, "verify_message", "") or getattr(inner, "reason", "") or type(inner).__name__)
