"""The part of the engines' query language that the memory connector supports. Pure, no I/O."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from connectors.hits import Json

MAX_RESULT_WINDOW = 10_000
DEFAULT_SIZE = 10
DEFAULT_TOTAL_LIMIT = 10_000
BODY_KEYS = ("query", "from", "size", "_source", "sort", "track_total_hits")
URL_PARAMETERS = ("preference", "request_cache", "routing")
NOTHING = object()
SORTS_BY_SCORE = ("_score", {"_score": "desc"}, {"_score": {"order": "desc"}})


class Refused(ValueError):
    """The search asks for something unsupported; ``error_type`` is an engine's name for that, ``reason`` a sentence."""

    def __init__(self, error_type: str, reason: str) -> None:
        super().__init__(reason)
        self.error_type = error_type
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Clause:
    """Which documents match: by ``words`` in ``fields`` (name and boost; empty: all fields), or by id, or all."""

    words: str | None = None
    fields: tuple[tuple[str, float], ...] = ()
    ids: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class SourceFilter:
    """Which part of a document is returned; ``shown`` false: nothing, ``includes`` empty: all but ``excludes``."""

    includes: tuple[str, ...] = ()
    excludes: tuple[str, ...] = ()
    shown: bool = True

    def cut(self, document: Json) -> Json:
        """Return the part of the document that passes; the document itself if nothing is filtered."""
        if not self.includes and not self.excludes:
            return document
        kept = self._cut(document, "", inside=not self.includes)
        return {} if kept is NOTHING else kept

    def _cut(self, value: Any, path: str, *, inside: bool) -> Any:
        """Return what is left of a value, or ``NOTHING``; ``inside`` says that the value around it is included."""
        if path and _matches(path, self.excludes):
            return NOTHING
        inside = inside or (path != "" and _matches(path, self.includes))
        kept: Any
        if isinstance(value, dict):
            parts = (
                (key, self._cut(part, f"{path}.{key}" if path else key, inside=inside)) for key, part in value.items()
            )
            kept = {key: part for key, part in parts if part is not NOTHING}
        elif isinstance(value, list):
            rows = (self._cut(row, path, inside=inside) for row in value)
            kept = [row for row in rows if row is not NOTHING]
        else:
            return value if inside else NOTHING
        return kept if kept or inside else NOTHING


@dataclass(frozen=True, slots=True)
class Search:
    """A parsed search body. ``total_limit`` is where counting hits stops; None: they are not counted."""

    clause: Clause
    start: int
    size: int
    source: SourceFilter
    total_limit: float | None


def parse_search(body: Json, params: Mapping[str, str] | None = None) -> Search:
    """Parse a search body and its URL parameters.

    Raises:
        Refused: it asks for more than :class:`connectors.memory.MemoryConnector` supports.
    """
    _only(params or {}, URL_PARAMETERS, "URL parameter", "illegal_argument_exception")
    _only(body, BODY_KEYS, "key")
    start, size = _count(body, "from", 0), _count(body, "size", DEFAULT_SIZE)
    if start + size > MAX_RESULT_WINDOW:
        reason = f"`from` + `size` must be at most {MAX_RESULT_WINDOW}, but is {start + size}"
        raise Refused("illegal_argument_exception", reason)
    _check_sort(body.get("sort", "_score"))
    clause = _clause(body.get("query", {"match_all": {}}))
    return Search(clause, start, size, _source_filter(body.get("_source", True)), _total_limit(body))


def _clause(query: object) -> Clause:
    if not isinstance(query, dict) or len(query) != 1:
        raise Refused("parsing_exception", f"`query` must be an object with one key of {_names(QUERIES)}")
    _only(query, QUERIES, "query")
    ((kind, options),) = query.items()
    if not isinstance(options, dict):
        raise Refused("parsing_exception", f"`{kind}` must be an object")
    return QUERIES[kind](options)


