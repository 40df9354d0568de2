"""Spans by OpenTelemetry, sent to a collector over OTLP. Imported only where `server.tracing` is set."""

import asyncio
import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from connectors.trace_context import trace_headers
from sidecar import __version__, tracing
from sidecar.logs import log
from sidecar.server_settings import TracingSettings

_EXPORT_TIMEOUT_S = 2
_CLOSE_S = 3
_NS_PER_S = 1_000_000_000
_OWN_FAULTS = frozenset({"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"})
"""Statuses that make a server span an error by the semantic conventions for gRPC; others are the client's to judge."""


class _Exporter(OTLPSpanExporter):
    """Logs once that spans are lost, and once that they arrive again; the library would log every try."""

    _failing = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = super().export(spans)
        failing = result is not SpanExportResult.SUCCESS
        if failing != self._failing:
            self._failing = failing
            tell, event = (log.warning, "spans_are_lost") if failing else (log.info, "spans_arrive_again")
            tell(event, endpoint=self._endpoint)
        return result


class OpenTelemetrySpans:
    """See :class:`sidecar.tracing.Spans`. Spans are queued (2048 at most, more are dropped) and sent by a thread of
    their own: a collector that is slow or gone costs calls nothing."""

    def __init__(self, settings: TracingSettings) -> None:
        """Begin to send; an endpoint that does not answer is not an error. Headers and certificates for the collector
        come from OpenTelemetry's own environment variables (``OTEL_EXPORTER_OTLP_HEADERS`` ...).

        Raises:
            ValueError: one of those variables cannot be used.
        """
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)  # it logs every failed try
        self._provider = TracerProvider(
            resource=Resource.create({"service.name": settings.service, "service.version": __version__}),
            sampler=ParentBased(TraceIdRatioBased(settings.share)),
            shutdown_on_exit=False,
        )
        exporter = _Exporter(
            endpoint=settings.endpoint, insecure=settings.endpoint.startswith("http:"), timeout=_EXPORT_TIMEOUT_S
        )
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("sidecar", __version__)
        self._current: ContextVar[trace.Span] = ContextVar("span", default=trace.INVALID_SPAN)

    @contextmanager
    def call(self, method: str, carried: Mapping[str, str]) -> Iterator[None]:
        """See :class:`sidecar.tracing.Spans`."""
        service, _, name = method.strip("/").partition("/")
        span = self._tracer.start_span(
            f"{service}/{name}",
            TraceContextTextMapPropagator().extract(carried),
            trace.SpanKind.SERVER,
            {"rpc.system.name": "grpc", "rpc.method": f"{service}/{name}"},
        )
        tracing.serving(self)
        self._enter(span)
        try:
            yield
        finally:
            span.end()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """See :class:`sidecar.tracing.Spans`."""
        outer = self._current.get()
        span = self._tracer.start_span(name, trace.set_span_in_context(outer))
        self._enter(span)
        try:
            yield
        except (Exception, asyncio.CancelledError) as error:
            span.set_status(trace.StatusCode.ERROR, type(error).__name__)  # its message may quote the caller
            raise
        finally:
            span.end()
            self._enter(outer)

    def ended(self, name: str, seconds: float, ago_s: float) -> None:
        """See :class:`sidecar.tracing.Spans`."""
        end = time.time_ns() - round(ago_s * _NS_PER_S)
        inside = trace.set_span_in_context(self._current.get())
        self._tracer.start_span(name, inside, start_time=end - round(seconds * _NS_PER_S)).end(end)

    def describe(self, about: Mapping[str, str | int]) -> None:
        """See :class:`sidecar.tracing.Spans`."""
        self._current.get().set_attributes(about)

    def failed(self, status: str) -> None:
        """See :class:`sidecar.tracing.Spans`."""
        span = self._current.get()
        span.set_attribute("rpc.response.status_code", status)
        if status in _OWN_FAULTS:
            span.set_status(trace.StatusCode.ERROR)

    def close(self) -> None:
        """See :class:`sidecar.tracing.Spans`."""
        ending = threading.Thread(target=self._provider.shutdown, daemon=True)  # it sends what is queued, however long
        ending.start()
        ending.join(_CLOSE_S)

    def _enter(self, span: trace.Span) -> None:
        """Make ``span`` the parent of what follows, also at the engine."""
        self._current.set(span)
        headers: dict[str, str] = {}
        TraceContextTextMapPropagator().inject(headers, trace.set_span_in_context(span))
        trace_headers.set(headers)
