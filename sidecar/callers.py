"""Who makes a call, as the server itself establishes, never as the request says. Kept only during the call."""

from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass

from sidecar.auth_settings import ANYONE, Role


@dataclass(frozen=True, slots=True)
class Caller:
    """A caller: a key's name or a token's subject, and its role. ``name`` is empty if callers are not authenticated."""

    name: str = ""
    role: Role = ANYONE


CheckCertificate = Callable[[Mapping[str, Sequence[bytes]]], None]
"""Raises NoAuthorization if the certificate that a client has presented is no longer valid."""


def nothing_revoked(shown: Mapping[str, Sequence[bytes]]) -> None:
    """Accept every certificate."""


NOBODY = Caller()
calling: ContextVar[Caller] = ContextVar("calling", default=NOBODY)
"""The caller of the current call."""
calling_host: ContextVar[str] = ContextVar("calling_host", default="")
"""The host from which the current call comes."""


def host_of(peer: str) -> str:
    """Return the host of a gRPC peer (``ipv4:10.0.0.7:50000``), without its port, which differs by connection."""
    kind, _, address = peer.partition(":")
    return address.rpartition(":")[0] if kind in ("ipv4", "ipv6") else kind
