"""What a sweep found: how good and how fast each variant is, and which one to take. Pure."""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sidecar.evaluation import measures
from sidecar.evaluation.asking import Answer
from sidecar.evaluation.judgments import Judgments
from sidecar.evaluation.measures import Comparison
from sidecar.evaluation.variants import Variant

ENOUGH_TO_HOLD_OUT = 20
"""With fewer queries all are used to choose a variant, and none are held out to confirm the choice."""
_AS_GOOD = 0.002
"""Of variants whose means differ by no more, the fastest is taken."""
MOST_LATE = 0.01
"""Largest share of late calls with which a variant fits its budget, as far as the timed calls can tell."""


@dataclass(frozen=True)
class Split:
    """Ids of the queries that choose a variant, and of those that confirm the choice; the same if there are few."""

    tuning: Sequence[str]
    held_out: Sequence[str]

    @property
    def is_split(self) -> bool:
        """Whether the choice is confirmed by queries that had no part in it."""
        return self.tuning is not self.held_out

    @classmethod
    def of(cls, queries: Sequence[str], share: float, seed: int) -> "Split":
        """Draw ``share`` of the queries for tuning by ``seed``; the rest confirms. Too few queries do both."""
        if len(queries) < ENOUGH_TO_HOLD_OUT:
            return cls(queries, queries)
        drawn = random.Random(seed).sample(list(queries), len(queries))  # noqa: S311 - no secret
        count = min(max(1, round(share * len(drawn))), len(drawn) - 1)
        return cls(sorted(drawn[:count]), sorted(drawn[count:]))


@dataclass(frozen=True)
class Times:
    """Times of calls made one after the other; ``reasons`` counts the late ones by reason.

    A call skipped for another reason, such as its language, is not late: no budget would change it.
    """

    calls: int
    p50_ms: float
    p99_ms: float
    engine_p50_ms: float
    reasons: Mapping[str, int]

    @classmethod
    def of(cls, answers: Sequence[Answer]) -> "Times":
        """Summarise the times of some calls, at least one."""
        took, engine = [one.took_ms for one in answers], [one.engine_ms for one in answers]
        reasons = Counter(one.reason for one in answers if one.late)
        p50, p99 = np.percentile(took, [50, 99]).tolist()
        return cls(len(answers), p50, p99, float(np.percentile(engine, 50)), dict(reasons))

    @property
    def late(self) -> int:
        """Calls that came too late."""
        return sum(self.reasons.values())

    @property
    def late_share(self) -> float:
        """Share of the calls that came too late."""
        return self.late / self.calls

    @property
    def fits(self) -> bool:
        """Whether so many late calls may be chance if 1 % of all calls are late.

        The share alone would refuse a variant for one late call of 50, which happens by chance in 4 of 10 such
        samples. It is refused only where chance is rarer than 1 in 20: from 3 of 50 on, 2 of 20, 1 of 5.
        """
        return self.late == 0 or measures.chance_of(self.late, self.calls, MOST_LATE) >= measures.SIGNIFICANT

    @property
    def doubtful(self) -> bool:
        """Whether the share of late calls is too large, but too few were timed to tell that from chance."""
        return self.fits and self.late_share > MOST_LATE


@dataclass(frozen=True)
class Measured:
    """One variant: its answers by query, its measures by query, and its times."""

    variant: Variant
    answers: Mapping[str, Answer]
    values: Mapping[str, Mapping[str, float]]
    times: Times

    @property
    def fell_back(self) -> list[str]:
        """Queries whose order is not entirely the model's, though ``values`` count it as if it were."""
        return [query for query, answer in self.answers.items() if answer.fell_back]


