"""Who calls: what the server itself sees, never what a request says. Kept only while the call is under way."""

from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass

from sidecar.auth_settings import ANYONE, Role


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls: a key's name or a token's subject, and his role. ``name`` is empty where nobody is asked."""

    name: str = ""
    role: Role = ANYONE


CheckCertificate = Callable[[Mapping[str, Sequence[bytes]]], None]
"""Raises NoAuthorization where the certificate that a client has shown is no longer valid."""


def nothing_revoked(shown: Mapping[str, Sequence[bytes]]) -> None:
    """A check that lets all pass."""


NOBODY = Caller()
calling: ContextVar[Caller] = ContextVar("calling", default=NOBODY)
"""Who makes the call under way."""
calling_host: ContextVar[str] = ContextVar("calling_host", default="")
"""The host that the call under way comes from."""


def host_of(peer: str) -> str:
    """The host of a peer as gRPC writes it, ``ipv4:10.0.0.7:50000``: not its port, which is new for each connection."""
    kind, _, address = peer.partition(":")
    return address.rpartition(":")[0] if kind in ("ipv4", "ipv6") else kind
