"""The two ports: gRPC for calls, HTTP for metrics."""

from collections.abc import Callable
from wsgiref.simple_server import WSGIServer

import grpc
import prometheus_client

from sidecar.certificates import Certificates
from sidecar.extras import StartError
from sidecar.metrics import Metrics
from sidecar.server_settings import ServerSettings

_LEAST_STREAMS = 1024
"""Of a connection: a client may open that many before it learns how many are allowed, and would be refused."""


def channel_options(max_message_bytes: int, max_calls: int) -> list[tuple[str, int]]:
    """Of the gRPC port. A connection has more streams than calls are served at once: those that are too many are to be
    told so. Clients that vanished are noticed within 80 s, and those that ask every 10 s whether the sidecar is
    there are not hung up on."""
    return [
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.max_concurrent_streams", max(_LEAST_STREAMS, 2 * max_calls)),
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ("grpc.so_reuseport", 0),  # or a second sidecar would silently share the port
    ]


def listen(
    server: grpc.aio.Server, settings: ServerSettings, metrics: Metrics
) -> tuple[int, Callable[[], None] | None]:
    """Open the gRPC port: its number, and what looks after its certificates, if there are any.

    Raises:
        StartError: a certificate cannot be used, the port is taken, or the address is not one of this machine.
    """
    try:
        if settings.tls is None:
            return server.add_insecure_port(settings.address), None
        certificates = Certificates(settings.tls, metrics)
        return server.add_secure_port(settings.address, certificates.credentials()), certificates.look
    except (ValueError, OSError) as error:
        raise StartError(f"server.tls: {error}") from error
    except RuntimeError as error:
        raise StartError(
            f"cannot listen on {settings.address}: the port is in use, or the address is not one of this machine"
        ) from error


def serve_metrics(address: str, metrics: Metrics) -> WSGIServer:
    """Open the port of metrics, each request in a thread of its own; raises StartError."""
    host, _, port = address.rpartition(":")
    try:
        server, _ = prometheus_client.start_http_server(int(port), addr=host.strip("[]"), registry=metrics.registry)
    except OSError as error:
        raise StartError(f"cannot serve metrics on {address}: {error.strerror}") from error
    return server
