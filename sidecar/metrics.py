"""Prometheus metrics; never labelled by query, document id or a string that a client chose."""

from collections.abc import Iterator
from functools import partial
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

_STAGE_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 5.0)
_TOKEN_BUCKETS = tuple(2**power for power in range(6, 21))
_RATIO_BUCKETS = (0.25, 0.5, 0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 4.0)
_PLACES = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
_SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


class CacheCounts(Protocol):
    """Counts that a cache keeps; they are read only when metrics are scraped, so that exporting costs calls nothing."""

    hits: int
    misses: int

    @property
    def size_bytes(self) -> int:
        """Memory in use, in bytes."""
        ...


class CacheCollector(Collector):
    """Exports the counts of all caches: tokens and vectors by model, scores for all models together."""

    def __init__(self) -> None:
        self._caches: dict[tuple[str, str], CacheCounts] = {}

    def watch(self, cache: str, model: str, counts: CacheCounts) -> None:
        """Export a cache's counts from now on; it replaces one under the same names."""
        self._caches[cache, model] = counts

    def forget(self, model: str) -> None:
        """Stop exporting a model's caches; an empty name changes nothing."""
        self._caches = {names: counts for names, counts in self._caches.items() if names[1] != model or not model}

    def collect(self) -> Iterator[Metric]:
        """Yield the current metrics."""
        lookups = CounterMetricFamily(
            "sidecar_cache_lookups",
            "Passages (tokens, vectors) and pairs (scores) looked up.",
            labels=("cache", "model", "outcome"),
        )
        sizes = GaugeMetricFamily("sidecar_cache_bytes", "Memory that a cache takes.", labels=("cache", "model"))
        for names, counts in list(self._caches.items()):
            lookups.add_metric([*names, "hit"], counts.hits)
            lookups.add_metric([*names, "miss"], counts.misses)
            sizes.add_metric(names, counts.size_bytes)
        yield lookups
        yield sizes


