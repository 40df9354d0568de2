"""How long a forward pass will take. Pure: fed with measurements, asked for predictions."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

_SMOOTHING = 0.1
"""Weight of the newest observation in the running correction."""
_LEAST, _MOST = 0.05, 20.0
"""Bounds of each correction."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One forward pass: ``pairs`` rows padded to ``length`` tokens took ``seconds``."""

    pairs: int
    length: float
    seconds: float


@dataclass
class CostModel:
    """Predicts ``overhead_s + token_s * pairs * length + attention_s * pairs * length**2``, corrected as it runs.

    The defaults are those of no known device and are replaced by :meth:`fit` at warm-up. Two running corrections, of
    the overhead and of the work, then follow what the device really takes: one that is throttled or shared changes the
    work, a busy process the overhead. Neither can make a larger batch cheaper than a smaller one.
    """

    overhead_s: float = 0.002
    token_s: float = 0.0
    attention_s: float = 0.0
    overhead_correction: float = field(default=1.0, init=False)
    work_correction: float = field(default=1.0, init=False)
    spread: float = field(default=0.1, init=False)
    """Mean distance of an observation from its prediction, as a share of it; lately, and at most 1."""

    def predict_s(self, pairs: int, length: float) -> float:
        """Seconds that ``pairs`` rows of ``length`` tokens will take."""
        tokens = pairs * length
        work_s = (self.token_s + self.attention_s * length) * tokens
        return self.overhead_s * self.overhead_correction + work_s * self.work_correction

    def observe(self, pairs: int, length: float, actual_s: float) -> float:
        """Move the corrections towards what was seen; returns the factor by which the prediction of this shape changed.

        Each moves as far as its part of the prediction is large (a normalised gradient step on the relative error). One
        outlier, such as a process that was stopped for an hour, changes a prediction by a factor of 0.92 to 1.4.
        """
        before_s = self.predict_s(pairs, length)
        if before_s <= 0:
            return 1.0
        ratio = actual_s / before_s
        self.spread += _SMOOTHING * (min(1.0, abs(ratio - 1)) - self.spread)
        overhead = self.overhead_s * self.overhead_correction / before_s
        step = _SMOOTHING * (min(5.0, max(0.2, ratio)) - 1) / (overhead**2 + (1 - overhead) ** 2)
        self.overhead_correction = _bounded(self.overhead_correction * (1 + step * overhead))
        self.work_correction = _bounded(self.work_correction * (1 + step * (1 - overhead)))
        return self.predict_s(pairs, length) / before_s

    @classmethod
    def fit(cls, measured: Sequence[Measured]) -> "CostModel":
        """The model that fits the measurements best by relative least squares; no coefficient is negative.

        That best fit is an ordinary one on some of the three terms, so each choice of terms is tried.
        """
        rows = np.array([[1.0, m.pairs * m.length, m.pairs * m.length**2] for m in measured])
        relative = rows / np.array([[m.seconds] for m in measured])
        choices = [list(chosen) for count in (1, 2, 3) for chosen in combinations(range(3), count)]
        fits = (_fit(relative, chosen) for chosen in choices)
        _, best = min(((error, found) for error, found in fits if min(found) >= 0), key=lambda fit: fit[0])
        return cls(*best)


def _bounded(correction: float) -> float:
    return min(_MOST, max(_LEAST, correction))


def _fit(relative: NDArray[np.float64], chosen: list[int]) -> tuple[float, list[float]]:
    """Squared relative error and all three coefficients, with those that are not ``chosen`` at 0."""
    found = np.zeros(3)
    found[chosen] = np.linalg.lstsq(relative[:, chosen], np.ones(len(relative)), rcond=None)[0]
    return float(np.sum((relative @ found - 1) ** 2)), found.tolist()
