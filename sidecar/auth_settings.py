"""The `server.auth` section of the configuration: who may call, and what they may use."""

from typing import Self

from pydantic import Field, model_validator

from sidecar.setting_types import ExistingFile, Faults, IndexPattern, Section


class Role(Section):
    """What callers of one kind may use; patterns as everywhere, `*` is any text."""

    connectors: tuple[str, ...] = Field(("*",), description="Connectors, by name or pattern.")
    indices: tuple[IndexPattern, ...] = Field(
        ("*",), description="Index expressions, beside what the connector's `allow_indices` says."
    )
    policies: tuple[str, ...] = Field(("*",), description="Policies, by name or pattern.")
    calls_per_s: float | None = Field(
        None, gt=0, le=1_000_000, description="Calls of one caller in a second, lately; more are RESOURCE_EXHAUSTED."
    )
    admin: bool = Field(False, description="Whether callers may switch reranking off and on (`PolicyService.Switch`).")


ANYONE = Role()
"""The role of every caller where `server.auth` is not set."""


class JwtSettings(Section):
    """JSON Web Tokens that are let in; needs the extra [jwt]."""

    jwks_file: ExistingFile | None = Field(
        None, description="File with the issuer's public keys (JWKS); read again when it changes."
    )
    jwks_url: str | None = Field(
        None,
        pattern="^https://",
        json_schema_extra={"allowed": "an https:// address"},
        description="Where they are fetched instead, anew every five minutes.",
    )
    issuer: str = Field(min_length=1, description="What `iss` has to be.")
    audience: str = Field(min_length=1, description="What `aud` has to hold.")
    role_claim: str = Field("role", min_length=1, description="Claim that names the role; dots reach into objects.")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.jwks_file is None) == (self.jwks_url is None):
            raise ValueError("give exactly one of `jwks_file` and `jwks_url`")
        return self


class AuthSettings(Section):
    """Who may call: `authorization: Bearer KEY`, with an API key or a token. Health and reflection are open to all."""

    keys_file: ExistingFile | None = Field(
        None, description="API keys as salted hashes, written by `rerank-sidecar key`; read again when it changes."
    )
    keys_env: str | None = Field(None, description="Environment variable that holds the same lines.")
    jwt: JwtSettings | None = Field(None, description="JSON Web Tokens; null: none are let in.")
    roles: dict[str, Role] = Field(min_length=1, description="Roles by name.")

    @model_validator(mode="after")
    def _somebody_may_call(self) -> Self:
        if not (self.keys_file or self.keys_env or self.jwt):
            raise Faults((("keys_file",), "nobody could call: give `keys_file`, `keys_env` or `jwt`"))
        return self
