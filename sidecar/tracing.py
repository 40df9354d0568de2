"""Which trace a call belongs to, and the spans of its stages.

A call's own `traceparent` (W3C Trace Context) goes on to the engine and into the log, with or without spans. Where
`server.tracing` is set, :mod:`sidecar.otel` makes spans; nothing else of the package knows OpenTelemetry.
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
    """Makes the spans of calls, or does not."""

    def call(self, method: str, carried: Mapping[str, str]) -> AbstractContextManager[None]:
        """A block that serves one call of `/package.Service/Method`, within the trace that it ``carried`` here."""
        ...

    def stage(self, name: str) -> AbstractContextManager[None]:
        """A block that is one stage of the call."""
        ...

    def ended(self, name: str, seconds: float, ago_s: float) -> None:
        """A stage that took ``seconds`` and was over ``ago_s`` ago."""
        ...

    def describe(self, about: Mapping[str, str | int]) -> None:
        """Say more about the call: names and numbers, never a text of the caller's or of a document."""
        ...

    def failed(self, status: str) -> None:
        """The call ends with the name of a gRPC status other than OK."""
        ...

    def close(self) -> None:
        """Send what is not sent yet; takes a few seconds at most."""
        ...


class NoSpans:
    """Hands the caller's trace on, and makes nothing of it."""

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
    """Have the stages of this call make ``spans``."""
    _spans.set(spans)


def spans() -> Spans:
    """Those of the call that is served here."""
    return _spans.get()


def trace_id() -> str:
    """32 hex digits, the trace of the call that is served here; empty where it belongs to none."""
    return trace_headers.get().get("traceparent", "")[_TRACE_ID]


def carried_by(metadata: Iterable[tuple[str, str | bytes]]) -> dict[str, str]:
    """The trace that a call's metadata name; empty where they name none, or not as the standard has it.

    >>> carried_by([("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"), ("user", "me")])
    {'traceparent': '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01'}
    """
    found = {key: value for key, value in metadata if isinstance(value, str)}
    parent, state = found.get("traceparent", ""), found.get("tracestate", "")
    if not _TRACEPARENT.fullmatch(parent):
        return {}
    return {"traceparent": parent, **({"tracestate": state} if _TRACESTATE.fullmatch(state) else {})}
