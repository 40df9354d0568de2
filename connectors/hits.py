"""An engine's answer, kept whole: typed views beside the untouched JSON."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from connectors.errors import MalformedAnswer

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class DocumentRef:
    """Where one stored document is: concrete index, id, and the routing it was indexed with, if any."""

    index: str
    id: str
    routing: str | None = None


@dataclass(frozen=True, slots=True)
class Hit:
    """One hit. ``raw`` is the engine's own JSON object, never changed; ``score`` is None when the engine gave none."""

    ref: DocumentRef
    score: float | None
    raw: Json

    @property
    def source(self) -> Json | None:
        """The stored document as far as the hit carries it; None when ``_source`` was filtered away or disabled."""
        source = self.raw.get("_source")
        return source if isinstance(source, dict) else None


@dataclass(frozen=True, slots=True)
class Hits:
    """An answer to one search: the whole response and its hits in the engine's order."""

    raw: Json
    hits: tuple[Hit, ...]

    @classmethod
    def parse(cls, raw: object) -> "Hits":
        """Read a search response.

        Raises:
            MalformedAnswer: there is no ``hits.hits`` list, or a hit has no ``_id`` and ``_index`` or a score that is
                no number.
        """
        if not isinstance(raw, dict) or not isinstance(raw.get("hits"), dict):
            raise MalformedAnswer("the engine's answer has no `hits` object")
        rows = raw["hits"].get("hits")
        if not isinstance(rows, list):
            raise MalformedAnswer("the engine's answer has no `hits.hits` list")
        return cls(raw, tuple(_hit(row, place) for place, row in enumerate(rows)))

    def with_page(self, hits: Sequence[Hit]) -> Json:
        """The response with ``hits.hits`` replaced by the given hits; everything else is the engine's own."""
        return {**self.raw, "hits": {**self.raw["hits"], "hits": [hit.raw for hit in hits]}}


def _hit(row: object, place: int) -> Hit:
    if not isinstance(row, Mapping) or not isinstance(row.get("_id"), str) or not isinstance(row.get("_index"), str):
        raise MalformedAnswer(f"hit {place} of the engine's answer has no `_id` and `_index`")
    score = row.get("_score")
    if score is not None and (isinstance(score, bool) or not isinstance(score, (int, float))):
        raise MalformedAnswer(f"hit {place} of the engine's answer has a `_score` that is not a number")
    routing = row.get("_routing")
    ref = DocumentRef(row["_index"], row["_id"], routing if isinstance(routing, str) else None)
    return Hit(ref, None if score is None else _finite(score, place), dict(row))


def _finite(score: float, place: int) -> float:
    try:
        number = float(score)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise MalformedAnswer(f"hit {place} of the engine's answer has a `_score` that is not a finite number")
    return number
