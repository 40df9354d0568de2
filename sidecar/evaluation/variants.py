"""What a sweep compares: variants of one policy, and the settings of a sidecar that serves all of them."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from sidecar.settings import Cosine, PolicySettings, Settings

MODEL_BUDGET_MS = 120_000
"""Budget where quality is measured, so that nothing falls back for lack of time; times are measured separately."""
_SCORE_CACHE_MIB = 256
_SHARE = r"(?::(0(?:\.\d+)?|1(?:\.0+)?))?"
_FUSION = re.compile(rf"(replace|linear|rrf){_SHARE}{_SHARE}")


_IN_THE_WAY = {"tls", "auth", "tracing"}
"""Keys of `server` left out: they would refuse the evaluation's plain calls, or trace them like an app's."""
Cost = tuple[str, int | None, int, bool]
"""Model, tokens of a pair, window, whether there is a cosine: what time depends on; a fusion takes hardly any."""


class VariantError(ValueError):
    """What is to be compared is misspelt, out of range, or not in the configuration."""


@dataclass(frozen=True, slots=True)
class Variant:
    """A policy with these settings; ``max_length`` None: its model's own; ``fusion``: as :func:`fusion_of` reads it."""

    model: str
    max_length: int | None
    window: int
    fusion: str

    @property
    def policy(self) -> str:
        """Name of the variant's policy in the settings that :func:`served` makes."""
        return "/".join(("eval", self.model, str(self.max_length or "all"), str(self.window), self.fusion))


def fusion_of(text: str) -> dict[str, Any]:
    """Return policy settings for a fusion written as METHOD, METHOD:WEIGHT or METHOD:WEIGHT:SHARE: the weight of the
    models, and the share of it that is the cosine's (0: no cosine).

    >>> fusion_of("linear:0.7")
    {'fusion': {'method': 'linear', 'model_weight': 0.7}}
    >>> fusion_of("linear:0.7:0")
    {'fusion': {'method': 'linear', 'model_weight': 0.7}, 'cosine': None}

    Raises:
        VariantError: it is not written so.
    """
    found = _FUSION.fullmatch(text.strip())
    if not found or (found[1] == "replace" and found[2]):
        allowed = "replace, linear:WEIGHT:SHARE, rrf:WEIGHT:SHARE with a weight and a share of 0 to 1"
        raise VariantError(f"{text!r} is not a fusion; allowed: {allowed}")
    fusion = {"method": found[1], **({"model_weight": float(found[2])} if found[2] else {})}
    if found[1] == "replace" or (found[3] and not float(found[3])):
        return {"fusion": fusion, "cosine": None}
    return {"fusion": fusion, **({"cosine": {"share": float(found[3])}} if found[3] else {})}


def _fused(base: dict[str, Any], fusion: str) -> dict[str, Any]:
    """Return the policy with another fusion; settings that this does not name stay."""
    changes = fusion_of(fusion)
    merged = {key: {**(base.get(key) or {}), **change} if change else change for key, change in changes.items()}
    return {**base, **merged}


def sweep(
    settings: Settings,
    policy: str,
    windows: Sequence[int],
    max_lengths: Sequence[int],
    fusions: Sequence[str],
    models: Sequence[str],
) -> list[Variant]:
    """Return every combination of the values, each once; an empty list stands for the policy's own value.

    Raises:
        VariantError: there is no such policy, model or fusion, or a window or length is out of range.
    """
    if policy not in settings.policies:
        raise VariantError(f"policy {policy!r} is not in the configuration; allowed: {', '.join(settings.policies)}")
    chosen = settings.policies[policy]
    if unknown := [model for model in models if model not in settings.models]:
        raise VariantError(f"model {unknown[0]!r} is not in the configuration; allowed: {', '.join(settings.models)}")
    own_fusion: str = chosen.fusion.method
    if own_fusion != "replace":
        own_fusion += f":{chosen.fusion.model_weight:g}:{chosen.cosine.share if chosen.cosine else 0:g}"
    for fusion in fusions:
        fusion_of(fusion)
    most = chosen.limits.rank_window_size
    if wrong := [window for window in windows if not 1 <= window <= most]:
        raise VariantError(f"window {wrong[0]} is out of range; allowed: 1..{most} (`limits.rank_window_size`)")
    if wrong := [length for length in max_lengths if not 16 <= length <= 32_768]:
        raise VariantError(f"{wrong[0]} tokens a pair are out of range; allowed: 16..32768")
    lengths: Sequence[int | None] = max_lengths or [None]
    combined = product(
        models or [chosen.model],
        lengths,
        windows or [chosen.rank_window_size],
        fusions or [own_fusion],
    )
    return [Variant(*one) for one in dict.fromkeys(combined)]


