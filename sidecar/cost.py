"""How long a forward pass will take. Pure: fed with measurements, asked for predictions."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

_SMOOTHING = 0.1
"""Weight of the newest observation in the running correction."""
_LEAST, _MOST = 0.05, 20.0
"""Bounds of the correction."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One forward pass: ``pairs`` rows padded to ``length`` tokens took ``seconds``."""

    pairs: int
    length: int
    seconds: float


@dataclass
class CostModel:
    """Predicts ``overhead_s + token_s * pairs * length + attention_s * pairs * length**2``, times a running correction.

    The defaults are those of no known device and are replaced by :meth:`fit` at warm-up; the correction then follows
    what the device really takes, so that a throttled or shared device is noticed.
    """

    overhead_s: float = 0.002
    token_s: float = 0.0
    attention_s: float = 0.0
    correction: float = field(default=1.0, init=False)

    def predict_s(self, pairs: int, length: int) -> float:
        """Seconds that ``pairs`` rows of ``length`` tokens will take."""
        tokens = pairs * length
        return (self.overhead_s + self.token_s * tokens + self.attention_s * tokens * length) * self.correction

    def observe(self, predicted_s: float, actual_s: float) -> None:
        """Move the correction towards what was seen; one outlier moves it by at most a factor of 1.4 or 0.92."""
        if predicted_s > 0:
            ratio = min(5.0, max(0.2, actual_s / predicted_s))
            self.correction *= 1 + _SMOOTHING * (ratio - 1)
            self.correction = min(_MOST, max(_LEAST, self.correction))

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


def _fit(relative: NDArray[np.float64], chosen: list[int]) -> tuple[float, list[float]]:
    """Squared relative error and all three coefficients, with those that are not ``chosen`` at 0."""
    found = np.zeros(3)
    found[chosen] = np.linalg.lstsq(relative[:, chosen], np.ones(len(relative)), rcond=None)[0]
    return float(np.sum((relative @ found - 1) ** 2)), found.tolist()
