"""What a number type costs is reckoned rightly, and the sample is what it says."""

import sys
from collections.abc import Sequence

import numpy as np
import pytest

from sidecar.evaluation import quality
from sidecar.evaluation.quality import Query
from sidecar.scoring.base import Pair, Scores
from sidecar.scoring.fake import WordOverlapScorer


class Shifted(WordOverlapScorer):
    """Scores by the number of words, off by ``shift`` for the pair with the most."""

    shift = 0.0

    def score(self, pairs: Sequence[Pair]) -> Scores:
        """The pair's tokens."""
        scores = np.array([pair.tokens for pair in pairs], np.float32)
        scores[scores.argmax()] += self.shift
        return scores


QUERIES = [
    Query("q", {str(number): "w " * number for number in range(1, 13)}, {"12": 2}),
    Query("q", {"only": "w"}, {"only": 1}),
]


def test_differences_and_orders_by_hand() -> None:
    exact, other = Shifted(), Shifted()
    other.shift = -100.0
    advanced: list[None] = []
    found = quality.compare({"exact": exact, "other": other}, QUERIES, lambda: advanced.append(None))
    assert len(advanced) == quality.steps(QUERIES, 2)
    assert found["exact"].largest_difference == 0
    assert found["exact"].ndcg_at_10 == 1
    one = found["other"]
    assert one.largest_difference == 100
    assert one.mean_difference == pytest.approx(200 / 13)
    ranks = np.arange(12)
    assert one.rank_correlation == pytest.approx((np.corrcoef(ranks, np.roll(ranks, -1))[0, 1] + 1) / 2)
    assert one.top_10_kept == pytest.approx((0.9 + 1) / 2)
    assert one.ndcg_at_10 == pytest.approx(0.5)
    assert one.seconds_per_100_pairs > 0


def test_without_ir_measures_ndcg_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ir_measures", None)
    assert quality.compare({"exact": Shifted()}, QUERIES)["exact"].ndcg_at_10 is None


def test_the_sample_is_the_demos_judged_queries_with_their_candidates() -> None:
    queries = quality.sample()
    assert len(queries) == 44
    assert all(query.judgments for query in queries)
    assert {len(query.passages) <= 40 for query in queries} == {True}
    assert sum(len(query.passages) for query in queries) > 1300
