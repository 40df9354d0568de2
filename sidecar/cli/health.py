"""`rerank-sidecar health`."""

from typing import Annotated, Any

import typer

from sidecar.cli.target import Target, TlsCa, TlsCert, TlsKey, TlsName, TlsOn, channel_of

_TIMEOUT_S = 4.0


def health(
    target: Target = "127.0.0.1:50051",
    reranking: Annotated[bool, typer.Option("--reranking", help="Whether it reranks, not only serves.")] = False,
    tls: TlsOn = False,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    tls_name: TlsName = None,
) -> None:
    """Ask a sidecar for its health; status 0 if it serves, 1 if not. For probes that cannot speak gRPC."""
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    from sidecar.health import RERANKING

    with channel_of(target, tls=tls, ca=tls_ca, cert=tls_cert, key=tls_key, name=tls_name) as channel:
        try:
            asked = health_pb2.HealthCheckRequest(service=RERANKING if reranking else "")
            stub: Any = health_pb2_grpc.HealthStub(channel)
            answer = stub.Check(asked, timeout=_TIMEOUT_S)
        except grpc.RpcError as error:
            typer.echo(f"{error.code().name}: {error.details()}", err=True)
            raise typer.Exit(1) from None
    name = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    typer.echo(name)
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        raise typer.Exit(1)
