"""The one configuration file as a frozen, typed tree. Each field's description is its documentation everywhere."""

from collections.abc import Iterator
from typing import Annotated, Literal, Self

from pydantic import Discriminator, Field, PrivateAttr, Tag, field_validator, model_validator

from sidecar import model_files
from sidecar.connector_settings import AnyConnector
from sidecar.references import NEAR, dangling_names
from sidecar.server_settings import ServerSettings as ServerSettings
from sidecar.setting_types import BUNDLED as BUNDLED
from sidecar.setting_types import Checkpoint, Faults, IndexPattern, Keys, Language, Section
from sidecar.text_settings import TextSettings


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
        "auto",
        description="`auto`: bfloat16 or float16 on CUDA, bfloat16 on a CPU that is measured to be faster by it, else "
        "float32.",
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
        description="Tokens of query and passage together at most (of each, for a `bi_encoder`); null: as the model "
        "allows, at most 512.",
    )
    label: Literal[0, 1] | None = Field(None, description="For a model with two labels: which one means relevant.")
    threads: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="CPU threads, as many for all models; null: as another one says, else all usable.",
    )
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

    _languages: tuple[str, ...] | None = PrivateAttr(None)

    @property
    def languages(self) -> tuple[str, ...] | None:
        """Languages that the checkpoint's folder named when these settings were made; None: any."""
        return self._languages

    @field_validator("checkpoint")
    @classmethod
    def _says_usable_languages(cls, checkpoint: str) -> str:
        model_files.languages_of(checkpoint)
        return checkpoint

    @model_validator(mode="after")
    def _keeps_its_languages(self) -> Self:
        self._languages = model_files.languages_of(self.checkpoint)
        return self

    @model_validator(mode="after")
    def _of_its_kind(self) -> Self:
        theirs = (("label", self.label), ("backend", self.backend if self.backend != "auto" else None))
        faults = [((key,), "is for a cross_encoder only: remove it") for key, value in theirs if value is not None]
        if self.kind == "bi_encoder" and faults:
            raise Faults(*faults)
        return self


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


class Cosine(Section):
    """A second, cheap opinion: how near a bi-encoder holds query and document, whose vectors are kept."""

    model: str = Field(NEAR, description="Name of a `bi_encoder`, a key of `models`.")
    share: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Share of `fusion.model_weight` that is the cosine's; none while a document of the window has no "
        "cosine.",
    )
    wait: bool = Field(
        True,
        description="Whether a call waits, within its budget, until documents that are new to the bi-encoder are read; "
        "false: they are read when the device is idle, for later calls.",
    )
    order_rest: bool = Field(
        False,
        description="Whether documents that the model has no time for are ordered by cosine and engine (PARTIAL) "
        "instead of keeping the engine's order.",
    )


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

    @model_validator(mode="before")
    @classmethod
    def _of_pattern(cls, match: object) -> object:
        """A pattern by itself is for any connector."""
        return {"index": match} if isinstance(match, str) else match


def _languages_kind(value: object) -> str:
    return "auto" if isinstance(value, str) else "codes"


Languages = Annotated[
    Annotated[Literal["auto"], Tag("auto")] | Annotated[tuple[Language, ...], Tag("codes")],
    Discriminator(_languages_kind),
]


