"""From a hit to the passages that the model reads. Pure."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from connectors.hits import Json
from sidecar.field_values import MAX_CHARS, nodes, values
from sidecar.hit_text import objects, sections
from sidecar.markup import text_of
from sidecar.text_settings import HitSection, Nested, Passages, TextField, TextSettings
from sidecar.types import Candidate

_UNSCORABLE = re.compile(r"[\x00\ud800-\udfff]")
_WORD = re.compile(r"\S+")


def clean(text: str) -> str:
    """Return the text with spaces for NUL and lone surrogates, which no tokenizer accepts."""
    return text if text.isascii() and "\x00" not in text else _UNSCORABLE.sub(" ", text)


def lacks_text(candidate: Candidate, settings: TextSettings) -> bool:
    """Whether a hit may lack text of its document, so that the document must be fetched."""
    names = {field.name for field in settings.fields}
    if candidate.text is not None or names <= candidate.carried.whole:
        return False
    found = sections(candidate, candidate.source, settings)
    here = set(_present(found, settings))
    if not candidate.carried.is_known:
        return not here
    for name in names - here - candidate.carried.whole:
        is_nested = settings.nested is not None and settings.nested.holds(name)
        if is_nested or name not in candidate.carried.asked:
            return True
    return not here and not candidate.carried.whole


def _present(found: Mapping[HitSection, Any], settings: TextSettings) -> Iterator[str]:
    """Yield the policy's fields that the sections hold, even as null; nested fields only if inside objects."""
    inside = _names(settings, settings.nested)
    within = objects(found, settings.nested, inside) if settings.nested else []
    for field in settings.fields:
        where: Any = found.values()
        name = field.name
        if settings.nested and name in inside:
            where, name = within, name[len(settings.nested.path) + 1 :]
        if any(True for document in where for _ in nodes(document, name)):
            yield field.name


def passages(candidate: Candidate, stored: Json | None, settings: TextSettings) -> list[str]:
    """Return what the model reads of one candidate: its own text if it has one, else the policy's fields.

    ``stored`` is the hit's own or fetched ``_source``. Empty if there is nothing to read. With ``settings.passages`` a
    long text becomes several overlapping passages; with ``settings.nested`` each object becomes one.
    """
    if candidate.text is not None:
        texts = [candidate.text]
    else:
        texts = _documents(sections(candidate, stored, settings), settings)
    cleaned = [cleaned for text in texts if (cleaned := clean(text[:MAX_CHARS]).strip())]
    return [part for text in cleaned for part in split(text, settings.passages)] if settings.passages else cleaned


def _documents(found: Mapping[HitSection, Any], settings: TextSettings) -> list[str]:
    """Return one text of all fields, or one for each nested object together with the fields outside the objects."""
    if settings.nested and (texts := list(_nested(found, settings.nested, settings))):
        return texts
    return [_joined([_field_text(found.values(), field, settings) for field in settings.fields], settings)]


def _nested(found: Mapping[HitSection, Any], nested: Nested, settings: TextSettings) -> Iterator[str]:
    inside = _names(settings, nested)
    within = objects(found, nested, inside)[: nested.max_passages]
    outside = {
        field: _field_text(found.values(), field, settings) for field in settings.fields if field.name not in inside
    }
    for one in within:
        focus = [{nested.path: one}]
        texts = (
            outside[field] if field in outside else _field_text(focus, field, settings) for field in settings.fields
        )
        yield _joined(texts, settings)


def _names(settings: TextSettings, nested: Nested | None) -> list[str]:
    return [field.name for field in settings.fields if nested.holds(field.name)] if nested else []


def _joined(texts: Iterable[str], settings: TextSettings) -> str:
    """Join the texts of fields in their order, without empty ones."""
    return settings.separator.join([text for text in texts if text])


def _field_text(documents: Iterable[Any], field: TextField, settings: TextSettings) -> str:
    """Return a field's label and all its values from the first document that has text for it, else an empty string."""
    for document in documents:
        if text := _read(document, field, settings.separator):
            return field.label + text
    return ""


def _read(document: Any, field: TextField, separator: str) -> str:
    most = field.max_chars or MAX_CHARS
    parts: list[str] = []
    room = most
    for value in values(document, field.name):
        part = text_of(value) if field.html else value
        parts += [part] if part else []
        room -= len(part)
        if room <= 0:
            break
    return separator.join(parts)[:most]


def split(text: str, settings: Passages) -> list[str]:
    """Return overlapping passages of ``settings.words`` words from the start of the text, at most ``max_passages``.

    They start ``stride`` words apart; the last one ends with the text, unless that would take more passages.

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
