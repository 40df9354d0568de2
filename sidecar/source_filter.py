"""Whether the hits of a search carry all the text that a policy reads, or the app filtered some of it away. Pure."""

from collections.abc import Mapping
from typing import Any

from connectors.hits import Json
from sidecar.policy import matches
from sidecar.settings import TextSettings
from sidecar.types import Carried

_PARAMS = ("_source", "_source_includes", "_source_excludes")


def carries(body: Json, params: Mapping[str, str], settings: TextSettings) -> Carried:
    """WHOLE if the ``_source`` of each hit holds every field that the policy reads and its document has.

    Any URL parameter about the source counts as a filter; so do ``stored_fields``, which leave the source out.
    """
    if any(name in params for name in _PARAMS) or "stored_fields" in body:
        return Carried.FILTERED
    included = _included(body.get("_source", True))
    whole = all(any(_covers(pattern, field.name) for pattern in included) for field in settings.fields)
    return Carried.WHOLE if whole else Carried.FILTERED


def _included(source: Any) -> list[str]:
    """The patterns of what is kept; none when something is excluded, since that is not worth working out."""
    if isinstance(source, Mapping):
        if source.get("excludes") or source.get("exclude"):
            return []
        return _included(source.get("includes", source.get("include", True)))
    if isinstance(source, bool):
        return ["*"] if source else []
    patterns = source if isinstance(source, list) else [source]
    return [one for one in patterns if isinstance(one, str)]


def _covers(pattern: str, field: str) -> bool:
    """Whether a pattern keeps a field: by its whole name, or by an object that it lies in."""
    return matches(pattern, field) or field.startswith(f"{pattern}.")
