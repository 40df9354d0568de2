"""An engine's answer, kept whole: typed views beside the untouched JSON."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from connectors.answer_text import AnswerText
from connectors.errors import MalformedAnswer

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class DocumentRef:
    """Where one stored document is: concrete index, id, and the routing it was indexed with, if any."""

    index: str
    id: str
    routing: str | None = None


class Hit(NamedTuple):
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
    _answer: AnswerText = field(repr=False, compare=False)

    @classmethod
    def read(cls, text: str) -> "Hits":
        """Read a search response as the engine wrote it.

        Raises:
            MalformedAnswer: it is not JSON, there is no ``hits.hits`` list, or a hit has no ``_index`` or a score that
                is no number.
        """
        try:
            answer = AnswerText(text)
        except (ValueError, RecursionError) as error:
            raise MalformedAnswer("the engine's answer is not complete JSON") from error
        raw = answer.value
        if not isinstance(raw, dict):
            raise MalformedAnswer("the engine's answer is JSON, but not an object")
        rows = raw.get("hits")
        if not isinstance(rows, dict):
            raise MalformedAnswer("the engine's answer has no `hits` object")
        if not isinstance(rows.get("hits"), list):
            raise MalformedAnswer("the engine's answer has no `hits.hits` list")
        return cls(raw, tuple(hit_of(row, place) for place, row in enumerate(rows["hits"])), answer)

    @property
    def chars(self) -> int:
        """Length of the whole response as JSON."""
        return len(self._answer.text)

    def with_page(self, places: Sequence[int]) -> str:
        """The response as JSON with the hits at these places, in this order; no character of them is changed."""
        return self._answer.with_hits(places)


def hit_of(row: object, place: int) -> Hit:
    """Read one hit; one without an ``_id`` (``stored_fields: _none_``) has the empty one, and cannot be fetched.

    Raises:
        MalformedAnswer: it has no ``_index``, or an ``_id`` or ``_score`` of another type.
    """
    if not isinstance(row, dict) or not isinstance(row.get("_index"), str):
        raise MalformedAnswer(f"hit {place} of the engine's answer has no `_index`")
    if not isinstance(row.get("_id", ""), str):
        raise MalformedAnswer(f"hit {place} of the engine's answer has an `_id` that is not a text")
    score = row.get("_score")
    if score is not None and (isinstance(score, bool) or not isinstance(score, (int, float))):
        raise MalformedAnswer(f"hit {place} of the engine's answer has a `_score` that is not a number")
    routing = row.get("_routing")
    ref = DocumentRef(row["_index"], row.get("_id", ""), routing if isinstance(routing, str) else None)
    return Hit(ref, None if score is None else _finite(score, place), row)


def _finite(score: float, place: int) -> float:
    try:
        number = float(score)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise MalformedAnswer(f"hit {place} of the engine's answer has a `_score` that is not a finite number")
    return number
