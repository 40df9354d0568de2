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
"""Fewest streams of a connection: a client may open that many before it learns the limit, and would be refused."""


def channel_options(max_message_bytes: int, max_calls: int) -> list[tuple[str, int]]:
    """Return the options of the gRPC port.

    A connection allows more streams than calls are served at once, so that calls over the limit get a status that says
    so. Vanished clients are noticed within 80 s, and clients that ping every 10 s are not disconnected.
    """
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
    """Open the gRPC port; return its number, and with TLS the function that reloads changed certificates, else None.

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
    """Open the port of metrics, which serves each request in its own thread; raises StartError."""
    host, _, port = address.rpartition(":")
    try:
        server, _ = prometheus_client.start_http_server(int(port), addr=host.strip("[]"), registry=metrics.registry)
    except OSError as error:
        raise StartError(f"cannot serve metrics on {address}: {error.strerror}") from error
    return server
