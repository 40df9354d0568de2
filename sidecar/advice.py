"""Finds budgets too small for their windows, and matches without effect, to warn of them. Pure."""

import bisect
from dataclasses import dataclass

from sidecar.batching import runs
from sidecar.loaded import LoadedModel
from sidecar.settings import Settings

TYPICAL_TOKENS = 128
"""Tokens of a pair that the advice assumes."""


@dataclass(frozen=True, slots=True)
class TightBudget:
    """A policy whose whole window will not be scored within its budget on this device.

    ``needed_ms`` is predicted for ``pairs``: all documents of the window, with as many passages as they may have;
    ``fits`` is how many pairs could be scored within the budget if the engine's search took no time.
    """

    policy: str
    pairs: int
    budget_ms: int
    needed_ms: int
    fits: int


def tight_budgets(settings: Settings, model: LoadedModel) -> list[TightBudget]:
    """The policies of this model that will often end in OVERLOADED or PARTIAL, even when nobody else calls."""
    found = []
    for name, policy in settings.policies.items():
        if policy.model != model.name or not policy.is_on:
            continue
        pairs = policy.rank_window_size * policy.text.max_passages
        needed_s = seconds(model, pairs)
        budget_s = (policy.budget_ms - settings.server.reserve_ms) / 1e3
        if needed_s > budget_s:
            fits = bisect.bisect_right(range(pairs), budget_s, key=lambda count: seconds(model, count + 1))
            found.append(TightBudget(name, pairs, policy.budget_ms, round(needed_s * 1e3), fits))
    return found


def without_effect(settings: Settings) -> list[str]:
    """A sentence for each match that never decides, and one if no index has a policy."""
    found, seen = [], dict[tuple[str | None, str], str]()
    for name, policy in settings.policies.items():
        for place, match in enumerate(policy.match):
            first = seen.setdefault((match.connector, match.index), name)
            if first != name:
                found.append(f"policies.{name}.match.{place}: policy {first} has the same match and comes first")
    if not seen and settings.default_policy is None:
        found.append(
            "no policy has a `match` and there is no `default_policy`: only calls that name a policy are reranked"
        )
    return found


def seconds(model: LoadedModel, pairs: int) -> float:
    """Predicted device time of that many pairs of typical length, in as large batches as the limits allow."""
    tokens = min(TYPICAL_TOKENS, model.scorer.max_length)
    largest = next(runs([tokens] * min(pairs, model.limits.max_batch_tokens // tokens + 1), model.limits))
    full, rest = divmod(pairs, len(largest))
    return full * model.limits.predict_s(len(largest), tokens) + (model.limits.predict_s(rest, tokens) if rest else 0)
