"""The order of one call's candidates, from the scores of engine, model and bi-encoder. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from sidecar import ranking
from sidecar.cosines import Cosines
from sidecar.errors import NonFiniteScore
from sidecar.pair_scores import PairScores
from sidecar.policy import Plan
from sidecar.types import Outcome, Ranked, Ranking, Reason

_REST = "; the others are in the order of cosine and engine"


def ranking_of(
    original: Sequence[float | None],
    plan: Plan,
    passages: Mapping[int, Sequence[str]],
    scored: PairScores,
    cosines: Cosines,
    model_version: str,
) -> Ranking:
    """The new order. ``original`` holds the engine's scores of all candidates, ``passages`` is by original rank.

    Raises:
        NonFiniteScore: a score of the model is not finite.
        Fallback: the model was too late (the error is ``scored.late``), and there is no cosine either.
    """
    best = ranking.best_passages(passages, scored.scores, plan.text.mean_of_top)
    near = _near(passages, cosines, plan, best)
    if not best and not near and scored.late:
        raise scored.late
    relevance = {rank: place.relevance_score for rank, place in best.items() if place.relevance_score is not None}
    cosine = {rank: place.cosine for rank, place in near.items() if place.cosine is not None}
    share = plan.cosine.share if plan.cosine else 0.0
    places = {**near, **(_beside(best, cosine) if cosine else best)}
    order = ranking.order(original, relevance, plan.fusion, cosine, share)
    ranked = Ranking(
        [places.get(rank, Ranked(rank)) for rank in order],
        Outcome.RERANKED,
        fusion=ranking.applied(original, relevance, plan.fusion, cosine),
        model_version=model_version if best else "",
        cosine_version=cosines.version if cosine else "",
    )
    return ranked if len(best) == len(passages) else _partial(ranked, scored, len(near.keys() - best.keys()))


def _near(
    passages: Mapping[int, Sequence[str]], cosines: Cosines, plan: Plan, scored: Mapping[int, Ranked]
) -> dict[int, Ranked]:
    """The cosines that count, by original rank, each with its passage; none if one is not finite.

    Those of scored candidates count if each of these has one, those of others if the plan orders the rest.
    """
    known = {rank: passages[rank] for rank in passages if rank in cosines.passages}
    flat = [cosine for rank in known for cosine in cosines.passages[rank]]
    try:
        best = ranking.best_passages(known, flat, plan.text.mean_of_top)
    except NonFiniteScore:
        return {}
    beside = ranking.counts(best, scored)
    return {
        rank: Ranked(rank, None, place.passage, place.relevance_score)
        for rank, place in best.items()
        if (beside if rank in scored else plan.orders_rest)
    }


def _beside(best: Mapping[int, Ranked], cosine: Mapping[int, float]) -> dict[int, Ranked]:
    return {rank: Ranked(rank, place.relevance_score, place.passage, cosine.get(rank)) for rank, place in best.items()}


def _partial(ranked: Ranking, scored: PairScores, rest: int) -> Ranking:
    """The ranking as PARTIAL, with its reason: the model scored only some candidates, or none."""
    if scored.late and not scored.groups:
        detail = f"{scored.late}: no candidate was scored, and {rest} are in the order of cosine and engine"
        return replace(ranked, outcome=Outcome.PARTIAL, reason=scored.late.reason, detail=detail)
    partial = ranked.partial(scored.groups, scored.late.reason if scored.late else Reason.OVERLOADED)
    return replace(partial, detail=partial.detail + _REST) if rest else partial