class Metrics:
    """All metrics of one sidecar, on a registry of their own so that tests can run several."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        counter, gauge, histogram = (
            partial(Counter, registry=self.registry),
            partial(Gauge, registry=self.registry),
            partial(Histogram, registry=self.registry),
        )
        self.requests = counter(
            "sidecar_requests",
            "Calls answered, by policy, outcome and reason (or gRPC status).",
            ("method", "policy", "outcome", "reason"),
        )
        self.stage_seconds = histogram(
            "sidecar_stage_seconds", "Time a call spent in each stage.", ("stage",), buckets=_STAGE_BUCKETS_S
        )
        self.budget_used = histogram(
            "sidecar_budget_used_ratio",
            "Time of a call over its budget; calls that are left alone do not count.",
            ("policy",),
            buckets=_RATIO_BUCKETS,
        )
        self.constant_scores = counter(
            "sidecar_constant_scores", "Reranked replies whose scores are all the same.", ("policy",)
        )
        self.batch_tokens = histogram(
            "sidecar_batch_tokens", "Tokens of a forward pass, padding counted.", ("model",), buckets=_TOKEN_BUCKETS
        )
        self.forward_ratio = histogram(
            "sidecar_forward_actual_to_predicted",
            "Time of a forward pass over its prediction.",
            ("model",),
            buckets=_RATIO_BUCKETS,
        )
        self.job_ratio = histogram(
            "sidecar_job_actual_to_predicted",
            "Time of a scored job in queue and device over its prediction at admission.",
            ("model",),
            buckets=_RATIO_BUCKETS,
        )
        self.device_seconds = counter(
            "sidecar_device_seconds", "Time of a model's passes that gave scores.", ("model",)
        )
        self.wasted_device_seconds = counter(
            "sidecar_wasted_device_seconds",
            "Device time whose scores nobody got: of jobs that ended late or were abandoned, and of failed passes.",
            ("model",),
        )
        self.failed_passes = counter("sidecar_failed_passes", "Forward passes that gave no scores.", ("model",))
        self.queue_pairs = gauge("sidecar_queue_pairs", "Pairs that wait for the device.")
        self.shed_pairs = counter(
            "sidecar_shed_pairs",
            "Pairs that never reached the device: refused, displaced by another caller's, late, abandoned.",
            ("reason",),
        )
        self.connector_requests = counter(
            "sidecar_connector_requests", "Calls to search engines.", ("connector", "engine", "operation", "outcome")
        )
        self.connector_open = gauge(
            "sidecar_connector_open",
            "1 while an engine gives no answer, so that calls are refused at once.",
            ("connector",),
        )
        self.unread_bytes = gauge("sidecar_unread_bytes", "Memory of answers that their callers have not read yet.")
        self.device_lost = gauge(
            "sidecar_device_lost", "1 once the device is gone for this process, which only a restart mends."
        )
        self.model_ready = gauge("sidecar_model_ready", "1 when a model is loaded and warm, else 0.", ("model",))
        policy, ends = ("policy",), ("policy", "end")
        self.shadows = counter("sidecar_shadow_calls", "Calls ranked in the shadow, dropped, or failed.", ends)
        self.shadow_displacement = histogram(
            "sidecar_shadow_displacement", "Places that a hit would have moved.", policy, buckets=_PLACES
        )
        self.shadow_overlap = histogram(
            "sidecar_shadow_overlap_at_10", "Share of the first ten that would have stayed.", policy, buckets=_SHARES
        )
        self.reloads = counter(
            "sidecar_configuration_reloads", "Changed configurations, taken over or refused.", ("outcome",)
        )
        self.configuration_current = gauge(
            "sidecar_configuration_current", "1 while the file's last change is served, 0 when it was refused."
        )
        self.configuration_current.set(1)
        self.switched_off = gauge("sidecar_switched_off", "1 while an admin has switched a policy off.", policy)
        self.files_current = gauge(
            "sidecar_file_current",
            "1 while the last change of keys, certificates or lists of revoked ones is served, 0 when it was refused.",
            ("file",),
        )
        self.file_changes = counter(
            "sidecar_file_changes", "Changes of these files that were taken over or refused.", ("file", "outcome")
        )
        self.under_way = gauge("sidecar_calls_under_way", "Calls served now, of `max_concurrent_calls` at most.")
        self.received = counter(
            "sidecar_received", "Calls that came, also those whose callers left at once.", ("method",)
        )
        self._caches = CacheCollector()
        self.registry.register(self._caches)

    def watch_cache(self, cache: str, model: str, counts: CacheCounts) -> None:
        """Export the counts of a model's ``tokens`` or ``vectors``, or of all ``scores``, with an empty ``model``."""
        self._caches.watch(cache, model, counts)

    def configured(self, *, ok: bool) -> None:
        """Record that a changed configuration was applied, or refused."""
        self.reloads.labels("applied" if ok else "refused").inc()
        self.configuration_current.set(int(ok))

    def file_served(self, file: str) -> None:
        """Record the first read of a file of keys, certificates or revoked ones; ``file`` is its label."""
        self.files_current.labels(file).set(1)
        for outcome in ("applied", "refused"):
            self.file_changes.labels(file, outcome)

    def file_changed(self, file: str, *, ok: bool) -> None:
        """Record that a change of such a file was applied, or refused."""
        self.file_changes.labels(file, "applied" if ok else "refused").inc()
        self.files_current.labels(file).set(int(ok))

    def begin(self, model: str) -> None:
        """Export a model's counters from the start: without them a rate would be missing instead of 0."""
        self.model_ready.labels(model).set(0)
        self.device_seconds.labels(model)
        self.wasted_device_seconds.labels(model)
        self.failed_passes.labels(model)

    def end(self, model: str) -> None:
        """Stop exporting the readiness and the caches of a model that is no longer configured."""
        self.model_ready.remove(model)
        self._caches.forget(model)

    def observe_reply(self, policy: str, budget_used: float, *, constant: bool) -> None:
        """Record a reply that was to be reranked: its time as a share of its budget, and whether all scores were equal.

        ``policy`` is a configured name.
        """
        self.budget_used.labels(policy).observe(budget_used)
        self.constant_scores.labels(policy).inc(constant)  # also by 0: a rate needs the counter to exist before

    def observe_forward(self, model: str, tokens: float, predicted_s: float, actual_s: float) -> None:
        """Record one forward pass that gave scores; ``tokens`` count its padding."""
        self.device_seconds.labels(model).inc(actual_s)
        self.batch_tokens.labels(model).observe(tokens)
        if predicted_s > 0:
            self.forward_ratio.labels(model).observe(actual_s / predicted_s)

    def observe_job(self, model: str, predicted_s: float, actual_s: float) -> None:
        """Record a scored job: the predicted and the actual time from its admission to its end."""
        if predicted_s > 0:
            self.job_ratio.labels(model).observe(actual_s / predicted_s)

    def observe_waste(self, model: str, seconds: float) -> None:
        """Record device time whose scores nobody gets."""
        if seconds > 0:
            self.wasted_device_seconds.labels(model).inc(seconds)
