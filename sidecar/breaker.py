"""A circuit breaker: what keeps failing is left alone, except for a trial once in a while. Pure."""

from dataclasses import dataclass

FAILURES = 5
"""Failures in a row after which it opens."""
TRY_EVERY_S = 1.0
"""While it is open, a trial is due so long after the last trial or failure, if there is no other work."""
OVERDUE_S = 5.0
"""As :data:`TRY_EVERY_S`, if there is other work."""


@dataclass(slots=True)
class Breaker:
    """The breaker of one thing that may fail; times are in monotonic seconds."""

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
        """Whether it is open and a trial is due; ``idle``: there is no other work."""
        return self.is_open and now >= self._tried_at + (TRY_EVERY_S if idle else OVERDUE_S)

    def tried(self, now: float) -> None:
        """Note that a trial has begun."""
        self._tried_at = now

    def went_well(self) -> None:
        """Note a success, which closes it."""
        self.failures = 0

    def failed(self, now: float) -> None:
        """Note a failure; :data:`FAILURES` in a row open it."""
        self.failures += 1
        self._tried_at = now
