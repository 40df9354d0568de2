"""How good orders are by judgments, and whether one is better than another; uses ir-measures and scipy."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import ir_measures
import numpy as np
from ir_measures import AP, RR, R, nDCG
from scipy import stats

Grades = Mapping[str, Mapping[str, int]]
Orders = Mapping[str, Sequence[str]]
"""Document ids, best first, by query id."""
_RESAMPLES = 9999
_DRAWS_AT_ONCE = 2**20
"""Most values drawn at a time: resampling thousands of queries at once would take gigabytes."""
_TOLERANCE = 1e-9
SIGNIFICANT = 0.05
"""A difference with a smaller p-value is called significant."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One order against another over the same queries, by one measure; a difference above 0 is for the first.

    ``low`` and ``high`` bound the mean difference with 95 % confidence (bootstrap over queries, bias-corrected);
    ``p_value`` is of a paired two-sided randomisation test. All three are None for fewer than two queries.
    """

    difference: float
    wins: int
    losses: int
    ties: int
    low: float | None
    high: float | None
    p_value: float | None

    @property
    def significant(self) -> bool:
        """Whether the p-value is below :data:`SIGNIFICANT`."""
        return self.p_value is not None and self.p_value < SIGNIFICANT


def names(cutoff: int) -> tuple[str, ...]:
    """Return the names of the measures at this cutoff, the one that decides first."""
    return tuple(map(str, _measures(cutoff)))


def by_query(grades: Grades, orders: Orders, cutoff: int) -> dict[str, dict[str, float]]:
    """Return each measure's value for each judged query; a query without results counts 0.

    All are cut off: AP and R count every relevant document, and those behind the cutoff as missed.
    nDCG has linear gain and a logarithmic discount (Järvelin and Kekäläinen, 2002), as in trec_eval.
    """
    judged = {query: dict(found) for query, found in grades.items()}
    run = {query: _scores(orders.get(query, ())) for query in judged}
    values: dict[str, dict[str, float]] = {str(measure): dict.fromkeys(judged, 0.0) for measure in _measures(cutoff)}
    for one in ir_measures.iter_calc(list(_measures(cutoff)), judged, run):
        values[str(one.measure)][one.query_id] = float(one.value)
    return values


def mean(values: Mapping[str, float], queries: Sequence[str] | None = None) -> float:
    """Return the mean over all queries (None), or over some of them."""
    return float(np.mean([values[query] for query in (values if queries is None else queries)]))


def compare(
    ours: Mapping[str, float], theirs: Mapping[str, float], queries: Sequence[str], seed: int = 0
) -> Comparison:
    """Compare the values of one measure under two orders, paired by query; ``seed`` is for the resampling."""
    differences = np.array([ours[query] - theirs[query] for query in queries])
    wins, losses = int((differences > _TOLERANCE).sum()), int((differences < -_TOLERANCE).sum())
    low, high, p_value = _chance(differences, seed)
    return Comparison(float(differences.mean()), wins, losses, len(queries) - wins - losses, low, high, p_value)


def chance_of(count: int, total: int, share: float) -> float:
    """The probability that ``count`` or more of ``total`` draws are hits, each with probability ``share``.

    >>> round(chance_of(1, 50, 0.01), 3)
    0.395
    """
    return float(stats.binom.sf(count - 1, total, share))


def _chance(differences: np.ndarray, seed: int) -> tuple[float | None, float | None, float | None]:
    if len(differences) < 2:
        return None, None, None
    if np.ptp(differences) < _TOLERANCE:  # nothing to resample: all queries differ by the same
        same = float(differences.mean())
        return same, same, 1.0 if abs(same) < _TOLERANCE else 2.0 ** (1 - len(differences))
    batch = max(1, _DRAWS_AT_ONCE // len(differences))
    options = {"n_resamples": _RESAMPLES, "rng": np.random.default_rng(seed), "vectorized": True, "batch": batch}
    test = stats.permutation_test((differences,), np.mean, permutation_type="samples", **options)
    interval = stats.bootstrap((differences,), np.mean, **options).confidence_interval
    return float(interval.low), float(interval.high), float(test.pvalue)


def _measures(cutoff: int) -> tuple[ir_measures.Measure, ...]:
    return nDCG @ cutoff, RR @ cutoff, AP @ cutoff, R @ cutoff


def _scores(order: Sequence[str]) -> dict[str, float]:
    return {document: float(len(order) - rank) for rank, document in enumerate(order)}
