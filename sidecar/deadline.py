"""An absolute point in monotonic time, passed along as a value."""

import math
import time
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class Deadline:
    """A point on the monotonic clock, in seconds; the same clock as asyncio's ``loop.time()``."""

    at: float

    @classmethod
    def earliest(cls, start: float, *lengths_s: float | None) -> "Deadline":
        """Return ``start`` plus the shortest of the lengths; None is no limit."""
        return cls(start + min((length for length in lengths_s if length is not None), default=math.inf))

    def earlier_by(self, seconds: float) -> "Deadline":
        """Return a deadline that is ``seconds`` earlier."""
        return Deadline(self.at - seconds)

    def remaining_s(self) -> float:
        """Seconds left, never negative."""
        return max(0.0, self.at - time.monotonic())

    @property
    def expired(self) -> bool:
        """Whether the point has passed."""
        return time.monotonic() >= self.at
