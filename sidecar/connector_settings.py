"""The settings of connectors: address of the engine, TLS, credentials and timeouts."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from connectors.bad_option import BadOption
from connectors.hosts import cloud_url, host_of
from connectors.options import Aws, HttpOptions
from sidecar.secret import Secret, reveal
from sidecar.setting_types import ExistingFile, Faults, IndexPattern, Section


class BasicAuth(Section):
    """User name and password."""

    username: str = Field(min_length=1, description="User name.")
    password: Secret = Field(description="Password, or `{env: NAME}`, or `{file: PATH}`.")


class ConnectorSettings(Section):
    """Settings that all connectors share."""

    allow_indices: tuple[IndexPattern, ...] = Field(
        ("*",),
        min_length=1,
        description="Patterns (`*` is any text) of the indices a request may name; others are PERMISSION_DENIED.",
    )
    search_timeout_ms: int = Field(
        2000, ge=1, le=600_000, description="Longest a search on the engine may take, retries included, in ms."
    )


class HttpConnectorSettings(ConnectorSettings):
    """Settings that the connectors over HTTP share."""

    hosts: tuple[str, ...] = Field(
        (),
        description="URLs of the nodes of one cluster, such as `http://localhost:9200`; a port left out is 80 for http "
        "and 443 for https. A node that cannot be reached is left for another one.",
    )
    basic_auth: BasicAuth | None = Field(None, description="User name and password; leave out for none.")
    bearer_token: Secret | None = Field(None, description="Token of `Authorization: Bearer`; excludes `basic_auth`.")
    forward_authorization: bool = Field(
        False,
        description="Whether the engine is asked with the end user's own `authorization`, taken from the call's "
        "metadata, instead of the connector's credentials; a client certificate is shown all the same.",
    )
    ca_certs: ExistingFile | None = Field(
        None, description="Path of the CA certificates that vouch for the engine's own; no others are trusted then."
    )
    certificate_fingerprints: tuple[str, ...] = Field(
        (),
        description="SHA-256 in hex of the nodes' own certificates (not of their CA's), one for each; such a "
        "certificate is trusted whatever its issuer, name and dates, and no other is. Excludes `ca_certs`.",
    )
    verify_certs: bool = Field(True, description="Whether the engine's TLS certificate is checked.")
    client_cert: ExistingFile | None = Field(None, description="Path of the certificate (PEM) shown to the engine.")
    client_key: ExistingFile | None = Field(
        None, description="Path of its key (PEM); null: it is in the file of `client_cert`."
    )
    client_key_password: Secret | None = Field(None, description="Password of an encrypted key.")
    max_attempts: int = Field(
        2, ge=1, le=5, description="Tries of a read that got no answer, all within the time the call has left."
    )
    connections: int = Field(32, ge=1, le=1024, description="Connections kept open to each node at most.")
    connect_timeout_ms: int = Field(
        1000,
        ge=1,
        le=60_000,
        description="How long a connection may be in the making before another of `hosts` is tried, in ms; at most "
        "half of the time that the call has left. A single host has all of it.",
    )
    compress: bool = Field(False, description="Whether requests and answers are compressed (gzip).")
    max_answer_mib: int = Field(
        64,
        ge=1,
        le=1024,
        description="Largest answer of the engine that is read, decompressed, in MiB; a search with a larger one is "
        "RESOURCE_EXHAUSTED, a fetch of texts with a larger one finds none.",
    )

    @field_validator("hosts")
    @classmethod
    def _urls(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        for host in hosts:
            if "@" in host:
                raise ValueError("user name and password belong in `basic_auth`, not in a URL")
            host_of(host)
        return hosts

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if not self.urls:
            raise Faults((("hosts",), "needs at least one entry"))
        try:
            self.options()
        except BadOption as error:
            raise Faults(((error.key,), str(error))) from None
        except OSError as error:
            raise Faults(((), str(error))) from None
        return self

    @property
    def urls(self) -> tuple[str, ...]:
        """URLs of the nodes."""
        return self.hosts

    def options(self) -> HttpOptions:
        """Return the connector's options, with secrets revealed.

        Raises:
            BadOption, OSError: options exclude each other, or a file cannot be read.
        """
        basic = self.basic_auth
        return HttpOptions(
            self.urls,
            basic_auth=(basic.username, reveal(basic.password)) if basic else None,
            bearer_token=_text(self.bearer_token),
            ca_certs=self.ca_certs,
            verify_certs=self.verify_certs,
            certificate_fingerprints=self.certificate_fingerprints,
            client_cert=self.client_cert,
            client_key=self.client_key,
            client_key_password=_text(self.client_key_password),
            max_attempts=self.max_attempts,
            connections=self.connections,
            connect_timeout_s=self.connect_timeout_ms / 1e3,
            compress=self.compress,
            max_answer_mib=self.max_answer_mib,
            **self._own(),
        )

    def _own(self) -> dict[str, Any]:
        """Options that only this engine has."""
        return {}


class ElasticsearchSettings(HttpConnectorSettings):
    """An Elasticsearch cluster, 8.x or 9.x."""

    type: Literal["elasticsearch"] = Field(description="Which search engine this is.")
    cloud_id: str | None = Field(None, description="Elastic Cloud id, instead of `hosts`.")
    api_key: Secret | None = Field(None, description="API key in its encoded form; excludes `basic_auth`.")

    @model_validator(mode="before")
    @classmethod
    def _one_address(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("cloud_id") is not None and given.get("hosts"):
            raise Faults((("cloud_id",), "give `hosts` or `cloud_id`, not both"))
        return given

    @field_validator("cloud_id")
    @classmethod
    def _readable(cls, cloud_id: str | None) -> str | None:
        if cloud_id is not None:
            cloud_url(cloud_id)
        return cloud_id

    @property
    def urls(self) -> tuple[str, ...]:
        """URLs of the nodes, from ``hosts`` or ``cloud_id``."""
        return self.hosts if self.cloud_id is None else (cloud_url(self.cloud_id),)

    def _own(self) -> dict[str, Any]:
        return {"api_key": _text(self.api_key)}


class AwsSettings(Section):
    """How requests are signed with AWS SigV4, by credentials of AWS's standard chain. Needs the extra `[aws]`."""

    region: str = Field(min_length=1, description="Region of the domain or collection, such as `eu-central-1`.")
    service: Literal["es", "aoss"] = Field(
        "es", description="`es` for OpenSearch Service, `aoss` for OpenSearch Serverless."
    )


class OpenSearchSettings(HttpConnectorSettings):
    """An OpenSearch cluster, 2.x or 3.x."""

    type: Literal["opensearch"] = Field(description="Which search engine this is.")
    aws: AwsSettings | None = Field(
        None, description="How requests are signed for AWS; excludes `basic_auth`; null: not."
    )

    @model_validator(mode="after")
    def _signed_by_one(self) -> Self:
        if self.aws is not None and self.forward_authorization:
            raise Faults((("forward_authorization",), "cannot be true with `aws`: a signed request has no other user"))
        return self

    def _own(self) -> dict[str, Any]:
        return {"aws": Aws(self.aws.region, self.aws.service) if self.aws else None}


class MemorySettings(ConnectorSettings):
    """Documents held in this process and searched by BM25; for tests and first steps."""

    type: Literal["memory"] = Field(description="Which search engine this is.")
    indices: dict[str, ExistingFile] = Field(
        min_length=1,
        description="Index name to a file of JSON lines: objects with `_id` and the document's fields.",
    )


AnyConnector = Annotated[ElasticsearchSettings | OpenSearchSettings | MemorySettings, Field(discriminator="type")]


def _text(secret: Secret | None) -> str | None:
    return None if secret is None else reveal(secret)
