"""Which trace a call belongs to, and the spans of its stages.

A call's own `traceparent` (W3C Trace Context) is passed on to the engine and the log, with or without spans. Where
`server.tracing` is set, :mod:`sidecar.otel` makes spans; no other module uses OpenTelemetry.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Protocol

from connectors.trace_context import trace_headers

_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_TRACESTATE = re.compile(r"[ -~]{1,512}")
_TRACE_ID = slice(3, 35)


class Spans(Protocol):
    """Makes the spans of calls; :class:`NoSpans` makes none."""

    def call(self, method: str, carried: Mapping[str, str]) -> AbstractContextManager[None]:
        """Return a context for one call of `/package.Service/Method`, in the trace of the headers ``carried``."""
        ...

    def stage(self, name: str) -> AbstractContextManager[None]:
        """Return a context for one stage of the call."""
        ...

    def ended(self, name: str, seconds: float, ago_s: float) -> None:
        """Record a stage that took ``seconds`` and ended ``ago_s`` seconds ago."""
        ...

    def describe(self, about: Mapping[str, str | int]) -> None:
        """Add attributes to the current span: names and numbers, never text of a caller or a document."""
        ...

    def failed(self, status: str) -> None:
        """Record that the call ends with this gRPC status, the name of one other than OK."""
        ...

    def close(self) -> None:
        """Send the spans that are not sent yet; takes a few seconds at most."""
        ...


class NoSpans:
    """Passes the caller's trace on, and makes no spans."""

    @contextmanager
    def call(self, method: str, carried: Mapping[str, str]) -> Iterator[None]:  # noqa: ARG002
        """See :class:`Spans`."""
        serving(self)
        trace_headers.set(carried)
        yield

    def stage(self, name: str) -> AbstractContextManager[None]:  # noqa: ARG002
        """See :class:`Spans`."""
        return nullcontext()

    def ended(self, name: str, seconds: float, ago_s: float) -> None:
        """See :class:`Spans`."""

    def describe(self, about: Mapping[str, str | int]) -> None:
        """See :class:`Spans`."""

    def failed(self, status: str) -> None:
        """See :class:`Spans`."""

    def close(self) -> None:
        """See :class:`Spans`."""


NO_SPANS: Spans = NoSpans()
_spans: ContextVar[Spans] = ContextVar("spans", default=NO_SPANS)


def serving(spans: Spans) -> None:
    """Use ``spans`` for the stages of this call."""
    _spans.set(spans)


def spans() -> Spans:
    """Return what makes the spans of the call under way."""
    return _spans.get()


def trace_id() -> str:
    """Return the trace id of the call under way, 32 hex digits; empty if it belongs to no trace."""
    return trace_headers.get().get("traceparent", "")[_TRACE_ID]


def carried_by(metadata: Iterable[tuple[str, str | bytes]]) -> dict[str, str]:
    """Return the trace headers in a call's metadata; empty if they name no trace, or violate the standard.

    >>> carried_by([("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"), ("user", "me")])
    {'traceparent': '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01'}
    """
    found = {key: value for key, value in metadata if isinstance(value, str)}
    parent, state = found.get("traceparent", ""), found.get("tracestate", "")
    if not _TRACEPARENT.fullmatch(parent):
        return {}
    return {"traceparent": parent, **({"tracestate": state} if _TRACESTATE.fullmatch(state) else {})}
