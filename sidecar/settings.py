"""The one configuration file as a frozen, typed tree. Each field's description is its documentation everywhere."""

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from sidecar.connector_settings import AnyConnector
from sidecar.setting_types import BUNDLED as BUNDLED
from sidecar.setting_types import Checkpoint, Faults, IndexPattern, Keys, Section


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
        15, ge=0, le=1000, description="Kept of every deadline for building and sending the reply, in ms."
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


class ModelSettings(Section):
    """A model and how it runs."""

    kind: Literal["cross_encoder", "bi_encoder"] = Field(
        "cross_encoder",
        description="`cross_encoder` reads query and passage together; `bi_encoder` each by itself, for a policy's "
        "`cosine`.",
    )
    checkpoint: Checkpoint = Field(
        BUNDLED,
        min_length=1,
        description="`bundled`, a local folder, or a hub id of a sequence-classification model (of an encoder, for a "
        "`bi_encoder`).",
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
    backend: Literal["auto", "torch", "onnx"] = Field(
        "auto",
        description="`onnx`: the int8 graph that `rerank-sidecar export` puts beside the weights, on a CPU; `auto`: "
        "the faster of both at warm-up where there is one, else `torch`.",
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
        100, ge=1, le=10_000, description="Predicted time of one forward pass at most; an expired job costs no more."
    )
    device_weight: float = Field(
        1.0,
        ge=0.01,
        le=100,
        description="Share of the device's time in proportion to other models' weights, while several have work.",
    )
    token_cache_mib: int = Field(
        64, ge=0, le=65_536, description="Memory for token ids of passages seen before, in MiB; 0 keeps none."
    )
    vector_cache_mib: int = Field(
        64, ge=0, le=65_536, description="Memory for a `bi_encoder`'s vectors of passages, in MiB; 0 keeps none."
    )


class TextField(Section):
    """One field of a document that the model reads."""

    name: str = Field(min_length=1, description="Field name; dots reach into objects (`author.name`).")
    label: str = Field("", description="Text put before the field's value, such as `Title: `.")
    max_chars: int | None = Field(None, ge=1, description="Characters of this field at most; null: all.")
    html: bool = Field(False, description="Whether the field holds HTML, of which only the text is read.")


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


class Nested(Section):
    """Objects of a document that are passages of their own, each read together with the fields outside of them."""

    path: str = Field(
        min_length=1,
        description="Field that holds the objects, `nested` or not; a text alone stands for `{path: ...}`.",
    )
    max_passages: int = Field(
        4, ge=1, le=64, description="Objects of one document at most: its first, or the engine's best of `inner_hits`."
    )

    def holds(self, field: str) -> bool:
        """Whether a field lies in the objects."""
        return field.startswith(f"{self.path}.")


HitSection = Literal["source", "fields", "highlight", "inner_hits"]
"""A section of a hit that holds text."""


class TextSettings(Section):
    """Which text of a hit the model reads."""

    fields: tuple[TextField, ...] = Field(
        min_length=1, description="Fields in the order they are read; a name alone stands for `{name: ...}`."
    )
    separator: str = Field("\n", description="Text between two fields and between two values of one field.")
    sources: tuple[HitSection, ...] = Field(
        ("source", "fields"),
        json_schema_extra={"allowed": "list of source, fields, highlight, inner_hits"},
        description="Sections of a hit in the order they are tried for a field's text; what none of them holds is "
        "fetched. `highlight` and `inner_hits` hold parts of a document only.",
    )
    passages: Passages | None = Field(None, description="null: one passage a document, cut at the model's length.")
    nested: Nested | None = Field(None, description="Objects that are scored one by one; excludes `passages`.")
    mean_of_top: int = Field(
        1, ge=1, le=64, description="A document's score is the mean of its best passages' scores, of this many at most."
    )

    @field_validator("fields", mode="before")
    @classmethod
    def _short_form(cls, fields: object) -> object:
        if isinstance(fields, (list, tuple)):
            return [{"name": field} if isinstance(field, str) else field for field in fields]
        return fields

    @field_validator("nested", mode="before")
    @classmethod
    def _path_alone(cls, nested: object) -> object:
        return {"path": nested} if isinstance(nested, str) else nested

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if faults := list(self._faults()):
            raise Faults(*faults)
        return self

    def _faults(self) -> Iterator[tuple[Keys, str]]:
        if "source" not in self.sources:
            yield ("sources",), "`source` is missing: what is fetched is a `_source` too"
        if len(set(self.sources)) < len(self.sources):
            yield ("sources",), "names a section twice"
        if self.nested and self.passages:
            yield ("nested",), "excludes `passages`: its objects are the passages"
        if self.nested and not any(self.nested.holds(field.name) for field in self.fields):
            yield ("nested", "path"), f"none of the `fields` lies in it; name one, such as `{self.nested.path}.text`"
        if self.mean_of_top > self.max_passages:
            yield ("mean_of_top",), f"{self.mean_of_top} exceeds the passages of a document ({self.max_passages})"

    @property
    def max_passages(self) -> int:
        """Passages of one document at most."""
        several = self.passages or self.nested
        return several.max_passages if several else 1


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
    on_conflict: Literal["default", "strictest", "refuse"] = Field(
        "default",
        description="Where one search reads indices of several policies: take `default_policy`, take the strictest of "
        "them, or refuse (INVALID_ARGUMENT). Of different statements the last in this order counts.",
    )
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
    order_cache_s: int = Field(
        0, ge=0, le=3600, description="How long later pages follow the order of the first one, in s; 0: each by itself."
    )
    engine_timeout: bool = Field(
        False,
        description="Whether the engine is told when to stop (the body's `timeout`); its answer may then be partial.",
    )
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
        passages = policy.text.max_passages
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
