"""Measures where the time of one call goes."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from sidecar.metrics import Metrics
from sidecar.tracing import spans
from sidecar.types import Timings


class Stopwatch:
    """Times the stages of one call, for its reply, its trace and the histogram of all calls."""

    def __init__(self, received_at: float, metrics: Metrics) -> None:
        self._received_at = received_at
        self._metrics = metrics
        self.timings = Timings()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a block, even if it raises; ``name`` is a field of :class:`Timings` without its ``_ms``."""
        started = time.monotonic()
        try:
            with spans().stage(name):
                yield
        finally:
            self.record(name, (time.monotonic() - started) * 1e3)

    def ended(self, name: str, milliseconds: float, ago_ms: float = 0.0) -> None:
        """Add to a stage a time measured elsewhere, which ended ``ago_ms`` milliseconds ago."""
        self.record(name, milliseconds)
        spans().ended(name, milliseconds / 1e3, ago_ms / 1e3)

    def record(self, name: str, milliseconds: float) -> None:
        """Add to a stage a time measured elsewhere, without a span in the trace."""
        setattr(self.timings, f"{name}_ms", getattr(self.timings, f"{name}_ms") + milliseconds)
        self._metrics.stage_seconds.labels(name).observe(milliseconds / 1e3)

    def so_far(self) -> Timings:
        """A copy of the timings, with the total since the call was received."""
        return replace(self.timings, total_ms=(time.monotonic() - self._received_at) * 1e3)

    def stop(self) -> Timings:
        """Return the final timings, and add the total to the histogram."""
        self.timings = self.so_far()
        self._metrics.stage_seconds.labels("total").observe(self.timings.total_ms / 1e3)
        return self.timings
