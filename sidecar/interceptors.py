"""What surrounds every call: a request id, a limit on concurrent calls, and the mapping of errors to statuses."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from contextvars import ContextVar
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from structlog.contextvars import bind_contextvars, bound_contextvars

from connectors import errors as engine
from sidecar import error_details, errors
from sidecar.authentication import Authentication
from sidecar.callers import CheckCertificate, calling, calling_host, host_of, nothing_revoked
from sidecar.forgetting import forget_way
from sidecar.logs import log
from sidecar.metrics import Metrics
from sidecar.tracing import NO_SPANS, Spans, carried_by, trace_id
from sidecar.unread import Unread, reply_bytes

request_id: ContextVar[str] = ContextVar("request_id", default="")

STATUSES: dict[type[Exception], grpc.StatusCode] = {
    errors.InvalidRequest: grpc.StatusCode.INVALID_ARGUMENT,
    errors.UnknownName: grpc.StatusCode.NOT_FOUND,
    errors.NotAllowed: grpc.StatusCode.PERMISSION_DENIED,
    errors.NoAuthorization: grpc.StatusCode.UNAUTHENTICATED,
    errors.TooManyCalls: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.ReplyTooLarge: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.DeadlinePassed: grpc.StatusCode.DEADLINE_EXCEEDED,
    engine.IndexNotFound: grpc.StatusCode.NOT_FOUND,
    engine.InvalidQuery: grpc.StatusCode.INVALID_ARGUMENT,
    engine.NotAuthenticated: grpc.StatusCode.UNAUTHENTICATED,
    engine.NotPermitted: grpc.StatusCode.PERMISSION_DENIED,
    engine.EngineRefused: grpc.StatusCode.FAILED_PRECONDITION,
    engine.AnswerTooLarge: grpc.StatusCode.RESOURCE_EXHAUSTED,
    engine.EngineTimeout: grpc.StatusCode.DEADLINE_EXCEEDED,
    engine.NoAnswer: grpc.StatusCode.UNAVAILABLE,
}
"""The status of each error; a class that is missing here has the status of its nearest ancestor."""

_WITHOUT_OWN_LINE = "/sidecar.v1.PolicyService/"
"""Calls of this service are counted and logged here; those of RerankService by itself, in more detail."""
_ALWAYS_SERVED = frozenset(("Switch", "Status"))
"""Methods served however many other calls are under way, as an admin needs them then; they have their own limit."""
_MOST_APART = 8
_ARRIVES_WITHIN_S = 10.0
"""Seconds within which a request must arrive, as its call counts towards the limit meanwhile."""
_TOLD = (grpc.aio.AbortError, grpc.aio.InternalError, asyncio.CancelledError, GeneratorExit)
"""Exceptions that need no log line: the status is set already, or the caller has gone and gRPC cannot send to it."""
_MAX_MESSAGE_BYTES = 1000
"""Longest error message: it is sent twice, percent-encoded and in the details, and trailing metadata have 8 KiB."""


def status_of(error: Exception) -> grpc.StatusCode | None:
    """Return the status of an error, found by walking its class's ancestors; None for an unforeseen one."""
    return next((STATUSES[kind] for kind in type(error).__mro__ if kind in STATUSES), None)