def _match(options: Json) -> Clause:
    if len(options) != 1:
        raise Refused("parsing_exception", "`match` must name one field")
    ((field, wanted),) = options.items()
    if not isinstance(wanted, dict):
        wanted = {"query": wanted}
    _only(wanted, ("query",), "key of `match`")
    return Clause(_words(wanted), ((field, 1.0),))


def _multi_match(options: Json) -> Clause:
    _only(options, ("query", "fields"), "key of `multi_match`")
    return Clause(_words(options), _boosted(options.get("fields", [])))


def _query_string(options: Json) -> Clause:
    _only(options, ("query", "fields"), "key of `query_string`")
    return Clause(_words(options), _boosted(options.get("fields", [])))


def _match_all(options: Json) -> Clause:
    _only(options, (), "key of `match_all`")
    return Clause()


def _ids(options: Json) -> Clause:
    _only(options, ("values",), "key of `ids`")
    values = options.get("values")
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise Refused("parsing_exception", "`ids` needs `values`, a list of strings")
    return Clause(ids=frozenset(values))


QUERIES: dict[str, Callable[[Json], Clause]] = {
    "match_all": _match_all,
    "match": _match,
    "multi_match": _multi_match,
    "query_string": _query_string,
    "simple_query_string": _query_string,
    "ids": _ids,
}


def _words(options: Json) -> str:
    words = options.get("query")
    if isinstance(words, bool) or not isinstance(words, (str, int, float)):
        raise Refused("parsing_exception", "`query` must be a text or a number")
    return str(words)


def _boosted(fields: object) -> tuple[tuple[str, float], ...]:
    names = [fields] if isinstance(fields, str) else fields
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise Refused("parsing_exception", "`fields` must be a list of field names")
    return () if "*" in names else tuple(_boost(name) for name in names)


def _boost(name: str) -> tuple[str, float]:
    field, caret, boost = name.rpartition("^")
    try:
        return (field, float(boost)) if caret else (name, 1.0)
    except ValueError as error:
        raise Refused("parsing_exception", f"the boost of field `{name}` is no number") from error


def _check_sort(sort: object) -> None:
    for key in sort if isinstance(sort, list) else [sort]:
        if key not in SORTS_BY_SCORE:
            raise Refused("parsing_exception", "`sort` may only be by `_score`, descending")


def _count(body: Json, key: str, default: int) -> int:
    value = body.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise Refused("illegal_argument_exception", f"`{key}` must be a whole number that is not negative")
    return value


def _total_limit(body: Json) -> float | None:
    limit = body.get("track_total_hits", DEFAULT_TOTAL_LIMIT)
    if isinstance(limit, bool):
        return float("inf") if limit else None
    return _count(body, "track_total_hits", DEFAULT_TOTAL_LIMIT)


def _source_filter(source: object) -> SourceFilter:
    if isinstance(source, bool):
        return SourceFilter(shown=source)
    if isinstance(source, dict):
        _only(source, ("includes", "excludes"), "key of `_source`")
        return SourceFilter(_patterns(source.get("includes", [])), _patterns(source.get("excludes", [])))
    return SourceFilter(_patterns(source))


def _patterns(patterns: object) -> tuple[str, ...]:
    names = [patterns] if isinstance(patterns, str) else patterns
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise Refused(
            "parsing_exception", "`_source` must be true, false, a list of names, or `includes` and `excludes`"
        )
    return tuple(names)


def _only(given: Mapping[str, Any], allowed: Any, what: str, error_type: str = "parsing_exception") -> None:
    for key in given:
        if key not in allowed:
            raise Refused(error_type, f"unknown {what} `{key}`; the memory connector knows {_names(allowed) or 'none'}")


def _names(names: Any) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _matches(path: str, patterns: tuple[str, ...]) -> bool:
    return any(wildcard(pattern).fullmatch(path) for pattern in patterns)


@lru_cache(maxsize=1024)
def wildcard(pattern: str) -> re.Pattern[str]:
    """Compile a pattern in which ``*`` stands for any text to a regular expression."""
    return re.compile(".*".join(map(re.escape, pattern.split("*"))), re.DOTALL)
