"""Where the time of one call goes."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from sidecar.metrics import Metrics
from sidecar.tracing import spans
from sidecar.types import Timings


class Stopwatch:
    """Times the stages of one call, for its reply and for the histogram of all calls."""

    def __init__(self, received_at: float, metrics: Metrics) -> None:
        self._received_at = received_at
        self._metrics = metrics
        self.timings = Timings()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a block, also one that raises; ``name`` is a field of :class:`Timings` without its unit."""
        started = time.monotonic()
        try:
            with spans().stage(name):
                yield
        finally:
            self.record(name, (time.monotonic() - started) * 1e3)

    def ended(self, name: str, milliseconds: float, ago_ms: float = 0.0) -> None:
        """Add to a stage what was measured elsewhere, and was over ``ago_ms`` ago."""
        self.record(name, milliseconds)
        spans().ended(name, milliseconds / 1e3, ago_ms / 1e3)

    def record(self, name: str, milliseconds: float) -> None:
        """Add to a stage what was measured elsewhere, without saying when."""
        setattr(self.timings, f"{name}_ms", getattr(self.timings, f"{name}_ms") + milliseconds)
        self._metrics.stage_seconds.labels(name).observe(milliseconds / 1e3)

    def so_far(self) -> Timings:
        """A copy of the timings, with the total up to now."""
        return replace(self.timings, total_ms=(time.monotonic() - self._received_at) * 1e3)

    def stop(self) -> Timings:
        """The final timings; the total enters the histogram."""
        self.timings = self.so_far()
        self._metrics.stage_seconds.labels("total").observe(self.timings.total_ms / 1e3)
        return self.timings
