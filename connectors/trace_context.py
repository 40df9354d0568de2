"""The trace that requests to an engine belong to: set by the caller, sent with each request."""

from collections.abc import Mapping
from contextvars import ContextVar
from types import MappingProxyType

trace_headers: ContextVar[Mapping[str, str]] = ContextVar("trace_headers", default=MappingProxyType({}))
"""W3C Trace Context: `traceparent` and, where there is one, `tracestate`. Empty: requests belong to no trace."""
