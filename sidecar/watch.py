"""Watches what reranking does to each policy's replies, and says so when it has become a no-op: in metrics, in the log,
and in ``PolicyService.Status``."""

import time
from collections.abc import Callable, Iterable, Iterator

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from sidecar.effect import Effect, Effects, Summary
from sidecar.logs import log
from sidecar.metrics import Metrics

_LOOK_EVERY_S = 10.0
_AGAIN_AFTER_S = 600.0
"""Interval at which a lasting finding is logged again."""


class Watch(Collector):
    """The effects of all policies."""

    def __init__(self, policies: Iterable[str], metrics: Metrics, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._effects = {policy: Effects() for policy in policies}
        self._looked_at = -_LOOK_EVERY_S
        self._told: dict[str, tuple[tuple[str, ...], float]] = {}
        metrics.registry.register(self)

    def follow(self, policies: Iterable[str]) -> None:
        """Watch these policies from now on; replies already recorded for them are kept."""
        self._effects = {policy: self._effects.get(policy, Effects()) for policy in policies}

    def saw(self, policy: str, effect: Effect) -> None:
        """Record a reply of a policy, and log findings if it is time; unknown policies are ignored."""
        now = self._clock()
        if effects := self._effects.get(policy):
            effects.add(effect, now)
        if now >= self._looked_at + _LOOK_EVERY_S:
            self._looked_at = now
            self._tell(now)

    def summary(self, policy: str) -> Summary:
        """Summarise a policy's recent replies; an unknown policy has none."""
        return self._effects.get(policy, Effects()).summary(self._clock())

    def collect(self) -> Iterator[Metric]:
        """Yield the current shares, for Prometheus."""
        fallbacks = GaugeMetricFamily(
            "sidecar_fallback_ratio", "Share of the last replies in the engine's order.", labels=("policy", "reason")
        )
        ratios = {
            name: GaugeMetricFamily(f"sidecar_{name}", f"{text}, lately.", labels=("policy",))
            for name, text in (
                ("unmoved_ratio", "Share of reranked replies in which no hit changed its place"),
                ("constant_scores_ratio", "Share of reranked replies whose scores are all the same"),
                ("without_text_ratio", "Share of candidates without text in the policy's fields"),
                ("truncated_ratio", "Share of passages that are longer than the model reads"),
                ("rank_displacement", "Mean number of places that a hit moved"),
                ("overlap_at_10", "Share of the engine's first ten hits that are still among them"),
            )
        }
        for policy, effects in self._effects.items():
            seen = effects.summary(self._clock())
            for reason, share in seen.reasons.items():
                fallbacks.add_metric([policy, reason], share)
            if seen.reranked:
                values = (
                    seen.unmoved,
                    seen.constant,
                    seen.without_text,
                    seen.truncated,
                    seen.displacement,
                    seen.overlap,
                )
                for family, value in zip(ratios.values(), values, strict=True):
                    family.add_metric([policy], value)
        yield fallbacks
        yield from ratios.values()

    def _tell(self, now: float) -> None:
        """Log findings when they appear or change, at intervals while they last, and when they are over."""
        for policy, effects in self._effects.items():
            found = tuple(effects.summary(now).findings())
            before, at = self._told.get(policy, ((), -_AGAIN_AFTER_S))
            kinds = tuple(_kind(sentence) for sentence in found)
            if found and (kinds != before or now >= at + _AGAIN_AFTER_S):
                log.warning("reranking_does_little", policy=policy, findings=list(found))
                self._told[policy] = kinds, now
            elif before and not found:
                log.info("reranking_works_again", policy=policy)
                self._told[policy] = (), now


def _kind(sentence: str) -> str:
    """A finding without its figure, which moves all the time."""
    return sentence.split("%", 1)[-1]
