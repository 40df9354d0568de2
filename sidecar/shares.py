"""Shares the device's time among the models. Pure: no clock, no I/O.

While several models have work, each gets the device in proportion to its weight, whatever the others ask for; time that
one does not use goes to the others. Start-time fair queueing, see Goyal, Vin and Cheng, SIGCOMM 1996.
"""

import math
from collections.abc import Collection, Mapping

_HORIZON_S = 2.0
"""Time constant of the exponential average of a model's use of the device."""
_IN_USE = 0.01
"""A model whose recent share of the device is below this counts as not in use."""


class Shares:
    """Picks the model whose turn it is, and tracks each model's recent use of the device. The default weight is 1."""

    def __init__(self, weights: Mapping[str, float] | None = None) -> None:
        self._weights = dict(weights or {})
        self._ends: dict[str, float] = {}
        self._now = 0.0
        self._used: dict[str, float] = {}
        self._used_at = 0.0
        self._last_s: dict[str, float] = {}

    def weigh(self, weights: Mapping[str, float]) -> None:
        """Replace the weights; the recorded use stays."""
        self._weights = dict(weights)

    def ratio(self, other: str, model: str) -> float:
        """Seconds that ``other`` gets for each second of ``model`` while both have work."""
        return self._weight(other) / self._weight(model)

    def pick(self, waiting: Collection[str]) -> str:
        """The model of ``waiting`` whose turn it is; the first among equals."""
        return min(waiting, key=self._starts)

    def charge(self, model: str, seconds: float, now: float) -> None:
        """Charge a model for a batch of that many predicted seconds."""
        self._now = self._starts(model)
        self._ends[model] = self._now + seconds / self._weight(model)
        self._used = {other: self._lately(other, now) for other in {*self._used, model}}
        self._used[model] += seconds / _HORIZON_S
        self._used_at = now
        self._last_s[model] = seconds

    def left_to(self, model: str, now: float) -> float:
        """Share (0 to 1) of the device left to a model by the others' recent use, but at least its own by weight."""
        used = {other: self._lately(other, now) for other in self._used if other != model}
        own = 1 / (1 + sum(self.ratio(other, model) for other in used if used[other] >= _IN_USE))
        return max(own, 1 - sum(used.values()))

    def turn_s(self, model: str, now: float) -> float:
        """Seconds before a model's turn: the longest last batch of the models in use whose turn comes first."""
        before = (other for other in self._last_s if other != model and self._starts(other) <= self._starts(model))
        return max((self._last_s[other] for other in before if self._lately(other, now) >= _IN_USE), default=0.0)

    def _lately(self, model: str, now: float) -> float:
        """The recent share of the device that a model used; older use decays exponentially."""
        return self._used.get(model, 0.0) * math.exp(-max(0.0, now - self._used_at) / _HORIZON_S)

    def _starts(self, model: str) -> float:
        """Start tag of a model's next batch, in seconds over weight; time without work earns it nothing."""
        return max(self._now, self._ends.get(model, 0.0))

    def _weight(self, model: str) -> float:
        return self._weights.get(model, 1.0)
