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
    """One hit. ``raw`` is the engine's own JSON object, never to be changed; ``score`` is None if it gave none."""

    ref: DocumentRef
    score: float | None
    raw: Json

    @property
    def source(self) -> Json | None:
        """What the hit holds of the stored document; None if ``_source`` was filtered out or is disabled."""
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
            MalformedAnswer: it is not a JSON object, there is no ``hits.hits`` list, or a hit is malformed, see
                :func:`hit_of`.
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
        """Length of the whole response as JSON, in characters."""
        return len(self._answer.text)

    def with_page(self, places: Sequence[int]) -> str:
        """Return the response as JSON with only the hits at these places, in this order, as the engine wrote them."""
        return self._answer.with_hits(places)


def hit_of(row: object, place: int) -> Hit:
    """Read one hit; without an ``_id`` (``stored_fields: _none_``) its id is empty, and it cannot be fetched.

    Raises:
        MalformedAnswer: it has no ``_index``, an ``_id`` that is not a string, or a ``_score`` that is not a finite
            number or null.
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
