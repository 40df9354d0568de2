"""How long a forward pass will take. Pure: fed with measurements, asked for predictions."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

_SMOOTHING = 0.1
"""Weight of the newest observation in the running correction."""


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
            self.correction = min(20.0, max(0.05, self.correction))

    @classmethod
    def fit(cls, measured: Sequence[Measured]) -> "CostModel":
        """The model that fits the measurements best by relative least squares; no coefficient is negative.

        Coefficients that would be negative are dropped one by one, the most negative first.
        """
        rows = np.array([[1.0, m.pairs * m.length, m.pairs * m.length**2] for m in measured])
        seconds = np.array([m.seconds for m in measured])
        active = [0, 1, 2]
        while active:
            solved, *_ = np.linalg.lstsq(rows[:, active] / seconds[:, None], np.ones(len(seconds)), rcond=None)
            if solved.min() >= 0:
                coefficients = dict(zip(active, solved.tolist(), strict=True))
                return cls(*(coefficients.get(column, 0.0) for column in range(3)))
            active.pop(int(solved.argmin()))
        return cls()
