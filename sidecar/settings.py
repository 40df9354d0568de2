"""The one configuration file as a frozen, typed tree. Each field's description is its documentation everywhere."""

import os
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    SecretStr,
    Tag,
    field_validator,
    model_validator,
)

from sidecar.setting_types import BUNDLED as BUNDLED
from sidecar.setting_types import Checkpoint, ExistingFile, Faults, IndexPattern, Keys, is_node_url


class Section(BaseModel):
    """A part of the configuration: read-only, and a key it does not know is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class SecretFrom(Section):
    """Where a secret is read from, so that it need not stand in the file."""

    env: str | None = Field(None, description="Name of the environment variable that holds the secret.")
    file: ExistingFile | None = Field(
        None, description="Path of the file that holds the secret; a final newline is dropped."
    )

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.env is None) == (self.file is None):
            raise ValueError("give exactly one of `env` and `file`")
        if self.env is not None and self.env not in os.environ:
            raise Faults((("env",), f"the environment variable {self.env} is not set"))
        return self

    def read(self) -> str:
        """The secret itself."""
        return self.file.read_text(encoding="utf-8").rstrip("\n") if self.file else os.environ[self.env or ""]


def _secret_kind(value: object) -> str:
    return "source" if isinstance(value, (Mapping, SecretFrom)) else "text"


Secret = Annotated[
    Annotated[SecretStr, Tag("text")] | Annotated[SecretFrom, Tag("source")], Discriminator(_secret_kind)
]


def reveal(secret: Secret) -> str:
    """The secret as text, for handing to a client; never for printing."""
    return secret.read() if isinstance(secret, SecretFrom) else secret.get_secret_value()


class ServerSettings(Section):
    """The gRPC server."""

    address: str = Field("127.0.0.1:50051", description="Where the gRPC server listens, `host:port`.")
    metrics_address: str | None = Field(
        "127.0.0.1:9464", description="Where Prometheus scrapes `/metrics`, `host:port`; null turns it off."
    )
    max_message_mib: int = Field(64, ge=1, le=1024, description="Largest message received or sent, in MiB.")
    max_concurrent_calls: int = Field(
        512, ge=1, le=100_000, description="Calls served at once; one more is answered RESOURCE_EXHAUSTED."
    )
    max_queued_pairs: int = Field(
        4096,
        ge=1,
        le=1_000_000,
        description="Pairs waiting at most; a job that would exceed it is refused (OVERLOADED).",
    )
    reserve_ms: int = Field(
        10, ge=0, le=1000, description="Kept of every deadline for building and sending the reply, in ms."
    )
    shutdown_grace_s: float = Field(10, ge=0, le=600, description="How long calls in flight may finish after SIGTERM.")

    @field_validator("address", "metrics_address")
    @classmethod
    def _host_and_port(cls, value: str | None) -> str | None:
        if value is None:
            return None
        host, _, port = value.rpartition(":")
        if not host or not port.isdigit() or int(port) > 65535:
            raise ValueError("an address is `host:port` with a port of 0 to 65535")
        return value


class BasicAuth(Section):
    """User name and password."""

    username: str = Field(min_length=1, description="User name.")
    password: Secret = Field(description="Password, or `{env: NAME}`, or `{file: PATH}`.")


class ConnectorSettings(Section):
    """What all connectors share."""

    allow_indices: tuple[IndexPattern, ...] = Field(
        ("*",),
        min_length=1,
        description="Patterns (`*` is any text) of the indices a request may name; others are PERMISSION_DENIED.",
    )
    search_timeout_ms: int = Field(
        2000, ge=1, le=600_000, description="Longest a search on the engine may take, retries included, in ms."
    )


class HttpConnectorSettings(ConnectorSettings):
    """What the connectors over HTTP share."""

    hosts: tuple[str, ...] = Field(
        min_length=1, description="URLs of the engine's nodes, such as `http://localhost:9200`."
    )
    basic_auth: BasicAuth | None = Field(None, description="User name and password; leave out for none.")
    ca_certs: ExistingFile | None = Field(
        None, description="Path of the CA certificates that vouch for the engine's own."
    )
    verify_certs: bool = Field(True, description="Whether the engine's TLS certificate is checked.")
    max_attempts: int = Field(
        2, ge=1, le=5, description="Tries of a read that got no answer, all within the time the call has left."
    )
    connections: int = Field(32, ge=1, le=1024, description="Open connections to each node at most.")

    @field_validator("hosts")
    @classmethod
    def _urls(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        for host in hosts:
            if "@" in host:
                raise ValueError("user name and password belong in `basic_auth`, not in a URL")
            if not is_node_url(host):
                raise ValueError(f"{host!r} is not a node's URL: write `http://host:port` or `https://host:port`")
        return hosts


class ElasticsearchSettings(HttpConnectorSettings):
    """An Elasticsearch cluster, 8.x or 9.x."""

    type: Literal["elasticsearch"] = Field(description="Which search engine this is.")
    api_key: Secret | None = Field(None, description="API key in its encoded form; excludes `basic_auth`.")

    @model_validator(mode="after")
    def _one_way_in(self) -> Self:
        if self.api_key is not None and self.basic_auth is not None:
            raise Faults((("api_key",), "give `api_key` or `basic_auth`, not both"))
        return self


class OpenSearchSettings(HttpConnectorSettings):
    """An OpenSearch cluster, 2.x or 3.x."""

    type: Literal["opensearch"] = Field(description="Which search engine this is.")


class MemorySettings(ConnectorSettings):
    """Documents held in this process and searched by BM25; for tests and first steps."""

    type: Literal["memory"] = Field(description="Which search engine this is.")
    indices: dict[str, ExistingFile] = Field(
        min_length=1,
        description="Index name to a file of JSON lines: objects with `_id` and the document's fields.",
    )


AnyConnector = Annotated[ElasticsearchSettings | OpenSearchSettings | MemorySettings, Field(discriminator="type")]


class ModelSettings(Section):
    """A cross-encoder and how it runs."""

    checkpoint: Checkpoint = Field(
        BUNDLED, min_length=1, description="`bundled`, a local folder, or a hub id of a sequence-classification model."
    )
    revision: str | None = Field(None, description="Branch, tag or commit of a hub id.")
    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|cuda(:\d+)?)$",
        json_schema_extra={"allowed": "auto, cpu, cuda, cuda:N"},
        description="`auto` (CUDA if present), `cpu`, `cuda` or `cuda:N`.",
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="`auto`: bfloat16 or float16 on CUDA, bfloat16 on a CPU that multiplies it, else float32."
    )
    max_length: int | None = Field(
        None,
        ge=16,
        le=32_768,
        description="Tokens of query and passage together at most; null: as the model allows, at most 512.",
    )
    label: Literal[0, 1] | None = Field(None, description="For a model with two labels: which one means relevant.")
    threads: int | None = Field(None, ge=1, le=1024, description="CPU threads; null: as many as this process may use.")
    max_batch_tokens: int = Field(
        16_384, ge=64, le=4_194_304, description="Tokens of one forward pass at most, padding counted."
    )
    max_batch_ms: int = Field(
        50, ge=1, le=10_000, description="Predicted time of one forward pass at most; an expired job costs no more."
    )


class TextField(Section):
    """One field of a document that the model reads."""

    name: str = Field(min_length=1, description="Field name; dots reach into objects (`author.name`).")
    label: str = Field("", description="Text put before the field's value, such as `Title: `.")
    max_chars: int | None = Field(None, ge=1, description="Characters of this field at most; null: all.")


class Passages(Section):
    """How a long document is cut into passages, each scored by itself; the best one stands for the document."""

    words: int = Field(ge=8, le=4096, description="Words of one passage.")
    stride: int = Field(ge=1, le=4096, description="Words from the start of one passage to the start of the next.")
    max_passages: int = Field(4, ge=1, le=64, description="Passages of one document at most, from its start.")

    @model_validator(mode="after")
    def _no_gap(self) -> Self:
        if self.stride > self.words:
            raise Faults((("stride",), f"{self.stride} is larger than `words` ({self.words}): text would be left out"))
        return self


class TextSettings(Section):
    """Which text of a hit the model reads."""

    fields: tuple[TextField, ...] = Field(
        min_length=1, description="Fields in the order they are read; a name alone stands for `{name: ...}`."
    )
    separator: str = Field("\n", description="Text between two fields and between two values of one field.")
    passages: Passages | None = Field(None, description="null: one passage a document, cut at the model's length.")

    @field_validator("fields", mode="before")
    @classmethod
    def _short_form(cls, fields: object) -> object:
        if isinstance(fields, (list, tuple)):
            return [{"name": field} if isinstance(field, str) else field for field in fields]
        return fields


class Fusion(Section):
    """How the model's scores and the engine's become one order."""

    method: Literal["linear", "rrf", "replace"] = Field(
        "linear",
        description="`linear`: weighted sum of normalised scores; `rrf`: reciprocal ranks; `replace`: the model alone.",
    )
    model_weight: float = Field(
        0.8, ge=0, le=1, description="Weight of the model, the engine has the rest (linear, rrf)."
    )
    normalize: Literal["min_max", "z_score"] = Field("min_max", description="How scores are made comparable (linear).")
    rrf_k: int = Field(60, ge=1, le=10_000, description="The constant of reciprocal rank fusion (rrf).")


class Limits(Section):
    """How far a request may go; it may ask for less than the policy, and for no more than this."""

    rank_window_size: int = Field(1000, ge=1, le=10_000, description="Largest `rank_window_size` of a request.")
    budget_ms: int = Field(5000, ge=1, le=600_000, description="Largest `budget_ms` of a request.")
    candidates: int = Field(1000, ge=1, le=100_000, description="Most candidates in one Rerank call.")
    query_chars: int = Field(4096, ge=1, le=1_000_000, description="Longest query, in characters.")


class Match(Section):
    """Which index expressions a policy is for."""

    index: IndexPattern = Field(description="Index name or pattern; `*` is any text.")
    connector: str | None = Field(None, description="Connector name; null: any.")


class PolicySettings(Section):
    """How one family of indices is reranked."""

    match: tuple[Match, ...] = Field(
        (), description="What the policy is for; empty: only when named, or as the default."
    )
    enabled: bool = Field(True, description="false answers in the engine's order (SKIPPED, POLICY_DISABLED).")
    model: str = Field("default", description="Name of the model, a key of `models`.")
    text: TextSettings = Field(description="Which text the model reads.")
    rank_window_size: int = Field(100, ge=1, le=10_000, description="Hits from the top that are reranked.")
    min_rank_window_size: int | None = Field(
        None,
        ge=1,
        le=10_000,
        description="Under load the window may shrink to this (PARTIAL) before the job is refused; null: never.",
    )
    budget_ms: int = Field(
        300, ge=1, le=600_000, description="Whole time in the sidecar, the engine's search included."
    )
    min_score: float | None = Field(
        None, allow_inf_nan=False, description="Scored results below this relevance_score are left out; null: none."
    )
    fusion: Fusion = Field(Fusion(), description="How the model's scores and the engine's become one order.")
    limits: Limits = Field(Limits(), description="How far a request may go.")

    @model_validator(mode="after")
    def _within_limits(self) -> Self:
        bounds = (
            ("rank_window_size", self.rank_window_size, "limits.rank_window_size", self.limits.rank_window_size),
            ("budget_ms", self.budget_ms, "limits.budget_ms", self.limits.budget_ms),
            ("min_rank_window_size", self.min_rank_window_size or 1, "rank_window_size", self.rank_window_size),
        )
        faults = [
            ((key,), f"{value} exceeds `{bound}` ({most}); allowed: 1..{most}")
            for key, value, bound, most in bounds
            if value > most
        ]
        if faults:
            raise Faults(*faults)
        return self


class Settings(Section):
    """The whole configuration."""

    server: ServerSettings = Field(ServerSettings(), description="The gRPC server.")
    connectors: dict[str, AnyConnector] = Field(
        {}, description="Search engines by name; none: only plain texts are reranked."
    )
    models: dict[str, ModelSettings] = Field({"default": ModelSettings()}, min_length=1, description="Models by name.")
    policies: dict[str, PolicySettings] = Field(min_length=1, description="Policies by name.")
    default_policy: str | None = Field(
        None, description="Policy of an index that none matches; null: such an index is not reranked."
    )

    @model_validator(mode="after")
    def _names_exist(self) -> Self:
        if faults := dangling_names(self.model_dump(include={"connectors", "models", "policies", "default_policy"})):
            raise Faults(*faults)
        return self

    @model_validator(mode="after")
    def _can_be_kept(self) -> Self:
        if faults := list(_impossible(self)):
            raise Faults(*faults)
        return self


def _impossible(settings: Settings) -> Iterator[tuple[Keys, str]]:
    """What would never be reranked, by arithmetic alone."""
    reserve_ms, most = settings.server.reserve_ms, settings.server.max_queued_pairs
    for name, policy in settings.policies.items():
        if policy.budget_ms <= reserve_ms:
            yield ("policies", name, "budget_ms"), f"is {policy.budget_ms}, and `server.reserve_ms` takes {reserve_ms}"
        passages = policy.text.passages.max_passages if policy.text.passages else 1
        if policy.rank_window_size * passages > most:
            pairs = f"{policy.rank_window_size} documents of up to {passages} passages"
            yield ("policies", name, "rank_window_size"), f"{pairs} exceed `server.max_queued_pairs` ({most})"


def dangling_names(tree: Mapping[str, Any]) -> list[tuple[Keys, str]]:
    """Where a tree of settings, validated or raw, names a policy, model or connector that it does not define."""
    sections = {name: tree.get(name) for name in ("connectors", "models", "policies")}
    defined = {name: list(section) if isinstance(section, Mapping) else [] for name, section in sections.items()}
    if "models" not in tree:
        defined["models"] = ["default"]
    return [
        (keys, _undefined(name, defined[section]))
        for section, keys, name in _references(tree)
        if isinstance(name, str) and name not in defined[section]
    ]


def _references(tree: Mapping[str, Any]) -> Iterator[tuple[str, Keys, object]]:
    """(section it must be a key of, where, name) of each reference; what has the wrong shape is passed over."""
    yield "policies", ("default_policy",), tree.get("default_policy")
    policies = tree.get("policies")
    for policy, settings in policies.items() if isinstance(policies, Mapping) else ():
        if not isinstance(settings, Mapping):
            continue
        yield "models", ("policies", policy, "model"), settings.get("model", "default")
        matches = settings.get("match")
        for place, match in enumerate(matches if isinstance(matches, (list, tuple)) else ()):
            if isinstance(match, Mapping):
                yield "connectors", ("policies", policy, "match", place, "connector"), match.get("connector")


def _undefined(name: str, defined: list[str]) -> str:
    hint = "".join(f" did you mean {near!r}?" for near in get_close_matches(name, defined, n=1))
    return f"{name!r} is not defined;{hint} defined: {', '.join(defined) or 'none'}"