class PolicySettings(Section):
    """How one family of indices is reranked."""

    match: tuple[Match, ...] = Field(
        (),
        description="What the policy is for, each a pattern or `{index: PATTERN, connector: NAME}`; empty: only when "
        "named, or as the default.",
    )
    enabled: bool = Field(True, description="false answers in the engine's order (SKIPPED, POLICY_DISABLED).")
    mode: Literal["on", "off", "shadow", "interleave"] = Field(
        "on",
        description="`off`: as `enabled: false`; `shadow`: the engine's order, and the new one is made afterwards, in "
        "spare time, to count what it would change; `interleave`: both by turns, with whose draw each hit was.",
    )
    percent: float = Field(
        100, ge=0, le=100, description="Share of the keys (`options.key`, else the query) for which it is tried, in %."
    )
    on_conflict: Literal["default", "strictest", "refuse"] = Field(
        "default",
        description="Where one search reads indices of several policies: take `default_policy`, take the strictest of "
        "them, or refuse (INVALID_ARGUMENT). Of different statements the last in this order counts.",
    )
    model: str = Field("default", description="Name of the model, a key of `models`.")
    text: TextSettings = Field(description="Which text the model reads.")
    rank_window_size: int = Field(100, ge=1, le=10_000, description="Hits from the top that are reranked.")
    min_rank_window_size: int | None = Field(
        10,
        ge=1,
        le=10_000,
        description="The window may shrink to this (PARTIAL) before a call that cannot end in time is refused, and so "
        "many hits are an answer when the budget ends; null: never. The default is no more than the window.",
    )
    budget_ms: int = Field(
        300, ge=1, le=600_000, description="Whole time in the sidecar, the engine's search included."
    )
    min_score: float | None = Field(
        None,
        allow_inf_nan=False,
        description="Scored results below this relevance_score, the model's raw score, are left out; null: none.",
    )
    fusion: Fusion = Field(Fusion(), description="How the model's scores and the engine's become one order.")
    cosine: Cosine | None = Field(
        Cosine(),
        description="A cheap opinion beside the model's; null: none. With `fusion.method: replace` there is none.",
    )
    languages: Languages | None = Field(
        "auto",
        json_schema_extra={"allowed": "auto, null, list of codes (en, de, pt ...)"},
        description="Languages that the model is for; a query or texts surely in another one keep the engine's order "
        "(SKIPPED, LANGUAGE). null: any; `auto`: as the checkpoint's folder says (`sidecar.languages` of its "
        "config.json: English for `bundled` and what is made of it), any where it says nothing.",
    )
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
            ("min_rank_window_size", self._smallest_asked, "rank_window_size", self.rank_window_size),
        )
        faults = [
            ((key,), f"{value} exceeds `{bound}` ({most}); allowed: 1..{most}")
            for key, value, bound, most in bounds
            if value > most
        ]
        if faults:
            raise Faults(*faults)
        return self

    @property
    def _smallest_asked(self) -> int:
        """``min_rank_window_size`` if it was set, else 1: its default yields to a smaller window."""
        return (self.min_rank_window_size or 1) if "min_rank_window_size" in self.model_fields_set else 1

    @field_validator("mode", mode="before")
    @classmethod
    def _words_of_yaml(cls, mode: object) -> object:
        """Turn booleans back into `on` and `off`, words that YAML reads as true and false."""
        return ("on" if mode else "off") if isinstance(mode, bool) else mode

    @model_validator(mode="after")
    def _cosine_counts(self) -> Self:
        if self.cosine not in (None, Cosine()) and self.fusion.method == "replace":
            raise Faults((("cosine",), "needs `fusion.method` linear or rrf; with replace the model alone decides"))
        return self

    @property
    def is_on(self) -> bool:
        """Whether the policy's own ``enabled`` and ``mode`` allow reranking; `shadow` counts, too."""
        return self.enabled and self.mode != "off"

    @property
    def second(self) -> Cosine | None:
        """The cosine if it can affect the order, else None."""
        if self.cosine is None or self.fusion.method == "replace":
            return None
        return self.cosine if self.cosine.share or self.cosine.order_rest else None

    @property
    def models(self) -> tuple[str, ...]:
        """Names of the models that the policy uses."""
        return (self.model, self.second.model) if self.second else (self.model,)


