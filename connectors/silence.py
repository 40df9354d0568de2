"""The error for a missing answer, by the aiohttp or system error that caused the client's own."""

import os
import ssl
from collections.abc import Iterator

import aiohttp

from connectors.attempts import Call
from connectors.errors import AnswerTooLarge, EngineTimeout, EngineUnavailable, MalformedAnswer, NoAnswer
from connectors.options import HttpOptions
from connectors.sessions import connect_timeout_s


def no_answer(call: Call, error: Exception) -> NoAnswer:
    """Return the error for a client's failure to get an answer."""
    cause = next(
        (link for link in _chain(error) if isinstance(link, (aiohttp.ClientError, OSError, UnicodeError))), error
    )
    if isinstance(cause, aiohttp.ServerFingerprintMismatch):
        reason = f"the node's certificate has the fingerprint {cause.got.hex()}, which is none of those configured"
        return EngineUnavailable(call.sentence(f"TLS failed: {reason}"), transient=False)
    if isinstance(cause, (ssl.SSLError, aiohttp.ClientSSLError)):
        return EngineUnavailable(call.sentence(f"TLS failed: {_tls_reason(cause)}"), transient=False)
    if isinstance(cause, aiohttp.ClientConnectorDNSError):
        return EngineUnavailable(call.sentence(f"no host has the name {cause.host!r}"))
    if isinstance(cause, aiohttp.ClientConnectorError):
        reason = os.strerror(cause.os_error.errno or 0)
        return EngineUnavailable(call.sentence(f"cannot connect to {cause.host}:{cause.port} ({reason})"))
    if isinstance(cause, (aiohttp.ClientResponseError, UnicodeError)):
        return MalformedAnswer(call.sentence("what came back is not HTTP with JSON in UTF-8"))
    if isinstance(cause, aiohttp.ClientPayloadError):
        return EngineUnavailable(call.sentence("the connection broke in the middle of the answer"))
    return EngineUnavailable(call.sentence("the connection was closed before an answer came"))


def too_late(call: Call, error: Exception, timeout_s: float, options: HttpOptions) -> NoAnswer:
    """Return the error for a client's time-out; one of connecting alone is transient: another node may answer."""
    connecting = any(isinstance(link, aiohttp.ConnectionTimeoutError) for link in _chain(error))
    limit_s = connect_timeout_s(options, timeout_s)
    if connecting and limit_s is not None and limit_s < timeout_s:
        return EngineUnavailable(call.sentence(f"no connection was made within {limit_s:.3g} s"))
    return EngineTimeout(call.sentence(f"no complete answer within {timeout_s:.3g} s"))


def too_large(call: Call, options: HttpOptions) -> NoAnswer:
    """Return the error for an answer left unread for its size."""
    return AnswerTooLarge(
        call.sentence(f"the engine's answer is larger than {options.max_answer_mib} MiB (`max_answer_mib`)")
    )


def _chain(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def _tls_reason(error: BaseException) -> str:
    inner = getattr(error, "certificate_error", None) or getattr(error, "os_error", None) or error
    return str(getattr(inner, "verify_message", "") or getattr(inner, "reason", "") or type(inner).__name__)
