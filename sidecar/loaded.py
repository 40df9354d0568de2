"""The configured models: loading, ready, or failed; each with its cost model."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, runtime_checkable

from sidecar.batching import Limits
from sidecar.cost import CostModel
from sidecar.errors import ModelNotReady
from sidecar.metrics import CacheCounts, Metrics
from sidecar.scoring.base import Pair, Scorer
from sidecar.settings import ModelSettings


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A warm model: its scorer, its cost model, and the limits of one forward pass."""

    name: str
    scorer: Scorer
    cost: CostModel
    limits: Limits

    @classmethod
    def of(cls, name: str, scorer: Scorer, cost: CostModel, settings: ModelSettings) -> "LoadedModel":
        """A loaded model with the batch limits of its settings."""
        longest_s, packed = settings.max_batch_ms / 1e3, isinstance(scorer, Packs) and scorer.packed
        limits = Limits(settings.max_batch_tokens, longest_s, cost.predict_s, lambda: cost.spread, packed)
        return cls(name, scorer, cost, limits)

    @cached_property
    def finder(self) -> "Finder | None":
        """The scorer, if it can look up what it has read of passages; else None."""
        return self.scorer if isinstance(self.scorer, Finder) else None

    @cached_property
    def sample(self) -> Pair:
        """A short pair that is valid whatever callers send: a model that cannot score it cannot score any."""
        return self.scorer.encode("a", ["a sample"])[0]


@runtime_checkable
class Packs(Protocol):
    """A scorer that may run its batches without padding."""

    packed: bool


@runtime_checkable
class CachesTokens(Protocol):
    """A scorer that keeps the token ids of passages."""

    token_cache: CacheCounts


@runtime_checkable
class Finder(Protocol):
    """A scorer that can look up what it has read of passages: their token ids, or their vectors."""

    def encode_kept(self, query: str, passages: Sequence[str]) -> list[Pair] | None:
        """As :meth:`sidecar.scoring.base.Scorer.encode`, but quick enough for the event loop.

        None if what it has read of any passage is not kept: no passage is tokenised.
        """
        ...


@runtime_checkable
class CachesVectors(Protocol):
    """A scorer that keeps the vectors of passages."""

    vector_cache: CacheCounts


class Models:
    """The configured models, and which of them can be used now."""

    def __init__(self, names: list[str], metrics: Metrics) -> None:
        self._states: dict[str, LoadedModel | str] = dict.fromkeys(names, "it is still loading")
        self._retired: dict[str, LoadedModel] = {}
        """Models that are no longer configured, but may be used by calls that began before."""
        self._metrics = metrics
        for name in names:
            metrics.begin(name)

    def put(self, model: LoadedModel) -> None:
        """Record that a model is ready."""
        if model.name not in self._states:
            self._metrics.begin(model.name)
        self._states[model.name] = model
        if isinstance(model.scorer, CachesTokens):
            self._metrics.watch_cache("tokens", model.name, model.scorer.token_cache)
        if isinstance(model.scorer, CachesVectors):
            self._metrics.watch_cache("vectors", model.name, model.scorer.vector_cache)
        self._metrics.model_ready.labels(model.name).set(1)

    def fail(self, name: str, why: str) -> None:
        """Record that a model cannot be used; ``why`` is a clause for :class:`ModelNotReady`."""
        self._states[name] = why
        self._metrics.model_ready.labels(name).set(0)

    def drop(self, name: str) -> LoadedModel | None:
        """Remove a model that is no longer configured, and return it if it was ready, else None.

        Calls in progress still get it until :meth:`forget`.
        """
        state = self._states.pop(name, None)
        if isinstance(state, LoadedModel):
            self._retired[name] = state
        self._metrics.end(name)
        return state if isinstance(state, LoadedModel) else None

    def forget(self, name: str, model: LoadedModel | None) -> None:
        """Release a dropped model that no call in progress can use any more; one of its name dropped later stays."""
        if self._retired.get(name) is model:
            self._retired.pop(name, None)

    def get(self, name: str) -> LoadedModel:
        """The model, ready.

        Raises:
            ModelNotReady: it is loading, has failed or is no longer configured; the message says which.
        """
        state = self._states.get(name) or self._retired.get(name) or "it is not configured any more"
        if isinstance(state, str):
            raise ModelNotReady(f"model {name!r} is not ready: {state}")
        return state

    def is_ready(self, name: str) -> bool:
        """Whether the model is loaded and warm."""
        return isinstance(self._states.get(name), LoadedModel)

    def has_failed(self, name: str) -> bool:
        """Whether the model is configured but cannot be used: it has failed, or is still loading."""
        return isinstance(self._states.get(name), str)

    @property
    def all_ready(self) -> bool:
        """Whether every configured model is ready."""
        return all(map(self.is_ready, self._states))