class Settings(Section):
    """The whole configuration."""

    enabled: bool = Field(
        True, description="false: all policies leave the engine's order alone, whatever they say themselves."
    )
    server: ServerSettings = Field(ServerSettings(), description="The gRPC server.")
    connectors: dict[str, AnyConnector] = Field(
        {}, description="Search engines by name; none: only plain texts are reranked."
    )
    models: dict[str, ModelSettings] = Field(
        {"default": ModelSettings()},
        min_length=1,
        validate_default=True,
        description="Models by name. `near`, the bundled `bi_encoder`, is there without being written, and loaded "
        "where a policy uses it.",
    )
    policies: dict[str, PolicySettings] = Field(min_length=1, description="Policies by name.")
    default_policy: str | None = Field(
        None, description="Policy of an index that none matches; null: such an index is not reranked."
    )

    @field_validator("models")
    @classmethod
    def _completed(cls, models: dict[str, ModelSettings]) -> dict[str, ModelSettings]:
        """Add :data:`NEAR`, and give all models the one ``threads`` that is set: the last one loaded would win."""
        whole = models if NEAR in models else {**models, NEAR: ModelSettings(kind="bi_encoder")}
        named = {model.threads for model in whole.values()} - {None}
        threads = {"threads": named.pop()} if len(named) == 1 else {}
        return {name: model.model_copy(update=threads) for name, model in whole.items()}

    @property
    def longest_call_s(self) -> float:
        """Upper bound on the time of a call in seconds: the largest budget, budget limit or search timeout."""
        budgets_ms = (max(policy.budget_ms, policy.limits.budget_ms) for policy in self.policies.values())
        searches_ms = (connector.search_timeout_ms for connector in self.connectors.values())
        return max([*budgets_ms, *searches_ms], default=0) / 1e3

    @property
    def loaded_models(self) -> dict[str, ModelSettings]:
        """The models to load: all, except :data:`NEAR` if no policy uses it."""
        used = {name for policy in self.policies.values() for name in policy.models}
        return {name: model for name, model in self.models.items() if name != NEAR or name in used}

    @model_validator(mode="after")
    def _names_exist(self) -> Self:
        named = self.model_dump(include={"server", "connectors", "models", "policies", "default_policy"})
        if faults := dangling_names(named):
            raise Faults(*faults)
        return self

    @model_validator(mode="after")
    def _can_be_kept(self) -> Self:
        if faults := list(_impossible(self)):
            raise Faults(*faults)
        return self


def _impossible(settings: Settings) -> Iterator[tuple[Keys, str]]:
    """Faults between sections: differing threads, models of the wrong kind, impossible budgets and windows."""
    reserve_ms, most = settings.server.reserve_ms, settings.server.max_queued_pairs
    threads = {name: one.threads for name, one in settings.models.items() if one.threads is not None}
    if len(set(threads.values())) > 1:
        for name in threads:
            yield (
                ("models", name, "threads"),
                f"is {threads[name]}: all models of a process have the same number of threads",
            )
    for name, policy in settings.policies.items():
        yield from _wrong_kinds(settings, name, policy)
        if policy.budget_ms <= reserve_ms:
            yield ("policies", name, "budget_ms"), f"is {policy.budget_ms}, and `server.reserve_ms` takes {reserve_ms}"
        passages = policy.text.max_passages
        if policy.rank_window_size * passages > most:
            pairs = f"{policy.rank_window_size} documents of up to {passages} passages"
            yield ("policies", name, "rank_window_size"), f"{pairs} exceed `server.max_queued_pairs` ({most})"


def _wrong_kinds(settings: Settings, name: str, policy: PolicySettings) -> Iterator[tuple[Keys, str]]:
    if settings.models[policy.model].kind != "cross_encoder":
        yield ("policies", name, "model"), f"{policy.model!r} is a bi_encoder; a policy's model is a cross_encoder"
    if policy.second and settings.models[policy.second.model].kind != "bi_encoder":
        keys = ("policies", name, "cosine", "model")
        yield keys, f"{policy.second.model!r} is a cross_encoder; a cosine comes from a model of `kind: bi_encoder`"
