"""From a hit to the passages that the model reads. Pure."""

import re
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

from sidecar.settings import Passages, TextField, TextSettings
from sidecar.types import Candidate

_UNSCORABLE = re.compile(r"[\x00\ud800-\udfff]")
_WORD = re.compile(r"\S+")
MAX_CHARS = 1_000_000
"""Characters of one document that are looked at; far more than any model reads."""
_MAX_DEPTH = 50
"""Levels of lists within lists that are looked into; far more than any engine's mapping allows."""


def clean(text: str) -> str:
    """The text without what no tokenizer takes: NUL and lone surrogates become spaces."""
    return _UNSCORABLE.sub(" ", text)


def has_text(source: Mapping[str, Any] | None, settings: TextSettings) -> bool:
    """Whether a stored document holds at least one of the policy's fields."""
    return source is not None and any(True for field in settings.fields for _ in values(source, field.name))


def passages(candidate: Candidate, source: Mapping[str, Any] | None, settings: TextSettings) -> list[str]:
    """What the model reads of one candidate: its own text if it has one, else the policy's fields of ``source``.

    Empty when there is nothing to read. With ``settings.passages`` a long text becomes several overlapping passages.
    """
    text = candidate.text if candidate.text is not None else assemble(source or {}, settings)
    text = clean(text[:MAX_CHARS]).strip()
    if not text:
        return []
    return split(text, settings.passages) if settings.passages else [text]


def assemble(source: Mapping[str, Any], settings: TextSettings) -> str:
    """The policy's fields in their order, each with its label, all values of each; missing fields leave no trace."""
    parts = (_field_text(source, field, settings.separator) for field in settings.fields)
    return settings.separator.join(part for part in parts if part)


def _field_text(source: Mapping[str, Any], field: TextField, separator: str) -> str:
    text = separator.join(value for value in values(source, field.name) if value)
    return field.label + text[: field.max_chars] if text else ""


def values(source: Any, path: str, depth: int = 0) -> list[str]:
    """All text values under a dotted path, reaching through objects and lists; numbers are written out.

    A key that itself holds dots (``{"a.b": "x"}``) is found too, as the engines allow both spellings.

    >>> values({"author": [{"name": "Ada"}, {"name": "Bob"}]}, "author.name")
    ['Ada', 'Bob']
    """
    if depth > _MAX_DEPTH:
        return []
    if isinstance(source, list):
        return [value for element in source for value in values(element, path, depth + 1)]
    if not path:
        return [_scalar(source)] if isinstance(source, (str, int, float)) and not isinstance(source, bool) else []
    if not isinstance(source, Mapping):
        return []
    if path in source:
        return values(source[path], "", depth + 1)
    found = (key for key in source if path.startswith(f"{key}."))
    return [value for key in found for value in values(source[key], path[len(key) + 1 :], depth + 1)]


def _scalar(value: str | float) -> str:
    return value.strip() if isinstance(value, str) else str(value)


def split(text: str, settings: Passages) -> list[str]:
    """Overlapping runs of ``settings.words`` words from the start of the text; the last one ends with the text.

    >>> split("a b c d e", Passages.model_construct(words=3, stride=2, max_passages=4))
    ['a b c', 'c d e']
    """
    needed = (settings.max_passages - 1) * settings.stride + settings.words
    words = [match.span() for match in islice(_WORD.finditer(text), needed)]
    starts = _starts(len(words), settings)
    ends = (min(start + settings.words, len(words)) for start in starts)
    return [text[words[start][0] : words[end - 1][1]] for start, end in zip(starts, ends, strict=True)]


def _starts(count: int, settings: Passages) -> Sequence[int]:
    if count <= settings.words:
        return range(min(count, 1))
    return range(0, count - settings.words + settings.stride, settings.stride)[: settings.max_passages]
