"""A circuit breaker: what has failed again and again is left alone, and tried once in a while. Pure."""

from dataclasses import dataclass

FAILURES = 5
"""In a row, after which it opens."""
TRY_EVERY_S = 1.0
"""While it is open there is a trial so often, until one goes well."""
OVERDUE_S = 5.0
"""So long a trial waits for a moment when there is nothing else to do."""


@dataclass(slots=True)
class Breaker:
    """Of one thing that may fail; times in seconds of a monotonic clock."""

    failures: int = 0
    _tried_at: float = 0.0

    @property
    def is_open(self) -> bool:
        """Whether it has failed too often in a row."""
        return self.failures >= FAILURES

    @property
    def opens_next(self) -> bool:
        """Whether one more failure opens it."""
        return self.failures == FAILURES - 1

    def is_due(self, now: float, *, idle: bool) -> bool:
        """Whether it is time for a trial; ``idle`` where there is nothing else to do."""
        return self.is_open and now >= self._tried_at + (TRY_EVERY_S if idle else OVERDUE_S)

    def tried(self, now: float) -> None:
        """A trial has begun."""
        self._tried_at = now

    def went_well(self) -> None:
        """Closes it."""
        self.failures = 0

    def failed(self, now: float) -> None:
        """Opens it, if that happens too often in a row."""
        self.failures += 1
        self._tried_at = now