class Guard(grpc.aio.ServerInterceptor):
    """Surrounds the calls of this package; health and reflection pass untouched, so that they work under any load.

    A call is admitted or refused before its request is read, so that a refused one takes no memory.
    """

    def __init__(
        self,
        max_concurrent_calls: int,
        unread: Unread,
        metrics: Metrics,
        authentication: Callable[[], Authentication],
        check_certificate: CheckCertificate = nothing_revoked,
        spans: Spans = NO_SPANS,
    ) -> None:
        self._max_calls = max_concurrent_calls
        self._authentication = authentication
        self._check_certificate = check_certificate
        self._unread = unread
        self._calls = self._apart = 0
        self._metrics = metrics
        metrics.under_way.set_function(lambda: self._calls)
        self._spans = spans

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Wrap the handler of one call."""
        handler = await continuation(handler_call_details)
        method = str(handler_call_details.method)
        if handler is None or not method.startswith("/sidecar.v1."):
            return handler
        self._metrics.received.labels(method.rpartition("/")[2]).inc()
        if handler.response_streaming:
            return grpc.stream_stream_rpc_method_handler(
                self._stream(method, handler), response_serializer=handler.response_serializer
            )
        return grpc.stream_unary_rpc_method_handler(
            self._unary(method, handler), response_serializer=handler.response_serializer
        )

    def _unary(self, method: str, handler: Any) -> Any:
        async def call(requests: AsyncIterator[bytes], context: Any) -> Any:
            started = time.monotonic()
            with _Forgets():
                async with self._guarded(method, context):
                    reply = await handler.unary_unary(await _read(requests, handler.request_deserializer), context)
                    if method.startswith(_WITHOUT_OWN_LINE):
                        self._succeeded(method.rpartition("/")[2], started)
                    connection, size_bytes = context.peer(), reply_bytes.get()
                    self._unread.given(connection, size_bytes)
                    context.add_done_callback(lambda _: self._unread.read(connection, size_bytes))
                    return reply

        return call

    def _stream(self, method: str, handler: Any) -> Any:
        async def call(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[Any]:
            with _Forgets():
                async with self._guarded(method, context):
                    request = await _read(requests, handler.request_deserializer)
                    async for response in handler.unary_stream(request, context):
                        with self._not_working(), self._unread.waiting(context.peer(), reply_bytes.get()):
                            yield response

        return call

    @asynccontextmanager
    async def _guarded(self, method: str, context: Any) -> AsyncIterator[None]:
        name, started = method.rpartition("/")[2], time.monotonic()
        request_id.set(uuid.uuid4().hex)
        calling_host.set(host_of(context.peer()))
        context.set_trailing_metadata((("x-request-id", request_id.get()),))
        apart = name in _ALWAYS_SERVED
        self._calls += not apart
        self._apart += apart
        metadata = context.invocation_metadata() or ()
        with self._spans.call(method, carried_by(metadata)), bound_contextvars(**_about(name)):
            try:
                self._check_room(context.peer(), apart=apart)
                self._check_certificate(context.auth_context())
                calling.set(await self._authentication().caller(metadata))
                if calling.get().name:
                    bind_contextvars(caller=calling.get().name)  # a call has a context of its own
                yield
            except (asyncio.CancelledError, GeneratorExit):
                self._failed(name, "CANCELLED", started)
                raise
            except Exception as error:  # noqa: BLE001 - the one place where errors become statuses
                code, message = _translated(error)
                details = _details_of(error, code)
                self._failed(name, code.name, started, error=details.reason, **details.metadata)
                forget_way(error)
                encoded = error_details.encode(code.value[0], message, details)
                own = (("x-request-id", request_id.get()), (error_details.KEY, encoded))
                await _abort(context, code, message, own)
            finally:
                self._calls -= not apart
                self._apart -= apart

    def _check_room(self, connection: str, *, apart: bool) -> None:
        if apart:
            if self._apart > _MOST_APART:
                raise errors.TooManyCalls(
                    f"{_MOST_APART} calls of Status and Switch are served at once; try again later"
                )
            return
        if self._calls > self._max_calls:
            raise errors.TooManyCalls(f"{self._max_calls} calls are served at once; try again later")
        self._unread.check(connection)

    @contextmanager
    def _not_working(self) -> Iterator[None]:
        """Exclude the call from the limit on concurrent calls while its caller reads."""
        self._calls -= 1
        try:
            yield
        finally:
            self._calls += 1

    def _succeeded(self, method: str, started: float) -> None:
        self._metrics.requests.labels(method, "", "OK", "").inc()
        log.info("call", outcome="OK", total_ms=round((time.monotonic() - started) * 1e3, 2))

    def _failed(self, method: str, status: str, started: float, **why: str) -> None:
        self._metrics.requests.labels(method, "", "ERROR", status).inc()
        self._spans.failed(status)
        log.info("call", outcome="ERROR", reason=status, total_ms=round((time.monotonic() - started) * 1e3, 2), **why)


class _Forgets:
    """Logs an error that got no status, and clears tracebacks; a generator-based context manager would restore them."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if error is not None and not isinstance(error, _TOLD):
            log.error("call_broken", request_id=request_id.get(), error=type(error).__name__, exc_info=error)
        forget_way(error)


async def _abort(context: Any, code: grpc.StatusCode, message: str, metadata: Any) -> None:
    """End the call with a status; if its caller has gone, gRPC fails to, and the call counts as cancelled."""
    try:
        await context.abort(code, message, metadata)
    except grpc.aio.InternalError:
        raise asyncio.CancelledError from None


def _about(method: str) -> dict[str, str]:
    """Return what every log line of a call holds."""
    trace = {"trace_id": trace_id()} if trace_id() else {}
    return {"request_id": request_id.get(), "method": method, **trace}


async def _read(requests: AsyncIterator[bytes], deserialize: Callable[[bytes], Any]) -> Any:
    """Read the one request of a call.

    gRPC would read it, up to the size limit, before the caller is authenticated, and answer an ill-formed one with
    UNKNOWN and no request id.

    Raises:
        InvalidRequest: the request is ill-formed, late or missing.
    """
    try:
        return deserialize(await _first(requests))
    except DecodeError as error:
        raise errors.InvalidRequest(f"the request cannot be read: {error}") from None


async def _first(requests: AsyncIterator[bytes]) -> Any:
    """Return the first message; the iterator is closed, or it would keep the message until the call ends."""
    incoming: Any = aiter(requests)  # a generator, but not typed as one
    async with aclosing(incoming):
        try:
            async with asyncio.timeout(_ARRIVES_WITHIN_S):
                async for request in incoming:
                    return request
        except TimeoutError:
            raise errors.InvalidRequest(f"the request did not arrive within {_ARRIVES_WITHIN_S:.0f} s") from None
    raise errors.InvalidRequest("the call ended without a request")


def _translated(error: Exception) -> tuple[grpc.StatusCode, str]:
    """Return status and message for the client; of an unforeseen error it gets only the request id."""
    code = status_of(error)
    if code is None:
        log.exception("unforeseen_error", error=type(error).__name__)
        return grpc.StatusCode.INTERNAL, f"an unforeseen fault; request id {request_id.get()}"
    said, reason = str(error), error.reason if isinstance(error, engine.ConnectorError) else ""
    said = f"{said}: {reason}" if reason and not said.endswith(reason) else said
    return code, said.encode(errors="replace")[:_MAX_MESSAGE_BYTES].decode(errors="ignore")


def _details_of(error: Exception, code: grpc.StatusCode) -> error_details.ErrorDetails:
    """Return the details for the client; of an unforeseen error not even the kind."""
    if code is grpc.StatusCode.INTERNAL:
        return error_details.ErrorDetails("INTERNAL", error_details.OWN_DOMAIN)
    return error_details.details_of(error)
