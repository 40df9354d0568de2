"""Hard negatives through a connector: what the engine ranks high and nobody judged relevant.

A judged set marks few of the documents that answer a query, so the best "negatives" are often answers that nobody
marked. The guard leaves out documents that a bi-encoder finds nearly as near to the query as a judged positive: those
whose cosine is above ``guard`` times that of the nearest positive (positive-aware mining, Moreira et al., 2024, arXiv
2407.15831).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from connectors.base import Connector
from sidecar.scoring.base import Scorer
from sidecar.training.datasets import Collection, positives

TIMEOUT_S = 60.0
_AT_ONCE = 8
_BATCH = 64


@dataclass(frozen=True)
class Mined:
    """One query: ids judged positive, the best grade first, and ids of its hard negatives, the engine's best first.

    Documents judged 0 come before those not judged. ``guarded`` are ids left out as too near to the query, ``same``
    those of documents with a positive's text: neither may serve as negatives.
    """

    query_id: str
    positives: tuple[str, ...]
    negatives: tuple[str, ...]
    guarded: tuple[str, ...] = ()
    same: tuple[str, ...] = ()


@dataclass(frozen=True)
class Engine:
    """Where negatives come from: an index of a connector, and the body that finds a query's best ``depth`` hits."""

    connector: Connector
    index: str
    body: Callable[[str], dict[str, Any]]
    depth: int
    id_field: str = ""

    async def top(self, query: str) -> list[str]:
        """Ids of the best hits, the best first; repeats and hits without an id are left out."""
        hits = await self.connector.search(self.index, {**self.body(query), "size": self.depth}, timeout_s=TIMEOUT_S)
        ids = (str((hit.source or {}).get(self.id_field, "")) if self.id_field else hit.ref.id for hit in hits.hits)
        return [one for one in dict.fromkeys(ids) if one]


async def candidates(
    engine: Engine, queries: Mapping[str, str], advance: Callable[[], None] = lambda: None
) -> dict[str, list[str]]:
    """Ids of the engine's best hits for each query, by the query's id; a few queries run at once.

    Raises:
        ExceptionGroup: of ConnectorError: a search failed.
    """
    turns = asyncio.Semaphore(_AT_ONCE)
    found: dict[str, list[str]] = {}

    async def one(name: str, query: str) -> None:
        async with turns:
            found[name] = await engine.top(query)
        advance()

    async with asyncio.TaskGroup() as group:
        for name, query in queries.items():
            group.create_task(one(name, query))
    return {name: found[name] for name in queries}


def mined(
    collection: Collection,
    found: Mapping[str, Sequence[str]],
    near: Scorer | None,
    guard: float,
    advance: Callable[[], None] = lambda: None,
) -> list[Mined]:
    """Positives and hard negatives of each query that has a positive, in the order of ``found``.

    Hits that are not in the collection are left out, and positives without text. ``near`` is the guard's bi-encoder;
    None: no guard.
    """
    documents, by_text = collection.documents, _by_text(collection)
    made = []
    for query_id, ids in found.items():
        good = [one for one in positives(collection, query_id) if documents[one].full_text]
        advance()
        if not good:
            continue
        same = {other for one in good for other in by_text[documents[one].full_text]}
        judged = collection.qrels[query_id]
        rejected = [one for one, grade in judged.items() if grade == 0 and documents[one].full_text]
        unjudged = [one for one in ids if one not in judged and one in documents and one not in same]
        kept = _guarded(collection, query_id, good, unjudged, near, guard) if near and unjudged else unjudged
        dropped = tuple(one for one in unjudged if one not in set(kept))
        made.append(Mined(query_id, tuple(good), (*rejected, *kept), dropped, tuple(sorted(same - {*good}))))
    return made


def _by_text(collection: Collection) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, document in collection.documents.items():
        found.setdefault(document.full_text, []).append(name)
    return found


def _guarded(
    collection: Collection, query_id: str, good: Sequence[str], ids: Sequence[str], near: Scorer, guard: float
) -> list[str]:
    texts = [collection.documents[one].full_text for one in (*good, *ids)]
    pairs = near.encode(collection.queries[query_id], texts)
    scores: list[float] = []
    for start in range(0, len(pairs), _BATCH):
        scores += near.score(pairs[start : start + _BATCH]).tolist()
    most = guard * max(scores[: len(good)])
    return [one for one, score in zip(ids, scores[len(good) :], strict=True) if score <= most]
