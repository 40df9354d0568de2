"""A circuit breaker: what has failed again and again is left alone, and tried once in a while. Pure."""

from dataclasses import dataclass

FAILURES = 5
"""In a row, after which it opens."""
TRY_EVERY_S = 1.0
"""Half-open: one attempt in this time, until one goes well."""


@dataclass(slots=True)
class Breaker:
    """Of one thing that may fail; times in seconds of a monotonic clock."""

    failures: int = 0
    _tried_at: float = 0.0

    @property
    def is_open(self) -> bool:
        """Whether it has failed too often in a row."""
        return self.failures >= FAILURES

    def would_allow(self, now: float) -> bool:
        """Whether an attempt would be allowed now."""
        return not self.is_open or now >= self._tried_at + TRY_EVERY_S

    def allows(self, now: float) -> bool:
        """Whether to try now; an attempt that is allowed while it is open is the only one for a while."""
        if not self.would_allow(now):
            return False
        if self.is_open:
            self._tried_at = now
        return True

    def went_well(self) -> None:
        """Closes it."""
        self.failures = 0

    def failed(self, now: float) -> None:
        """Opens it, if that happens too often in a row."""
        self.failures += 1
        self._tried_at = now