@dataclass(frozen=True)
class Study:
    """All variants over the same queries; ``engine`` are the measures of the engine's own order, by query."""

    judgments: Judgments
    cutoff: int
    split: Split
    engine: Mapping[str, Mapping[str, float]]
    measured: Sequence[Measured]
    seed: int

    @classmethod
    def of(
        cls,
        judgments: Judgments,
        cutoff: int,
        split: Split,
        asked: Sequence[tuple[Variant, Mapping[str, Answer], Times]],
        seed: int,
    ) -> "Study":
        """Measure what was answered; the engine's order is taken from the first variant's answers."""
        _, first, _ = asked[0]
        originals = {query: answer.original for query, answer in first.items()}
        engine = measures.by_query(judgments.grades, originals, cutoff)
        found = [
            Measured(variant, answers, measures.by_query(judgments.grades, _finals(answers), cutoff), times)
            for variant, answers, times in asked
        ]
        return cls(judgments, cutoff, split, engine, found, seed)

    @property
    def measure(self) -> str:
        """Name of the measure that decides."""
        return measures.names(self.cutoff)[0]

    def against_engine(self, one: Measured, queries: Sequence[str] | None = None) -> Comparison:
        """Compare a variant with the engine's order, by the measure that decides; ``queries`` None: all."""
        chosen = list(self.judgments.queries) if queries is None else queries
        return measures.compare(one.values[self.measure], self.engine[self.measure], chosen, self.seed)

    def hurt_most(self, one: Measured, count: int) -> list[str]:
        """Return at most ``count`` queries that lost most against the engine's order, the worst first."""
        ours, theirs = one.values[self.measure], self.engine[self.measure]
        losses = {query: theirs[query] - ours[query] for query in ours if ours[query] < theirs[query]}
        return sorted(losses, key=lambda query: -losses[query])[:count]


@dataclass(frozen=True)
class Advice:
    """The variant to take, whether it fits the budget, and what the held-out queries say of it."""

    chosen: Measured
    fits: bool
    confirmed: Comparison

    @property
    def measured(self) -> bool:
        """Whether any answer is the model's: with a policy that is off, or texts in another language, none is."""
        return len(self.chosen.fell_back) < len(self.chosen.answers)

    @property
    def verdict(self) -> str:
        """`helps`, `may help`, `makes no difference`, `does not help` or `was not measured`."""
        if not self.measured:
            return "was not measured"
        if self.confirmed.wins == self.confirmed.losses == 0:
            return "makes no difference"
        if self.confirmed.difference <= 0:
            return "does not help"
        return "helps" if self.confirmed.significant else "may help"

    @property
    def worth_it(self) -> bool:
        """Whether to switch the policy on: it fits the budget, and helps or may help."""
        return self.fits and self.verdict in ("helps", "may help")


def advise(study: Study) -> Advice:
    """Choose the best variant on the tuning queries of those that fit the budget (of all, if none does); of those about
    as good, the fastest."""
    fitting = [one for one in study.measured if one.times.fits]
    means = {id(one): measures.mean(one.values[study.measure], study.split.tuning) for one in study.measured}
    candidates = fitting or list(study.measured)
    best = max(means[id(one)] for one in candidates)
    near = [one for one in candidates if means[id(one)] >= best - _AS_GOOD]
    chosen = min(near, key=lambda one: one.times.p50_ms)
    return Advice(chosen, bool(fitting), study.against_engine(chosen, study.split.held_out))


def frontier(study: Study) -> list[Measured]:
    """Return the variants that no other one beats in both quality and median time, fastest first."""
    kept: list[Measured] = []
    for one in sorted(study.measured, key=lambda one: (one.times.p50_ms, -_mean(study, one))):
        if not kept or _mean(study, one) > _mean(study, kept[-1]):
            kept.append(one)
    return kept


def row(study: Study, one: Measured) -> dict[str, Any]:
    """Return all figures of a variant, over all queries."""
    compared = study.against_engine(one)
    return {
        "model": one.variant.model,
        "max_length": one.variant.max_length,
        "window": one.variant.window,
        "fusion": one.variant.fusion,
        **{measure: measures.mean(values) for measure, values in one.values.items()},
        "difference": compared.difference,
        "interval_95": [compared.low, compared.high],
        "p_value": compared.p_value,
        "wins": compared.wins,
        "losses": compared.losses,
        "ties": compared.ties,
        "fell_back": len(one.fell_back),
        "p50_ms": one.times.p50_ms,
        "p99_ms": one.times.p99_ms,
        "timed_calls": one.times.calls,
        "late_percent": 100 * one.times.late_share,
        "late_reasons": dict(one.times.reasons),
    }


def _mean(study: Study, one: Measured) -> float:
    return measures.mean(one.values[study.measure])


def _finals(answers: Mapping[str, Answer]) -> dict[str, Sequence[str]]:
    return {query: answer.final for query, answer in answers.items()}
