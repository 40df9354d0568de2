"""What a request may override of its policy, and the resulting plan. Pure: no I/O, no clock.

:mod:`sidecar.resolution` decides which policy an index expression gets.
"""

import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
from math import isfinite

from sidecar.errors import InvalidRequest
from sidecar.resolution import configured
from sidecar.rollout import Arm, arm_of
from sidecar.settings import Cosine, Fusion, Limits, ModelSettings, PolicySettings, Settings
from sidecar.text_settings import TextSettings


class InvalidOverride(InvalidRequest):
    """The request overrides a value of its policy with one that is out of bounds."""


@dataclass(frozen=True, slots=True)
class Overrides:
    """Values that a request overrides in its policy; None keeps the policy's value."""

    rank_window_size: int | None = None
    budget_ms: int | None = None
    min_score: float | None = None


AS_CONFIGURED = Overrides()


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that policy and overrides decide about one request.

    ``min_rank_window_size`` None: the window is not shrunk. ``min_score`` None: no hit is dropped. ``languages`` None:
    any. ``version`` is 12 hex digits that change whenever the policy or the settings of its models change.
    """

    policy: str
    model: str
    text: TextSettings
    rank_window_size: int
    min_rank_window_size: int | None
    budget_ms: int
    min_score: float | None
    fusion: Fusion
    cosine: Cosine | None
    limits: Limits
    enabled: bool
    arm: Arm
    tried: bool
    """Whether the policy is on trial: its mode is shadow or interleave, or not all calls get its mode."""
    languages: tuple[str, ...] | None
    order_cache_s: int
    engine_timeout: bool
    version: str
    switched_off: bool = False
    """Whether it is switched off by hand, whatever the configuration says."""

    @property
    def orders_rest(self) -> bool:
        """Whether documents that the model has no time to score are ordered by cosine and engine."""
        return self.cosine is not None and self.cosine.order_rest


def plan(settings: Settings, policy: str, overrides: Overrides = AS_CONFIGURED, key: str = "") -> Plan:
    """The plan of a request under the named policy; ``key`` decides its arm.

    Raises:
        UnknownPolicy, InvalidOverride: there is no such policy, or an override is out of its bounds.
    """
    chosen = configured(settings, policy)
    window = _bounded("rank_window_size", overrides.rank_window_size, chosen)
    smallest = chosen.min_rank_window_size
    return Plan(
        policy=policy,
        model=chosen.model,
        text=chosen.text,
        rank_window_size=window,
        min_rank_window_size=None if smallest is None else min(smallest, window),
        budget_ms=_bounded("budget_ms", overrides.budget_ms, chosen),
        min_score=_finite(overrides.min_score, chosen.min_score),
        fusion=chosen.fusion,
        cosine=chosen.second,
        limits=chosen.limits,
        enabled=settings.enabled and chosen.is_on,
        arm=arm_of(policy, chosen.mode, chosen.percent, key),
        tried=chosen.mode in ("shadow", "interleave") or chosen.percent < 100,
        languages=languages_of(settings, chosen),
        order_cache_s=chosen.order_cache_s,
        engine_timeout=chosen.engine_timeout,
        version=version_of(settings, policy),
    )


class Plans:
    """Makes the plans of a configuration; one without overrides, of a policy not on trial, is made once and shared."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._configured: dict[str, Plan] = {}

    def of(self, policy: str, overrides: Overrides = AS_CONFIGURED, key: str = "") -> Plan:
        """See :func:`plan`."""
        found = self._configured.get(policy) if overrides == AS_CONFIGURED else None
        if found is None:
            found = plan(self._settings, policy, overrides, key)
            if overrides == AS_CONFIGURED and not found.tried:
                self._configured[policy] = found
        return found


def languages_of(settings: Settings, policy: PolicySettings) -> tuple[str, ...] | None:
    """The languages that a policy reranks: its own or, by `auto`, its model's; None: any."""
    if policy.languages != "auto":
        return policy.languages
    return settings.models[policy.model].languages


def _bounded(field: str, asked: int | None, policy: PolicySettings) -> int:
    """The override, or the policy's value if ``asked`` is None.

    Raises:
        InvalidOverride: it is not from 1 to the policy's limit (a NaN never is).
    """
    value: int = getattr(policy, field) if asked is None else asked
    limit: int = getattr(policy.limits, field)
    if not 1 <= value <= limit:
        raise InvalidOverride(f"{field} is {value}; a request may ask for 1..{limit} under this policy")
    return value


def _finite(asked: float | None, configured: float | None) -> float | None:
    if asked is not None and not isfinite(asked):
        raise InvalidOverride(f"min_score is {asked}; it must be a finite number")
    return configured if asked is None else asked


def version_of(settings: Settings, policy: str) -> str:
    """12 hex digits that change whenever a policy or the settings of its models change."""
    chosen = settings.policies[policy]
    return _version(chosen, *(settings.models[name] for name in chosen.models))


@lru_cache(maxsize=1024)
def _version(policy: PolicySettings, *models: ModelSettings) -> str:
    """The first 12 hex digits of SHA-256 over the canonical JSON of a policy and the settings of its models."""
    content = [part.model_dump(mode="json") for part in (policy, *models)]
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:12]
