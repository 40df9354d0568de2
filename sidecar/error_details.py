"""Machine-readable errors: google.rpc.Status with ErrorInfo and RetryInfo, as trailing metadata. Pure."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from connectors.errors import ConnectorError, EngineUnavailable
from sidecar.errors import TooManyCalls

KEY = "grpc-status-details-bin"
OWN_DOMAIN = "sidecar"
TRY_AGAIN_AFTER_S = 1.0
"""Seconds that a caller is told to wait if the engine does not say."""
_LONGEST_VALUE = 200


@dataclass(frozen=True, slots=True)
class ErrorDetails:
    """What is known of an error beside its status and message.

    ``reason`` is the engine's own name of the error (such as ``index_not_found_exception``), or else the sidecar's, in
    capitals (such as ``INVALID_REQUEST``). ``domain`` says where the error arose: ``elasticsearch``, ``opensearch``,
    ``memory`` or ``sidecar``. ``metadata`` has, where known, ``connector``, ``index``, ``http_status``, ``line`` and
    ``col``. ``retry_after_s`` is None if repeating the call would not help.
    """

    reason: str
    domain: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    retry_after_s: float | None = None


def details_of(error: Exception) -> ErrorDetails:
    """Return the details of an error that its caller may see."""
    kind = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(error).__name__).upper()
    if not isinstance(error, ConnectorError):
        return ErrorDetails(kind, OWN_DOMAIN, {}, TRY_AGAIN_AFTER_S if isinstance(error, TooManyCalls) else None)
    line, column = error.position or ("", "")
    known = {
        "connector": error.connector,
        "index": error.index,
        "http_status": error.status or "",
        "line": line,
        "col": column,
    }
    metadata = {name: _fit(str(value)) for name, value in known.items() if value != ""}
    return ErrorDetails(_fit(error.error_type or kind), error.engine or OWN_DOMAIN, metadata, _retry_after_s(error))


def encode(code: int, message: str, details: ErrorDetails) -> bytes:
    """Return the value of the trailing metadata :data:`KEY`."""
    info = error_details_pb2.ErrorInfo(reason=details.reason, domain=details.domain, metadata=dict(details.metadata))
    parts: list[Any] = [info]
    if details.retry_after_s is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromNanoseconds(round(details.retry_after_s * 1e9))
        parts.append(retry)
    status = status_pb2.Status(code=code, message=message)
    for part in parts:
        packed = AnyMessage()
        packed.Pack(part)
        status.details.append(packed)
    return bytes(status.SerializeToString())


def decode(metadata: Iterable[tuple[str, str | bytes]]) -> ErrorDetails | None:
    """Read the details from trailing metadata; None if there are none, or they cannot be read."""
    found = next((value for key, value in metadata if key == KEY), None)
    if not isinstance(found, bytes):
        return None
    info, retry_after_s = None, None
    try:
        for part in status_pb2.Status.FromString(found).details:
            if part.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
                info = error_details_pb2.ErrorInfo.FromString(part.value)
            elif part.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
                delay = error_details_pb2.RetryInfo.FromString(part.value).retry_delay
                retry_after_s = delay.ToNanoseconds() / 1e9
    except DecodeError:
        return None
    return None if info is None else ErrorDetails(info.reason, info.domain, dict(info.metadata), retry_after_s)


def _retry_after_s(error: ConnectorError) -> float | None:
    if not isinstance(error, EngineUnavailable) or not error.transient:
        return None
    return TRY_AGAIN_AFTER_S if error.retry_after_s is None else error.retry_after_s


def _fit(text: str) -> str:
    return text[:_LONGEST_VALUE].encode(errors="replace").decode()
