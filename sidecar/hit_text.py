"""The sections of a hit, each as a document from which fields can be read. Pure; accepts hits of any shape."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from connectors.hits import Json
from sidecar.field_values import MAX_VALUES, nodes, values
from sidecar.text_settings import HitSection, Nested, TextSettings
from sidecar.types import Candidate


def sections(candidate: Candidate, stored: Json | None, settings: TextSettings) -> dict[HitSection, Any]:
    """Return the sections that the policy reads, in its order; ``stored`` is the hit's own or fetched ``_source``."""
    hit = candidate.hit or {}
    read: dict[HitSection, Any] = {}
    for place in settings.sources:
        if place == "source":
            read[place] = stored or {}
        elif place == "fields":
            read[place] = [hit.get("fields"), hit.get("ignored_field_values")]
        elif place == "highlight":
            read[place] = _without_tags(hit.get("highlight"), candidate.carried.tags)
        else:
            read[place] = [{path: found} for path, found in _inner_objects(hit, stored)]
    return read


def objects(found: Mapping[HitSection, Any], nested: Nested, names: Sequence[str]) -> list[Mapping[str, Any]]:
    """Return the objects with any of the nested fields ``names``, from the first section that has some.

    If the policy reads ``inner_hits``, the objects that the engine found to match, that section is tried first.
    """
    inside = [name[len(nested.path) + 1 :] for name in names]
    for place in sorted(found, key=lambda place: place != "inner_hits"):
        there = [node for node in islice(nodes(found[place], nested.path), MAX_VALUES) if isinstance(node, Mapping)]
        if there := [node for node in there if any(True for name in inside for _ in values(node, name))]:
            return there
    return []


def _without_tags(highlight: Any, tags: tuple[str, ...]) -> Json:
    if not isinstance(highlight, Mapping):
        return {}
    return {name: [_without(part, tags) for part in _listed(fragments)] for name, fragments in highlight.items()}


def _without(fragment: Any, tags: tuple[str, ...]) -> Any:
    for tag in tags if isinstance(fragment, str) else ():
        fragment = fragment.replace(tag, "")
    return fragment


def _inner_objects(hit: Json, stored: Json | None) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield path and content of each nested object in the inner hits; hits of ``collapse`` or a join are skipped."""
    blocks = hit.get("inner_hits")
    for block in blocks.values() if isinstance(blocks, Mapping) else ():
        rows = block.get("hits") if isinstance(block, Mapping) else None
        for row in _listed(rows.get("hits") if isinstance(rows, Mapping) else None):
            where = list(_steps(row.get("_nested"))) if isinstance(row, Mapping) else []
            path = ".".join(field for field, _ in where)
            if where and (found := _content(row, path) or _object_at(stored, where)):
                yield path, found


def _steps(nested: Any) -> Iterator[tuple[str, int]]:
    """Yield field and offset of each level that leads to a nested object."""
    while isinstance(nested, Mapping):
        field, offset = nested.get("field"), nested.get("offset")
        if not isinstance(field, str) or not isinstance(offset, int):
            return
        yield field, offset
        nested = nested.get("_nested")


def _content(row: Mapping[str, Any], path: str) -> Json:
    """Return what an inner hit holds of its object, by names relative to ``path``."""
    source, fields = row.get("_source"), row.get("fields")
    content: Json = dict(source) if isinstance(source, Mapping) else {}
    for name, there in fields.items() if isinstance(fields, Mapping) else ():
        if name == path:
            for one in _listed(there):
                content = {**(one if isinstance(one, Mapping) else {}), **content}
        elif name.startswith(f"{path}."):
            content.setdefault(name[len(path) + 1 :], there)
    return content


def _object_at(stored: Any, where: list[tuple[str, int]]) -> Mapping[str, Any] | None:
    for field, offset in where:
        there = list(nodes(stored, field))
        stored = there[offset] if 0 <= offset < len(there) else None
    return stored if isinstance(stored, Mapping) else None


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
