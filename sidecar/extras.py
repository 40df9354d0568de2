"""Optional features; their packages are imported only when the settings ask for them."""

from typing import TYPE_CHECKING

from sidecar.auth_settings import AuthSettings
from sidecar.authentication import Authentication
from sidecar.metrics import Metrics
from sidecar.server_settings import TlsSettings, TracingSettings
from sidecar.tracing import NO_SPANS, Spans

if TYPE_CHECKING:
    from sidecar.revocation import Revoked


class StartError(Exception):
    """The server cannot start; the message says what to change."""


def authentication(settings: AuthSettings | None, metrics: Metrics) -> Authentication:
    """Build the authentication of callers; raises StartError."""
    try:
        return Authentication(settings, metrics)
    except ImportError:
        raise StartError("server.auth.jwt needs PyJWT: pip install 'rerank-sidecar[jwt]'") from None
    except (ValueError, OSError) as error:
        raise StartError(f"server.auth: {error}") from error


def spans(settings: TracingSettings | None) -> Spans:
    """Build what makes spans, :data:`NO_SPANS` without settings; raises StartError."""
    if settings is None:
        return NO_SPANS
    try:
        from sidecar.otel import OpenTelemetrySpans
    except ImportError:
        raise StartError("server.tracing needs OpenTelemetry: pip install 'rerank-sidecar[otel]'") from None
    try:
        return OpenTelemetrySpans(settings)
    except ValueError as error:
        raise StartError(f"server.tracing: a variable OTEL_... of the environment: {error}") from error


def revoked(settings: TlsSettings | None, metrics: Metrics) -> "Revoked | None":
    """Build the check for revoked certificates; None if no list is configured; raises StartError."""
    if settings is None or settings.client_crl is None or settings.client_ca is None:
        return None
    try:
        from sidecar.revocation import Revoked
    except ImportError:
        raise StartError("server.tls.client_crl needs cryptography: pip install 'rerank-sidecar[jwt]'") from None
    try:
        return Revoked(settings.client_crl, settings.client_ca, metrics)
    except (ValueError, OSError) as error:
        raise StartError(f"server.tls.client_crl: {error}") from error
