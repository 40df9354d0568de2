"""Options of every command that calls a running sidecar."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sidecar.cli.terminal import stop
from sidecar.errors import NOT_SHOWN

if TYPE_CHECKING:
    import grpc

    from sidecar.client import BlockingRerankClient, Tls

Target = Annotated[str, typer.Option(help="The running sidecar, `host:port`.")]
TlsOn = Annotated[bool, typer.Option("--tls", help="Connect with TLS; implied by the other --tls options.")]
TlsCa = Annotated[Path | None, typer.Option(help="PEM file of the CAs that are trusted; default: gRPC's own.")]
TlsCert = Annotated[Path | None, typer.Option(help="PEM file of the certificate to show.")]
TlsKey = Annotated[Path | None, typer.Option(help="PEM file of its key.")]
TlsName = Annotated[
    str | None,
    typer.Option(help="Name that the sidecar's certificate is for, where the target is another one, as 127.0.0.1."),
]
KEY_VARIABLE = "RERANK_SIDECAR_KEY"
"""Environment variable with the API key or token: on a command line others could read it."""
ENGINE_VARIABLE = "RERANK_SIDECAR_ENGINE_AUTHORIZATION"
"""Environment variable with the end user's own `Authorization`, for a connector that forwards it to its engine."""


def client_of(
    target: str, *, tls: bool, ca: Path | None, cert: Path | None, key: Path | None, name: str | None
) -> "BlockingRerankClient":
    """Return a client, with the key of :data:`KEY_VARIABLE` if it is set; ends the command if a file is unreadable.

    ``name`` is the host name that the sidecar's certificate must be for, and implies TLS; None: the target's host.
    """
    from sidecar.client import BlockingRerankClient

    try:
        return BlockingRerankClient(target, _tls(tls, ca, cert, key, name), os.environ.get(KEY_VARIABLE))
    except OSError as error:
        stop(f"{error.filename} cannot be read: {error.strerror}")


def engine_authorization() -> str | None:
    """Return the value of :data:`ENGINE_VARIABLE`, None if it is not set."""
    return os.environ.get(ENGINE_VARIABLE)


def channel_of(
    target: str, *, tls: bool, ca: Path | None, cert: Path | None, key: Path | None, name: str | None
) -> "grpc.Channel":
    """Return a bare channel; ends the command if a file is unreadable, or only one of ``cert`` and ``key`` is given.

    ``name`` is as in :func:`client_of`.
    """
    import grpc

    try:
        secure = _tls(tls, ca, cert, key, name)
        if secure is None:
            return grpc.insecure_channel(target)
        return grpc.secure_channel(target, secure.credentials(), secure.options)
    except OSError as error:
        stop(f"{error.filename} cannot be read: {error.strerror}")


def in_words(error: "grpc.RpcError") -> str:
    """Return why a call failed; where a key is missing, also the environment variable to set."""
    said = f"{error.code().name}: {error.details()}"
    missing = (error.details() or "").startswith(NOT_SHOWN) and not os.environ.get(KEY_VARIABLE)
    return f"{said} (the environment variable {KEY_VARIABLE} is not set)" if missing else said


def _tls(tls: bool, ca: Path | None, cert: Path | None, key: Path | None, name: str | None) -> "Tls | None":
    from sidecar.client import Tls

    if (cert is None) != (key is None):
        stop("--tls-cert and --tls-key go together")
    return Tls(ca, cert, key, name) if tls or any(one is not None for one in (ca, cert, name)) else None
