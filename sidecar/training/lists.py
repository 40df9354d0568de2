"""Lists for training: a query, its documents, as many in each list and one of them a judged positive, and labels."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sidecar.training.datasets import Collection
from sidecar.training.hard_negatives import Mined

Teach = Callable[[str, Sequence[str]], Sequence[float]]
"""Maps a query and its documents to a teacher's scores of them."""


@dataclass(frozen=True)
class Lists:
    """Rows for the trainer's data set, all of the same length: ``query``, ``docs`` and ``labels``.

    ``short`` is how many queries were left out because the collection has too few negatives for them.
    """

    rows: list[dict[str, Any]]
    short: int


def lists_of(
    collection: Collection,
    mined: Sequence[Mined],
    negatives: int,
    seed: int,
    teach: Teach | None = None,
    advance: Callable[[], None] = lambda: None,
) -> Lists:
    """One row for each judged positive, with ``negatives`` others: hard ones, then random documents if they are few.

    Labels are the grades, 0 if there is none; with ``teach`` the teacher's scores.
    """
    rng = random.Random(seed)
    everything = [name for name, document in collection.documents.items() if document.full_text]
    rows, short = [], 0
    for one in mined:
        advance()
        known = {*one.positives, *one.negatives, *one.guarded, *one.same}
        spare = rng.sample(everything, min(len(everything), negatives + len(known)))
        others = [*one.negatives, *(name for name in spare if name not in known)]
        if len(others) < negatives:
            short += 1
            continue
        query = collection.queries[one.query_id]
        for good in one.positives:
            names = [good, *_drawn(one.negatives, others, negatives, rng)]
            docs = [collection.documents[name].full_text for name in names]
            judged = collection.qrels[one.query_id]
            labels = [float(judged.get(name, 0)) for name in names] if teach is None else list(teach(query, docs))
            rows.append({"query": query, "docs": docs, "labels": labels})
    rng.shuffle(rows)
    return Lists(rows, short)


def _drawn(hard: Sequence[str], others: Sequence[str], count: int, rng: random.Random) -> list[str]:
    """``count`` of ``others``: hard ones drawn at random, higher-ranked ones likelier, then those behind them."""
    keyed = sorted(range(len(hard)), key=lambda place: rng.random() ** (place + 5), reverse=True)
    chosen = [hard[place] for place in keyed[:count]]
    return [*chosen, *others[len(hard) : len(hard) + count - len(chosen)]]
