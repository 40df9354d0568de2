"""What a request may change of its policy, and the plan that comes of it. Pure: no I/O, no clock.

Which policy an index expression gets is told by :mod:`sidecar.resolution`.
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
    """The request changes a value of its policy to one that is out of bounds."""


@dataclass(frozen=True, slots=True)
class Overrides:
    """What a request asks to be different from its policy; None leaves the policy's value."""

    rank_window_size: int | None = None
    budget_ms: int | None = None
    min_score: float | None = None


AS_CONFIGURED = Overrides()


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything decided about one request before the first byte is read from the engine.

    `version` is 12 hex digits that change whenever the policy or the settings of its models change.
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
    """Whether calls differ in their arms, or are not in the new order alone."""
    languages: tuple[str, ...] | None
    order_cache_s: int
    engine_timeout: bool
    version: str
    switched_off: bool = False
    """By hand, whatever the configuration says."""

    @property
    def orders_rest(self) -> bool:
        """Whether what the model has no time for is ordered all the same."""
        return self.cosine is not None and self.cosine.order_rest


def plan(settings: Settings, policy: str, overrides: Overrides = AS_CONFIGURED, key: str = "") -> Plan:
    """The plan of a request under the named policy, whose arm ``key`` decides.

    Raises:
        UnknownPolicy, InvalidOverride: there is no such policy, or the request asks for more than it allows.
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
    """The plans of a configuration. Most calls ask for nothing else than what is configured: that one is made once."""

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
    """The languages that a policy's model is for; None is any."""
    if policy.languages != "auto":
        return policy.languages
    return settings.models[policy.model].languages


def _bounded(field: str, asked: int | None, policy: PolicySettings) -> int:
    """The policy's value, or the one asked for if it is within 1 and the policy's limit (a NaN never is)."""
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
    """Of SHA-256 over the canonical JSON of a policy and the settings of its models."""
    content = [part.model_dump(mode="json") for part in (policy, *models)]
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:12]
