"""Options of every command that calls a running sidecar."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sidecar.cli.terminal import stop

if TYPE_CHECKING:
    from sidecar.client import BlockingRerankClient

Target = Annotated[str, typer.Option(help="The running sidecar, `host:port`.")]
TlsOn = Annotated[bool, typer.Option("--tls", help="Connect with TLS; implied by the other --tls options.")]
TlsCa = Annotated[Path | None, typer.Option(help="PEM file of the CAs that are trusted; default: gRPC's own.")]
TlsCert = Annotated[Path | None, typer.Option(help="PEM file of the certificate to show.")]
TlsKey = Annotated[Path | None, typer.Option(help="PEM file of its key.")]
KEY_VARIABLE = "RERANK_SIDECAR_KEY"
"""Environment variable with the API key or token: on a command line others could read it."""


def client_of(
    target: str, *, tls: bool, ca: Path | None, cert: Path | None, key: Path | None
) -> "BlockingRerankClient":
    """A client, with the key of :data:`KEY_VARIABLE` if it is set; ends the command where a file cannot be read."""
    from sidecar.client import BlockingRerankClient, Tls

    if (cert is None) != (key is None):
        stop("--tls-cert and --tls-key go together")
    secure = tls or ca is not None or cert is not None
    try:
        return BlockingRerankClient(target, Tls(ca, cert, key) if secure else None, os.environ.get(KEY_VARIABLE))
    except OSError as error:
        stop(f"{error.filename} cannot be read: {error.strerror}")