def costs(settings: Settings, policy: str, variants: Sequence[Variant]) -> dict[Variant, Cost]:
    """Return the cost of each variant; variants with equal costs take the same time."""
    base = _dumped(settings, policy)
    policies = [PolicySettings.model_validate(_policy(base, variant, for_quality=False)) for variant in variants]
    return {
        variant: (variant.model, variant.max_length, variant.window, made.second is not None)
        for variant, made in zip(variants, policies, strict=True)
    }


def served(settings: Settings, policy: str, variants: Sequence[Variant], *, for_quality: bool) -> Settings:
    """Return the settings of a sidecar that serves each variant as a policy of its own, on for every call, on a free
    loopback port, in plain text and without authentication.

    For quality every call has :data:`MODEL_BUDGET_MS`, and scores are cached, since variants share most of them; for
    times the budget is the policy's own, and nothing is cached: each document is new, which is the slowest case.
    """
    base = _dumped(settings, policy)
    policies = {variant.policy: _policy(base, variant, for_quality=for_quality) for variant in variants}
    server = {
        **settings.server.model_dump(mode="json", exclude=_IN_THE_WAY),
        "address": "127.0.0.1:0",
        "metrics_address": None,
        "score_cache_mib": _SCORE_CACHE_MIB if for_quality else 0,
    }
    kept = {} if for_quality else {"token_cache_mib": 0, "vector_cache_mib": 0}
    models = {model_name(variant): {**_model(settings, variant), **kept} for variant in variants}
    for name in _second_models(policies.values()):
        models[name] = {**settings.models[name].model_dump(mode="json", exclude_defaults=True), **kept}
    parts = {"server": server, "models": models, "policies": policies, "default_policy": None}
    checked = Settings.model_validate({**parts, "connectors": {}})
    return checked.model_copy(update={"connectors": settings.connectors})  # as they are: a dump would mask secrets


def policy_yaml(settings: Settings, policy: str, variant: Variant, *, enabled: bool) -> dict[str, Any]:
    """Return the parts ``policies`` and ``models`` of a configuration file that make this variant the policy.

    The calls for which the policy is tried (``mode``, ``percent``) stay the same: see :func:`rollout_note`.
    """
    base = _dumped(settings, policy)
    changed = {
        **_fused(base, variant.fusion),
        "enabled": enabled,
        "model": model_name(variant),
        "rank_window_size": variant.window,
    }
    if smallest := base.get("min_rank_window_size"):
        changed["min_rank_window_size"] = min(smallest, variant.window)
    return {"models": {model_name(variant): _model(settings, variant)}, "policies": {policy: changed}}


def rollout_note(settings: Settings, policy: str) -> str:
    """Return a sentence on a policy that is not on for every call, though it is measured so; empty if it is."""
    own = settings.policies[policy]
    rollout = {"mode": own.mode if own.mode != "on" else "", "percent": f"{own.percent:g}" if own.percent < 100 else ""}
    kept = ", ".join(f"`{key}: {value}`" for key, value in rollout.items() if value)
    measured = f"policy {policy!r} is measured as if it were on for every call"
    return f"{measured}; what is recommended keeps its {kept}" if kept else ""


def model_name(variant: Variant) -> str:
    """Return the name of the variant's model: the configuration's own if ``max_length`` is None, else a new one."""
    return variant.model if variant.max_length is None else f"{variant.model}-{variant.max_length}"


def _model(settings: Settings, variant: Variant) -> dict[str, Any]:
    model = settings.models[variant.model].model_dump(mode="json", exclude_defaults=True)
    return {**model, **({"max_length": variant.max_length} if variant.max_length else {})}


def _dumped(settings: Settings, policy: str) -> dict[str, Any]:
    """Return the settings of a policy that differ from the defaults."""
    return settings.policies[policy].model_dump(mode="json", exclude_defaults=True)


def _second_models(policies: Iterable[Mapping[str, Any]]) -> set[str]:
    """Return the names of the models of the policies' cosines."""
    cosines = [Cosine.model_validate(one.get("cosine", {})) for one in policies if one.get("cosine", {}) is not None]
    return {cosine.model for cosine in cosines}


def _policy(base: dict[str, Any], variant: Variant, *, for_quality: bool) -> dict[str, Any]:
    changed = {
        **_fused(base, variant.fusion),
        "match": [],
        "enabled": True,
        "mode": "on",
        "percent": 100,
        "model": model_name(variant),
        "rank_window_size": variant.window,
        "min_rank_window_size": None,
        "order_cache_s": 0,
    }
    if for_quality:
        changed["budget_ms"] = MODEL_BUDGET_MS
        changed["limits"] = {**base.get("limits", {}), "budget_ms": MODEL_BUDGET_MS}
    return changed
