"""Which of the policy's fields the hits of a search carry, and which the app filtered out. Pure."""

from collections.abc import Iterator, Mapping
from itertools import chain, islice
from typing import Any

from connectors.hits import Json
from sidecar.text_settings import TextSettings
from sidecar.types import Carried
from sidecar.wildcards import matches

_PARAMS = ("_source", "_source_includes", "_source_excludes", "stored_fields")
_HIDING = frozenset({"stored_fields", "script_fields"})
"""Keys of a body that leave ``_source`` out, unless the body asks for it."""
_MOST_PATTERNS = 1000
_MOST_TAGS = 64
"""Limits on what is read of a body, as reading blocks every other call; fields beyond them count as not carried."""
_STYLED_TAGS = (*(f'<em class="hlt{level}">' for level in range(1, 11)), "</em>")


def carries(body: Json, params: Mapping[str, str], settings: TextSettings) -> Carried:
    """Return what the request says of the hits before they arrive.

    Any URL parameter about the source counts as filtering out everything; so do ``stored_fields`` and
    ``script_fields`` in the body, which leave the source out, unless it asks for ``_source`` too.
    """
    names = [field.name for field in settings.fields]
    included, excluded = _kept(body, params)
    whole = (name for name in names if _any_covers(included, name) and not _any_touches(excluded, name))
    asked = (
        [] if "fields" not in settings.sources else list(islice(_field_patterns(body.get("fields")), _MOST_PATTERNS))
    )
    return Carried(
        frozenset(whole),
        frozenset(name for name in names if any(matches(pattern, name) for pattern in asked)),
        tuple(sorted({*Carried.tags, *_first_tags(body.get("highlight"))}, key=len, reverse=True)),
    )


def _kept(body: Json, params: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """Return the patterns of the source's fields that are included, and of those then excluded."""
    source = body.get("_source", _HIDING.isdisjoint(body))
    if any(name in params for name in _PARAMS):
        return [], []
    if not isinstance(source, Mapping):
        return _patterns(source), []
    included = source.get("includes", source.get("include"))
    excluded = source.get("excludes", source.get("exclude"))
    if isinstance(excluded, list) and len(excluded) > _MOST_PATTERNS:
        return [], []
    return (_patterns(included) if included else ["*"]), (_patterns(excluded) if excluded else [])


def _patterns(source: Any) -> list[str]:
    if isinstance(source, bool):
        return ["*"] if source else []
    patterns = source if isinstance(source, list) else [source]
    return [one for one in islice(patterns, _MOST_PATTERNS) if isinstance(one, str)]


def _any_covers(patterns: list[str], field: str) -> bool:
    """Whether a pattern keeps a field: by its whole name, or by an object that contains it."""
    return any(matches(pattern, field) or field.startswith(f"{pattern}.") for pattern in patterns)


def _any_touches(patterns: list[str], field: str) -> bool:
    """Whether a pattern may remove a field, an object that contains it, or a part of it."""
    parts = field.split(".")
    names = [".".join(parts[:count]) for count in range(1, len(parts) + 1)]
    return any(
        "*" in pattern.removesuffix("*") or matches(pattern, name) or pattern.startswith(f"{field}.")
        for pattern in patterns
        for name in names
    )


def _field_patterns(fields: Any) -> Iterator[str]:
    for one in fields if isinstance(fields, list) else [fields]:
        name = one.get("field") if isinstance(one, Mapping) else one
        if isinstance(name, str):
            yield name


def _first_tags(highlight: Any) -> Iterator[str]:
    """The first distinct tags, at most 64, as each is searched for in every fragment of every hit."""
    return islice(dict.fromkeys(islice(_tags(highlight), _MOST_PATTERNS)), _MOST_TAGS)


def _tags(highlight: Any) -> Iterator[str]:
    """Yield the tags with which the app marks matches, for all fields and for single ones."""
    if not isinstance(highlight, Mapping):
        return
    if highlight.get("tags_schema") == "styled":
        yield from _STYLED_TAGS
    fields = highlight.get("fields")
    of_fields = fields if isinstance(fields, list) else [fields]
    options = (one for each in of_fields if isinstance(each, Mapping) for one in each.values())
    for where in chain((highlight,), (one for one in options if isinstance(one, Mapping))):
        for key in ("pre_tags", "post_tags"):
            yield from (tag for tag in _patterns(where.get(key)) if tag)
