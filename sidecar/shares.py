"""Shares the device's time among the models. Pure: no clock, no I/O.

While several models have work, each gets the device in proportion to its weight, whatever the others ask for; what one
does not use is the others'. Start-time fair queueing, see Goyal, Vin and Cheng, SIGCOMM 1996.
"""

import math
from collections.abc import Collection, Mapping

_HORIZON_S = 2.0
"""Over how much time, in the main, a model's use of the device is averaged."""
_IN_USE = 0.01
"""A model that has lately used less of the device than this share does not count."""


class Shares:
    """Whose turn it is, and how much of the device each model has lately used. A model without a weight has 1."""

    def __init__(self, weights: Mapping[str, float] | None = None) -> None:
        self._weights = dict(weights or {})
        self._ends: dict[str, float] = {}
        self._now = 0.0
        self._used: dict[str, float] = {}
        self._used_at = 0.0
        self._last_s: dict[str, float] = {}

    def weigh(self, weights: Mapping[str, float]) -> None:
        """Take other weights; what each model has used stays."""
        self._weights = dict(weights)

    def ratio(self, other: str, model: str) -> float:
        """Seconds that ``other`` gets for each second of ``model`` while both have work."""
        return self._weight(other) / self._weight(model)

    def pick(self, waiting: Collection[str]) -> str:
        """The model whose turn it is; of several, the first."""
        return min(waiting, key=self._starts)

    def charge(self, model: str, seconds: float, now: float) -> None:
        """A batch of that many seconds goes to the device."""
        self._now = self._starts(model)
        self._ends[model] = self._now + seconds / self._weight(model)
        self._used = {other: self._lately(other, now) for other in {*self._used, model}}
        self._used[model] += seconds / _HORIZON_S
        self._used_at = now
        self._last_s[model] = seconds

    def left_to(self, model: str, now: float) -> float:
        """Share of the device that the other models leave to this one, going by their recent use: its own at least."""
        used = {other: self._lately(other, now) for other in self._used if other != model}
        own = 1 / (1 + sum(self.ratio(other, model) for other in used if used[other] >= _IN_USE))
        return max(own, 1 - sum(used.values()))

    def turn_s(self, model: str, now: float) -> float:
        """How long the others may keep the device before it is this model's turn: a batch, as large as their last."""
        before = (other for other in self._last_s if other != model and self._starts(other) <= self._starts(model))
        return max((self._last_s[other] for other in before if self._lately(other, now) >= _IN_USE), default=0.0)

    def _lately(self, model: str, now: float) -> float:
        """The share of the last time that a model used; what is longer ago counts for less."""
        return self._used.get(model, 0.0) * math.exp(-max(0.0, now - self._used_at) / _HORIZON_S)

    def _starts(self, model: str) -> float:
        """On the common scale of seconds over weight: a model that had no work is owed nothing for that time."""
        return max(self._now, self._ends.get(model, 0.0))

    def _weight(self, model: str) -> float:
        return self._weights.get(model, 1.0)
