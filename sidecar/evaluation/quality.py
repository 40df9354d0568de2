"""What a model loses and gains in another number type: scores, orders and time compared with the exact model's."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from sidecar.demo import corpus
from sidecar.scoring.base import Pair, Scorer
from sidecar.training.mining import Bm25

Floats = NDArray[np.float32]
_CANDIDATES = 40
_TIMED_PAIRS = 100
_ROUNDS = 3
_TOP = 10


@dataclass(frozen=True, slots=True)
class Query:
    """A query, its candidates' texts by id in BM25's order, and its judgments by id."""

    text: str
    passages: Mapping[str, str]
    judgments: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Quality:
    """One way to run a model, compared with the exact one; figures on orders are means over the queries."""

    largest_difference: float
    """Of raw scores, as is the mean."""
    mean_difference: float
    rank_correlation: float
    """Spearman's, over each query's candidates."""
    top_10_kept: float
    """Share of the exact order's first ten that are still among the first ten."""
    ndcg_at_10: float | None
    """None where ir-measures is not installed."""
    seconds_per_100_pairs: float


def sample() -> list[Query]:
    """Return the demo's judged queries, each with its first :data:`_CANDIDATES` of the demo's documents by BM25."""
    data = corpus.load()
    ids = list(data.documents)
    texts = [f"{one['title']}\n{one['text']}" for one in data.documents.values()]
    index = Bm25(texts)
    found = {name: index.top(query, _CANDIDATES)[0].tolist() for name, query in data.queries.items()}
    return [
        Query(query, {ids[number]: texts[number] for number in found[name]}, data.judgments.get(name, {}))
        for name, query in data.queries.items()
        if found[name]
    ]


def steps(queries: Sequence[Query], scorers: int) -> int:
    """Return how often :func:`compare` will call ``advance``."""
    return scorers * (len(queries) + _ROUNDS)


def compare(
    scorers: Mapping[str, Scorer], queries: Sequence[Query], advance: Callable[[], None] = lambda: None
) -> dict[str, Quality]:
    """Compare each scorer with the first, which is the exact one; by name."""
    scored = {name: _scores(scorer, queries, advance) for name, scorer in scorers.items()}
    exact = next(iter(scored.values()))
    took_s = _seconds(scorers, queries, advance)
    return {name: _quality(exact, scores, queries, took_s[name]) for name, scores in scored.items()}


def _scores(scorer: Scorer, queries: Sequence[Query], advance: Callable[[], None]) -> list[Floats]:
    """Return the scores of each query's candidates, in the candidates' order."""
    scores = []
    for query in queries:
        scores.append(scorer.score(scorer.encode(query.text, list(query.passages.values()))))
        advance()
    return scores


def _seconds(scorers: Mapping[str, Scorer], queries: Sequence[Query], advance: Callable[[], None]) -> dict[str, float]:
    """Return seconds per 100 pairs, the fastest of a few rounds in which the scorers take turns on the same pairs."""
    took_s: dict[str, list[float]] = {name: [] for name in scorers}
    for _ in range(_ROUNDS):
        for name, scorer in scorers.items():
            pairs = list(islice(_spread(scorer, queries), _TIMED_PAIRS))
            started = time.perf_counter()
            scorer.score(pairs)
            took_s[name].append((time.perf_counter() - started) / len(pairs) * _TIMED_PAIRS)
            advance()
    return {name: min(took) for name, took in took_s.items()}


def _spread(scorer: Scorer, queries: Sequence[Query]) -> Iterator[Pair]:
    """Yield the pair of every query's first candidate, then of its second one, and so on."""
    pairs = [scorer.encode(query.text, list(query.passages.values())) for query in queries]
    for rank in range(_CANDIDATES):
        yield from (one[rank] for one in pairs if rank < len(one))


def _quality(exact: Sequence[Floats], scores: Sequence[Floats], queries: Sequence[Query], took_s: float) -> Quality:
    off = np.abs(np.concatenate(exact) - np.concatenate(scores))
    orders = list(zip(exact, scores, strict=True))
    return Quality(
        largest_difference=float(off.max()),
        mean_difference=float(off.mean()),
        rank_correlation=float(np.mean([_correlation(*both) for both in orders])),
        top_10_kept=float(np.mean([len(_top(one) & _top(other)) / len(_top(one)) for one, other in orders])),
        ndcg_at_10=_ndcg(queries, scores),
        seconds_per_100_pairs=took_s,
    )


def _correlation(one: Floats, other: Floats) -> float:
    """Return Spearman's correlation; 1 where there is nothing to order."""
    if len(one) < 2:
        return 1.0
    ranks = [np.argsort(np.argsort(-scores, kind="stable")) for scores in (one, other)]
    return float(np.asarray(np.corrcoef(ranks))[0, 1])


def _top(scores: Floats) -> set[int]:
    return set(np.argsort(-scores, kind="stable")[:_TOP].tolist())


def _ndcg(queries: Sequence[Query], scores: Sequence[Floats]) -> float | None:
    try:
        import ir_measures
    except ImportError:
        return None
    names = [str(number) for number in range(len(queries))]
    judgments = {name: dict(query.judgments) for name, query in zip(names, queries, strict=True)}
    run = {
        name: dict(zip(query.passages, ranked.tolist(), strict=True))
        for name, query, ranked in zip(names, queries, scores, strict=True)
    }
    measure = ir_measures.nDCG @ _TOP
    return float(ir_measures.calc_aggregate([measure], judgments, run)[measure])
