"""From scores to an order. Pure and deterministic; ties keep the engine's order."""

import heapq
import math
import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence
from types import MappingProxyType

from sidecar.errors import NonFiniteScore
from sidecar.settings import Fusion
from sidecar.types import Ranked

_SQUARE_ROOT_OF_LARGEST = 1e150
NO_COSINE: Mapping[int, float] = MappingProxyType({})


def best_passages(
    passages: Mapping[int, Sequence[str]], scores: Sequence[float], mean_of_top: int = 1
) -> dict[int, Ranked]:
    """The best passage of each document, by original rank; ``scores`` are those of all passages in order.

    A document's score is the mean of its best ``mean_of_top`` scores, or of all if it has fewer. ``scores`` may end
    early, between two documents; the documents behind that are left out.

    Raises:
        NonFiniteScore: a score is NaN or infinite. One NaN would silently misorder a sort.
    """
    bad = sum(not math.isfinite(score) for score in scores)
    if bad:
        raise NonFiniteScore(f"{bad} of {len(scores)} scores are not finite")
    best: dict[int, Ranked] = {}
    start = 0
    for rank, texts in passages.items():
        own = scores[start : start + len(texts)]
        if len(own) == 1:
            best[rank] = Ranked(rank, own[0], texts[0])
        elif own:
            top = heapq.nlargest(mean_of_top, range(len(own)), key=own.__getitem__)
            best[rank] = Ranked(rank, statistics.fmean(own[place] for place in top), texts[top[0]])
        start += len(texts)
    return best


def order(
    original: Sequence[float | None],
    relevance: Mapping[int, float],
    fusion: Fusion,
    cosine: Mapping[int, float] = NO_COSINE,
    share: float = 0.0,
) -> list[int]:
    """The new order of ``len(original)`` candidates, as their original ranks, best first.

    ``original`` holds the engine's scores, ``relevance`` the model's and ``cosine`` the bi-encoder's by original rank.
    A candidate with neither (no text, pinned, behind a shrunk window) keeps its original place. Those that the model
    scored are reordered among their own places; if each of them has a cosine, it gets ``share`` (0 to 1) of the model's
    weight. Those with only a cosine are reordered among theirs, with the cosine in place of the model's score.
    """
    places = list(range(len(original)))
    scored, rest = sorted(relevance), sorted(cosine.keys() - relevance.keys())
    for ranks in (scored, rest):
        engine = [original[rank] for rank in ranks]
        near = [cosine[rank] for rank in ranks] if counts(cosine, ranks) else None
        model = [relevance[rank] for rank in ranks] if ranks is scored else None
        fused = _fuse(engine, model, near, fusion, share)
        best = sorted(range(len(ranks)), key=lambda place: -fused[place])
        for place, winner in zip(ranks, best, strict=True):
            places[place] = ranks[winner]
    return places


def counts(cosine: Collection[int], ranks: Iterable[int]) -> bool:
    """Whether cosines count among these candidates: only if each has one, so that all are compared by the same."""
    return bool(cosine) and all(rank in cosine for rank in ranks)


def applied(
    original: Sequence[float | None],
    relevance: Mapping[int, float],
    fusion: Fusion,
    cosine: Mapping[int, float] = NO_COSINE,
) -> str:
    """The fusion that :func:`order` uses: as configured, or ``replace`` if the model's score alone decides, as cosines
    do not count and an engine's score is missing or not finite."""
    fused = counts(cosine, relevance) or _can_fuse([original[rank] for rank in relevance])
    return fusion.method if fused else "replace"


def _can_fuse(engine: Sequence[float | None]) -> bool:
    return all(score is not None and math.isfinite(score) for score in engine)


def _fuse(
    engine: Sequence[float | None],
    model: Sequence[float] | None,
    near: Sequence[float] | None,
    fusion: Fusion,
    share: float,
) -> Sequence[float]:
    """Weighted sum of the signals there are; at least one of ``model`` and ``near`` is not None.

    The engine's scores are left out if one is missing or not finite.
    """
    if model is not None and fusion.method == "replace":
        return model
    weight = fusion.model_weight
    parts: list[tuple[float, Sequence[float]]] = []
    if model is not None:
        parts.append((weight if near is None else weight * (1 - share), model))
    if near is not None:
        parts.append((weight if model is None else weight * share, near))
    if _can_fuse(engine):
        by_rank = fusion.method == "rrf"
        own = range(0, -len(engine), -1) if by_rank else [score for score in engine if score is not None]
        parts.append((1 - weight, own))
    if len(parts) == 1:
        return parts[0][1]
    scaled = [[weight * score for score in _scaled(scores, fusion)] for weight, scores in parts]
    return [sum(signals) for signals in zip(*scaled, strict=True)]


def _scaled(scores: Sequence[float], fusion: Fusion) -> list[float]:
    if fusion.method == "rrf":
        return _reciprocal_ranks(scores, fusion.rrf_k)
    return min_max(scores) if fusion.normalize == "min_max" else z_score(scores)


def min_max(scores: Sequence[float]) -> list[float]:
    """Scores shifted and scaled to 0..1; all 0 if they are all equal.

    >>> min_max([2.0, 6.0, 4.0])
    [0.0, 1.0, 0.5]
    """
    scores = _tamed(scores)
    low, high = min(scores, default=0.0), max(scores, default=0.0)
    return [(score - low) / (high - low) if high > low else 0.0 for score in scores]


def z_score(scores: Sequence[float]) -> list[float]:
    """Scores scaled to mean 0 and (population) standard deviation 1; all 0 if they are all equal."""
    scores = _tamed(scores)
    mean = math.fsum(scores) / len(scores) if scores else 0.0
    deviation = math.sqrt(math.fsum((score - mean) ** 2 for score in scores) / len(scores)) if scores else 0.0
    return [(score - mean) / deviation if deviation > 0 else 0.0 for score in scores]


def _tamed(scores: Sequence[float]) -> Sequence[float]:
    """Scores, divided by the largest if that is so large that differences or squares could overflow."""
    largest = max(map(abs, scores), default=0.0)
    return [score / largest for score in scores] if largest > _SQUARE_ROOT_OF_LARGEST else scores


def _reciprocal_ranks(scores: Sequence[float], k: int) -> list[float]:
    """1 / (k + rank), rank from 1 by descending score (Cormack, Clarke and Büttcher, SIGIR 2009)."""
    ranks = sorted(range(len(scores)), key=lambda place: -scores[place])
    reciprocal = [0.0] * len(scores)
    for rank, place in enumerate(ranks, start=1):
        reciprocal[place] = 1.0 / (k + rank)
    return reciprocal


def sigmoid(score: float) -> float:
    """1 / (1 + exp(-score)), without overflow: a monotone map of a raw score to 0..1."""
    return 1 / (1 + math.exp(-score)) if score >= 0 else math.exp(score) / (1 + math.exp(score))
