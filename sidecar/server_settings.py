"""The `server` section of the configuration."""

from typing import Self

from pydantic import Field, field_validator, model_validator

from sidecar.auth_settings import AuthSettings
from sidecar.setting_types import ExistingFile, Faults, Section


class TlsSettings(Section):
    """Certificates of the gRPC port. The files are read again when they change; a broken one changes nothing."""

    cert: ExistingFile = Field(description="The server's certificate, and those that lead to its CA; PEM.")
    key: ExistingFile = Field(description="Its private key, without a password; PEM.")
    client_ca: ExistingFile | None = Field(
        None, description="CAs of the clients that may connect, each with a certificate of its own; null: anyone."
    )
    client_crl: ExistingFile | None = Field(
        None,
        description="Clients' certificates that were revoked: lists (CRL, PEM) signed by CAs of `client_ca`. Their "
        "calls are UNAUTHENTICATED, also on connections that stand already. Needs the extra [jwt].",
    )

    @model_validator(mode="after")
    def _revoked_by_whom(self) -> Self:
        if self.client_crl and not self.client_ca:
            raise ValueError("`client_crl` needs `client_ca`, whose CAs have signed it")
        return self


class TracingSettings(Section):
    """OpenTelemetry spans of calls and their stages; needs the extra [otel]."""

    endpoint: str = Field(
        "http://localhost:4317",
        pattern=r"^https?://[^/]+/?$",
        json_schema_extra={"allowed": "http://host:port, https://host:port"},
        description="The collector, OTLP over gRPC: `http://host:port`, or `https://` for TLS. Headers and "
        "certificates for it: OTEL_EXPORTER_OTLP_HEADERS, OTEL_EXPORTER_OTLP_CERTIFICATE.",
    )
    service: str = Field("rerank-sidecar", min_length=1, description="`service.name` of the spans.")
    share: float = Field(
        1.0, ge=0, le=1, description="Share of the traces that begin here; of others the caller has decided."
    )


class ServerSettings(Section):
    """The gRPC server."""

    address: str = Field("127.0.0.1:50051", description="Where the gRPC server listens, `host:port`.")
    tls: TlsSettings | None = Field(
        None,
        description="TLS on the gRPC port; null: plain text, for which any address but loopback asks for `serve "
        "--insecure`.",
    )
    auth: AuthSettings | None = Field(None, description="Who may call; null: whoever reaches the port.")
    tracing: TracingSettings | None = Field(
        None,
        description="Spans for OpenTelemetry; null: the caller's trace goes on to the engine and the log only.",
    )
    metrics_address: str | None = Field(
        "127.0.0.1:9464", description="Where Prometheus scrapes `/metrics`, `host:port`; null turns it off."
    )
    max_message_mib: int = Field(64, ge=1, le=1024, description="Largest message received or sent, in MiB.")
    max_concurrent_calls: int = Field(
        512, ge=1, le=100_000, description="Calls served at once; one more is answered RESOURCE_EXHAUSTED."
    )
    max_unread_mib: int = Field(
        512,
        ge=1,
        le=65_536,
        description="Memory of answers that callers have not read yet, in MiB. A connection that holds an "
        "eighth of it is answered RESOURCE_EXHAUSTED until it reads; above all of it everybody is.",
    )
    max_queued_pairs: int = Field(
        4096,
        ge=1,
        le=1_000_000,
        description="Pairs waiting at most; a job that would exceed it is refused (OVERLOADED).",
    )
    reserve_ms: int = Field(
        20,
        ge=0,
        le=1000,
        description="Kept of every deadline for building and sending the reply, in ms. It took up to 17 on two busy "
        "cores, where with 15 two replies of 3,500 came after their budget.",
    )
    order_cache_mib: int = Field(
        64, ge=1, le=16_384, description="Memory for all orders kept by policies with `order_cache_s`, in MiB."
    )
    score_cache_mib: int = Field(
        64,
        ge=0,
        le=65_536,
        description="Memory for scores of pairs of query and passage seen before, in MiB, of all models together; "
        "0 keeps none, and scores the same pair for each call.",
    )
    shutdown_grace_s: float = Field(10, ge=0, le=600, description="How long calls in flight may finish after SIGTERM.")
    names_ttl_s: float = Field(
        30,
        ge=0,
        le=3600,
        description="How long it is remembered which indices an alias or pattern stands for, in s; 0: asked each time. "
        "An index that a hit reveals is noticed at once.",
    )

    @field_validator("address", "metrics_address")
    @classmethod
    def _host_and_port(cls, value: str | None) -> str | None:
        if value is None:
            return None
        host, _, port = value.rpartition(":")
        if not host or not port.isdigit() or int(port) > 65535:
            raise ValueError("an address is `host:port` with a port of 0 to 65535")
        return value

    @model_validator(mode="after")
    def _ports_differ(self) -> Self:
        if self.metrics_address == self.address and not self.address.endswith(":0"):
            raise Faults((("metrics_address",), f"{self.address} is where the gRPC server listens"))
        return self
