"""An engine's answer as text, with the position of each hit, so that hits are moved without re-encoding. Pure.

JSON decoded and encoded again is not the same text: 1.0E10 becomes 10000000000.0, and a number beyond a double is lost.
The app is to read hits as the engine wrote them, so their text is moved unchanged.
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
    """A search answer: ``value`` is the decoded ``text``, ``hits`` the span of each element of ``hits.hits`` in it.

    Of a duplicate key the last one counts, as in Python's ``json``.

    >>> answer = AnswerText('{"took": 3, "hits": {"total": 1.0E2, "hits": [{"_id": "a"}, {"_id": "b"}]}}')
    >>> answer.with_hits([1, 0])
    '{"took": 3, "hits": {"total": 1.0E2, "hits": [{"_id": "b"},{"_id": "a"}]}}'
    """

    __slots__ = ("_list", "hits", "text", "value")

    def __init__(self, text: str) -> None:
        """Decode the text; comments and byte order marks, which JSON forbids, are accepted, see :func:`strict`.

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
        """Return the text with only the hits at these places, in this order.

        Raises:
            ValueError: the answer has no ``hits.hits`` list.
        """
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
    """Replace comments and byte order marks, which engines accept in documents and return, by blanks.

    >>> strict('{"a": "/* kept */" /* gone */}')
    '{"a": "/* kept */"           }'
    """
    return _text_or_comment.sub(lambda found: found[0] if found[0][0] == '"' else " " * len(found[0]), text)


Read = Callable[[str, int], tuple[Any, int]]


def _object(text: str, start: int, reader: Callable[[str], Read]) -> tuple[Any, int]:
    """Decode the object at ``start``, each value by its key's reader, or any other value; return it and its end."""
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
    """Return the position of the next element or of the closing bracket."""
    comma = _comma.match(text, end)
    at = comma.end() if comma else _skip(text, end)
    if (text[at : at + 1] == closing) == bool(comma):
        raise ValueError(f"no comma or {closing} at {at}")
    return at


def _skip(text: str, at: int) -> int:
    """Return the position after white space."""
    match = _blank.match(text, at)
    return match.end() if match else at
