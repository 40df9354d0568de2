"""Pools: for every training query the passages it can be grouped with, mined once and kept on disk."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from rich.progress import track

from sidecar.training.datasets import Collection, positives
from sidecar.training.mining import Bm25, FloatArray, IntArray, guard
from sidecar.training.pseudo import (
    PseudoQuery,
    cloze_query,
    contrasts,
    document_frequency,
    keyword_query,
    title_query,
)

Embed = Callable[[Sequence[str], str], FloatArray]
DEPTH = 40


@dataclass(frozen=True)
class Pool:
    """One query with its positives and guarded negatives (document numbers), and each one's teacher logit.

    `trusted` is False for contrast queries, whose teacher, blind to "without", must be ignored. `passage`, if given,
    replaces the positive's text.
    """

    query: str
    positives: IntArray
    negatives: IntArray
    positive_teacher: FloatArray
    negative_teacher: FloatArray
    passage: str | None = None
    titles: bool = True
    trusted: bool = True
    answers: tuple[str, ...] = ()


@dataclass(frozen=True)
class PooledSet:
    """The documents of one set, their texts as scored (title, body), and its pools."""

    name: str
    titles: list[str]
    bodies: list[str]
    facts: list[str]
    pools: list[Pool] = field(default_factory=list)


@dataclass(frozen=True)
class Recipe:
    """How much to take from one set, and how the guard treats it.

    `labelled`, `title`, `cloze` and `keyword` are the most queries of each kind, `contrast` the most pairs of contrast
    queries. `slack` is how far a negative's cosine may lie above the lowest positive's before it counts as a positive
    that nobody marked.
    """

    labelled: int = 2000
    title: int = 0
    cloze: int = 300
    keyword: int = 300
    contrast: int = 0
    slack: float = 0.1


def teacher_logit(cosine: FloatArray, bm25: FloatArray, best_bm25: float) -> FloatArray:
    """16 cos + 3 bm25 / best: the cosine near its own training temperature (20), with a little of BM25."""
    return np.asarray(16 * cosine + 3 * bm25 / max(best_bm25, 1e-6), dtype=np.float32)


def build_set(collection: Collection, recipe: Recipe, embed: Embed, seed: int) -> PooledSet:
    """Mine all pools of `collection`; the same seed gives the same pools."""
    rng = random.Random(f"{seed}/{collection.name}")
    documents = list(collection.documents.values())
    texts = [document.full_text for document in documents]
    pooled = PooledSet(
        collection.name,
        [document.title for document in documents],
        [document.text for document in documents],
        [_facts(document.extra) for document in documents],
    )
    miner = _Miner(texts, embed, collection.name)
    pooled.pools.extend(miner.labelled(collection, recipe, rng))
    pooled.pools.extend(miner.pseudo(_pseudo_queries(pooled, texts, recipe, rng)))
    pooled.pools.extend(miner.contrasts(texts, recipe.contrast, rng))
    return pooled


class _Miner:
    def __init__(self, texts: list[str], embed: Embed, name: str) -> None:
        self._bm25 = Bm25(texts)
        self._texts = texts
        self._vectors = embed(texts, f"{name}: documents")
        self._embed = embed
        self._name = name
        self._by_text: dict[str, set[int]] = {}
        for number, text in enumerate(texts):
            self._by_text.setdefault(text, set()).add(number)

    def labelled(self, collection: Collection, recipe: Recipe, rng: random.Random) -> list[Pool]:
        numbers = {doc_id: number for number, doc_id in enumerate(collection.documents)}
        judged = sorted(query_id for query_id in collection.qrels if positives(collection, query_id))
        chosen = rng.sample(judged, min(recipe.labelled, len(judged)))
        vectors = self._embed([collection.queries[query_id] for query_id in chosen], f"{self._name}: queries")
        pools = []
        for query_id, vector in zip(track(chosen, f"{self._name}: mining"), vectors, strict=True):
            good = np.asarray([numbers[doc_id] for doc_id in positives(collection, query_id)])
            rejected = [numbers[doc_id] for doc_id, grade in collection.qrels[query_id].items() if grade == 0]
            pool = self._pool(collection.queries[query_id], vector, good, recipe.slack, np.asarray(rejected, np.int64))
            pools.append(replace(pool, answers=collection.answers.get(query_id, ())))
        return pools

    def pseudo(self, queries: list[PseudoQuery]) -> list[Pool]:
        vectors = self._embed([query.text for query in queries], f"{self._name}: pseudo-queries")
        pools = []
        for query, vector in zip(queries, vectors, strict=True):
            pool = self._pool(query.text, vector, np.asarray([query.source]), 0.0, np.asarray([], np.int64))
            pools.append(replace(pool, passage=query.passage, titles=query.titles))
        return pools

    def contrasts(self, texts: list[str], count: int, rng: random.Random) -> list[Pool]:
        pools = []
        for contrast in contrasts(texts, count, rng):
            good, bad = np.asarray(contrast.positives), np.asarray(contrast.negatives)
            flat = np.zeros(max(len(good), len(bad)), dtype=np.float32)
            pools.append(Pool(contrast.text, good, bad, flat[: len(good)], flat[: len(bad)], trusted=False))
        return pools

    def _pool(self, query: str, vector: FloatArray, good: IntArray, slack: float, rejected: IntArray) -> Pool:
        scores = self._bm25.scores(query)
        best = np.argsort(-scores, kind="stable")[:DEPTH]
        cosine = self._vectors @ vector
        limit = float(cosine[good].min()) + slack
        repeats = set().union(*(self._by_text[self._texts[number]] for number in good.tolist()))
        if len(rejected):
            bad = np.asarray([number for number in rejected.tolist() if number not in repeats], np.int64)
        else:
            bad = guard(best, cosine[best], set(good.tolist()), limit, repeats)
        top = float(scores[best[0]])
        return Pool(
            query,
            good,
            bad,
            teacher_logit(cosine[good], scores[good], top),
            teacher_logit(cosine[bad], scores[bad], top),
        )


def _pseudo_queries(pooled: PooledSet, texts: list[str], recipe: Recipe, rng: random.Random) -> list[PseudoQuery]:
    size = len(texts)
    frequency = document_frequency(texts)
    makers: list[tuple[int, Callable[[int], PseudoQuery | None]]] = [
        (recipe.title, lambda number: title_query(number, pooled.titles[number], pooled.bodies[number])),
        (recipe.cloze, lambda number: cloze_query(number, pooled.bodies[number], rng)),
        (recipe.keyword, lambda number: keyword_query(number, texts[number], frequency, size, rng)),
    ]
    found: list[PseudoQuery] = []
    for wanted, make in makers:
        made = (make(number) for number in rng.sample(range(size), min(size, 2 * wanted)))
        found += [query for query in made if query is not None][:wanted]
    return found


def _facts(extra: dict[str, object]) -> str:
    """Searchable facts beside a film's text: director, first actors, genres, year; empty for other sets."""
    actors = extra.get("actors")
    genres = extra.get("genres")
    if not isinstance(actors, list) or not isinstance(genres, list):
        return ""
    return f"{extra.get('year', '')} {', '.join(genres)}. {extra.get('director', '')}. {', '.join(actors[:5])}."
