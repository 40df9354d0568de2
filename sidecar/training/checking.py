"""Whether a fine-tuned model is better than the engine's order, on queries that it was not trained on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import ir_measures

from sidecar.ranking import order
from sidecar.scoring.base import Scorer
from sidecar.settings import Fusion
from sidecar.training.datasets import Collection

_BATCH = 32
_CUTOFF = 10


def results(
    collection: Collection,
    found: Mapping[str, Sequence[str]],
    scorer: Scorer,
    advance: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """nDCG@10 of the engine's hits ``found`` (ids by query id) in three orders: ``engine``, ``model`` and ``both``.

    ``engine`` is the order of the hits, ``model`` that of the model's scores alone, ``both`` that of linear fusion with
    a policy's default weight and no cosine, the engine's scores taken to fall evenly.
    """
    runs: dict[str, dict[str, dict[str, float]]] = {"engine": {}, "model": {}, "both": {}}
    for query_id, ids in found.items():
        names = [name for name in ids if name in collection.documents]
        scores = _scores(scorer, collection.queries[query_id], [collection.documents[name].full_text for name in names])
        relevance = dict(enumerate(scores))
        engine = [float(len(names) - place) for place in range(len(names))]
        orders = {
            "engine": list(range(len(names))),
            "model": order(engine, relevance, Fusion(method="replace")),
            "both": order(engine, relevance, Fusion()),
        }
        for system, places in orders.items():
            ranked = {names[place]: float(len(places) - rank) for rank, place in enumerate(places)}
            runs[system][query_id] = ranked or {"": 0.0}
        advance()
    qrels = {query_id: collection.qrels[query_id] for query_id in found}
    measure = ir_measures.nDCG @ _CUTOFF
    return {system: float(ir_measures.calc_aggregate([measure], qrels, run)[measure]) for system, run in runs.items()}


def _scores(scorer: Scorer, query: str, texts: Sequence[str]) -> list[float]:
    pairs = scorer.encode(query, texts)
    scores: list[float] = []
    for start in range(0, len(pairs), _BATCH):
        scores += scorer.score(pairs[start : start + _BATCH]).tolist()
    return scores
