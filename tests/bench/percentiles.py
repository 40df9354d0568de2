"""Summaries of measured times. Pure."""

from collections.abc import Sequence

LEAST_FOR_P999 = 1000
"""With fewer values the 99.9th percentile would be the largest one, and is not given."""


def percentile(values: Sequence[float], percent: float) -> float | None:
    """The smallest value that at least ``percent`` % of the values do not exceed (nearest rank); None without any.

    >>> percentile([3.0, 1.0, 2.0], 50)
    2.0
    """
    if not values:
        return None
    ordered = sorted(values)
    return ordered[max(0, min(len(ordered) - 1, -int(-percent * len(ordered) // 100) - 1))]


def latencies(values: Sequence[float]) -> dict[str, float | None]:
    """p50, p95, p99 and p99.9 in the unit of the values, here ms."""
    row = {f"p{percent}_ms": _rounded(percentile(values, percent)) for percent in (50, 95, 99)}
    row["p99.9_ms"] = _rounded(percentile(values, 99.9)) if len(values) >= LEAST_FOR_P999 else None
    return row


def median_and_tail(values: Sequence[float]) -> dict[str, float | None]:
    """p50 and p99 in the unit of the values, here ms; None without any."""
    return {f"p{percent}_ms": _rounded(percentile(values, percent)) for percent in (50, 99)}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)
