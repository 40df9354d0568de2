"""Says at start what would otherwise be found out by wondering why nothing is reranked. Pure."""

from dataclasses import dataclass

from sidecar.batching import runs
from sidecar.loaded import LoadedModel
from sidecar.settings import Settings

TYPICAL_TOKENS = 128
"""Tokens of a pair that the advice reckons with."""


@dataclass(frozen=True, slots=True)
class TightBudget:
    """A policy whose whole window will not be scored within its budget on this device.

    ``needed_ms`` is predicted for all ``rank_window_size`` pairs, ``fits`` is how many pairs the budget is enough for.
    """

    policy: str
    rank_window_size: int
    budget_ms: int
    needed_ms: int
    fits: int


def tight_budgets(settings: Settings, model: LoadedModel) -> list[TightBudget]:
    """The policies of this model that will often end in OVERLOADED or PARTIAL, even when nobody else calls."""
    found = []
    for name, policy in settings.policies.items():
        if policy.model != model.name or not policy.enabled:
            continue
        window, budget_s = policy.rank_window_size, policy.budget_ms / 1e3
        needed_s = seconds(model, window)
        if needed_s > budget_s:
            fits = next((pairs for pairs in range(window, 0, -1) if seconds(model, pairs) <= budget_s), 0)
            found.append(TightBudget(name, window, policy.budget_ms, round(needed_s * 1e3), fits))
    return found


def seconds(model: LoadedModel, pairs: int) -> float:
    """Predicted device time of that many pairs of typical length."""
    tokens = min(TYPICAL_TOKENS, model.scorer.max_length)
    return sum(model.limits.predict_s(len(run), tokens) for run in runs([tokens] * pairs, model.limits))
