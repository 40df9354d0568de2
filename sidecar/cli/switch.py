"""`rerank-sidecar switch`."""

from enum import Enum
from typing import Annotated

import typer

from sidecar.cli.target import Target, TlsCa, TlsCert, TlsKey, TlsName, TlsOn, client_of, in_words
from sidecar.cli.terminal import stop

_TIMEOUT_S = 10.0


class To(Enum):
    """What reranking is switched to."""

    ON = "on"
    OFF = "off"


def switch(
    to: Annotated[To, typer.Argument(help="`off`: the engine's order from now on; `on`: as configured again.")],
    policy: Annotated[str, typer.Argument(help="Policy; default: all of them.")] = "",
    target: Target = "127.0.0.1:50051",
    tls: TlsOn = False,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    tls_name: TlsName = None,
) -> None:
    """Switch reranking off or on in a running sidecar, at once and until it ends; by a key whose role is `admin`."""
    import grpc

    from sidecar.v1 import rerank_pb2 as pb

    with client_of(target, tls=tls, ca=tls_ca, cert=tls_cert, key=tls_key, name=tls_name) as client:
        try:
            now = client.policies.Switch(
                pb.SwitchRequest(policy=policy, on=to is To.ON), timeout=_TIMEOUT_S, metadata=client.metadata()
            )
        except grpc.RpcError as error:
            stop(in_words(error))
    off = "all policies" if now.all_off else ", ".join(now.off) or "none"
    typer.echo(f"switched off: {off}")
