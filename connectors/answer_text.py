"""An engine's answer as text: where each hit stands in it, so that hits are moved without being written anew. Pure.

JSON read and written again is not the same text: 1.0E10 becomes 10000000000.0, and a number beyond a double is lost.
What the engine said of a hit is for the app to read, so it is cut out of the answer and put elsewhere as it is.
"""

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

Span = tuple[int, int]
"""Start and end of a value in the text."""

_read_value = json.JSONDecoder().raw_decode
_blank = re.compile(r"[ \t\n\r]*")
_comma = re.compile(r"[ \t\n\r]*+,[ \t\n\r]*+")
_text_or_comment = re.compile(r'"(?:[^"\\]|\\.)*+"|/\*.*?\*/|//[^\n]*|\ufeff', re.DOTALL)


class AnswerText:
    """A search answer: ``value`` is what it says, ``hits`` where in ``text`` each element of ``hits.hits`` stands.

    Of a key that is there twice the last one counts, as everywhere in Python.

    >>> answer = AnswerText('{"took": 3, "hits": {"total": 1.0E2, "hits": [{"_id": "a"}, {"_id": "b"}]}}')
    >>> answer.with_hits([1, 0])
    '{"took": 3, "hits": {"total": 1.0E2, "hits": [{"_id": "b"},{"_id": "a"}]}}'
    """

    __slots__ = ("_list", "hits", "text", "value")

    def __init__(self, text: str) -> None:
        """Read the text, which may be a little more than JSON: see :func:`strict`.

        Raises:
            ValueError: it is not JSON.
            RecursionError: it is nested too deeply.
        """
        try:
            self._read(text)
        except ValueError:
            plain = strict(text)
            if plain == text:
                raise
            self._read(plain)

    def _read(self, text: str) -> None:
        self.text = text
        self.hits: tuple[Span, ...] = ()
        self._list: Span = (0, 0)
        self.value, end = self._answer(_skip(text, 0))
        if _skip(text, end) != len(text):
            raise ValueError("something follows the answer")

    def with_hits(self, places: Sequence[int]) -> str:
        """The answer with the hits at these places, in this order, instead of all of them."""
        start, end = self._list
        if not start:
            raise ValueError("the answer has no `hits.hits` list")
        if list(places) == list(range(len(self.hits))):
            return self.text
        rows = ",".join(self.text[first:last] for first, last in (self.hits[place] for place in places))
        return f"{self.text[:start]}{rows}{self.text[end:]}"

    def _answer(self, start: int) -> tuple[Any, int]:
        return _object(self.text, start, lambda key: self._found if key == "hits" else _read_value)

    def _found(self, text: str, start: int) -> tuple[Any, int]:
        self.hits, self._list = (), (0, 0)
        return _object(text, start, lambda key: self._rows if key == "hits" else _read_value)

    def _rows(self, text: str, start: int) -> tuple[Any, int]:
        self.hits, self._list = (), (0, 0)
        if text[start : start + 1] != "[":
            return _read_value(text, start)
        rows, spans = [], []
        at = _skip(text, start + 1)
        while text[at : at + 1] != "]":
            row, end = _read_value(text, at)
            rows.append(row)
            spans.append((at, end))
            at = _next(text, end, "]")
        self.hits, self._list = tuple(spans), (start + 1, at)
        return rows, at + 1


def strict(text: str) -> str:
    """JSON without comments and byte order marks, which engines take in a document and give back; blanks instead.

    >>> strict('{"a": "/* kept */" /* gone */}')
    '{"a": "/* kept */"           }'
    """
    return _text_or_comment.sub(lambda found: found[0] if found[0][0] == '"' else " " * len(found[0]), text)


Read = Callable[[str, int], tuple[Any, int]]


def _object(text: str, start: int, reader: Callable[[str], Read]) -> tuple[Any, int]:
    """The object at ``start``, each value read by its key's reader, and where it ends; another value as it is."""
    if text[start : start + 1] != "{":
        return _read_value(text, start)
    found: dict[str, Any] = {}
    at = _skip(text, start + 1)
    while text[at : at + 1] != "}":
        key, colon = _read_value(text, at)
        colon = _skip(text, colon)
        if not isinstance(key, str) or text[colon : colon + 1] != ":":
            raise ValueError(f"no key and colon at {at}")
        found[key], end = reader(key)(text, _skip(text, colon + 1))
        at = _next(text, end, "}")
    return found, at + 1


def _next(text: str, end: int, closing: str) -> int:
    """Where the next element begins, or the closing bracket stands."""
    comma = _comma.match(text, end)
    at = comma.end() if comma else _skip(text, end)
    if (text[at : at + 1] == closing) == bool(comma):
        raise ValueError(f"no comma or {closing} at {at}")
    return at


def _skip(text: str, at: int) -> int:
    """The place after white space."""
    match = _blank.match(text, at)
    return match.end() if match else at
