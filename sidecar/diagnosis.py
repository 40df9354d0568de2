"""Diagnoses the reranking of an index from the replies to a few real queries. Pure."""

import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sidecar.client import Page

_SLOW_ENGINE = 0.5
"""Share of the budget that the engine's search may take."""
_MOST_TRUNCATED = 0.8
_IN_PART = "a smaller `rank_window_size`, a larger `budget_ms`, or a faster device"
_HINTS = {
    "OVERLOADED": "the window takes longer than the budget on this device: a smaller `rank_window_size`, a larger "
    "`budget_ms`, or `min_rank_window_size`, so that fewer hits are reranked instead of none",
    "BUDGET_EXHAUSTED": "a larger `budget_ms`, a smaller `rank_window_size`, or a faster search",
    "MODEL_NOT_READY": "the model is loading, or could not be loaded: the sidecar's log says why",
    "MODEL_ERROR": "the sidecar's log has `forward_failed` with the cause",
    "CIRCUIT_OPEN": "the model's passes fail; the sidecar's log has `forward_failed` with the cause",
    "NON_FINITE_SCORE": "the checkpoint gives NaN in this number type: try `dtype: float32`",
    "TEXT_UNAVAILABLE": "none of the policy's fields holds text: see `text.fields`",
    "POLICY_DISABLED": "the policy says `enabled: false` or `mode: off`, or an admin has switched it off",
    "SHADOW": "the policy says `mode: shadow`: the new order is only counted",
    "HELD_OUT": "the policy's `percent` leaves them out",
    "NO_POLICY": "no policy matches the index and there is no `default_policy`",
    "NOT_RELEVANCE_SORTED": "the search is sorted by something else than `_score`",
    "NO_CANDIDATES": "the queries find fewer than two hits",
    "WINDOW_REFUSED": "the engine does not take the search with the window's `from` and `size`",
    "LANGUAGE": "the texts are in a language that the model is not for: see `languages`",
    "QUERY_TOO_LONG": "the queries fill the model's input",
}


@dataclass(frozen=True)
class Asked:
    """Both pages of one query: the engine's, and the final one; ``size`` hits were asked for."""

    original: Page
    final: Page
    size: int


def problems(asked: Sequence[Asked], policy: Mapping[str, Any], window: int) -> Iterator[str]:
    """Yield a sentence for each problem.

    ``asked`` is not empty; ``policy`` are the settings of the policy (empty: none), ``window`` is its window size.
    """
    yield from _fallbacks(asked)
    yield from _absent_fields(asked, policy)
    sizes = max(one.size for one in asked)
    if 0 < window < sizes:
        yield f"{sizes} hits were asked for and {window} are reranked: the page ends in the engine's order"
    yield from _slow_engine(asked, policy)
    reranked = [one for one in asked if one.final.outcome in ("RERANKED", "PARTIAL")]
    if not reranked:
        return
    truncated = statistics.fmean(one.final.message.meta.truncated_ratio for one in reranked)
    if truncated > _MOST_TRUNCATED:
        yield f"{truncated:.0%} of the passages are longer than the model reads: set `text.passages`, or a `max_chars`"
    if all(map(_is_constant, reranked)):
        yield "the model gives all hits of a query the same score: it is no reranker, or reads no text"
    elif not any(_moved(one) for one in reranked):
        yield "no query's hits changed their places: the model agrees with the engine, or has too little weight"


def _fallbacks(asked: Sequence[Asked]) -> Iterator[str]:
    counted = Counter(one.final.reason for one in asked if one.final.outcome in ("ORIGINAL_ORDER", "SKIPPED"))
    for reason, count in counted.most_common():
        hint = _HINTS.get(reason, "see the table of reasons in the README")
        yield f"{count} of {len(asked)} queries are in the engine's order ({reason}): {hint}"
    if partial := sum(one.final.outcome == "PARTIAL" for one in asked):
        yield f"{partial} of {len(asked)} queries are reranked in part only: {_IN_PART}"


def _absent_fields(asked: Sequence[Asked], policy: Mapping[str, Any]) -> Iterator[str]:
    """Problems of the policy's fields that are absent or empty in every `_source`; none if no hit has one."""
    sources = [hit.get("_source") for one in asked for hit in one.original.hits]
    known = [source for source in sources if isinstance(source, dict)]
    if not known:
        return
    for field in (one["name"] for one in policy.get("text", {}).get("fields", ())):
        if any(_has(source, field) for source in known):
            continue
        if any(field in source for source in known):
            yield f"the field {field!r} of the policy's `text.fields` is empty in every hit"
        else:
            yield f"no hit has the field {field!r} of the policy's `text.fields` in its `_source`; there are: " + (
                ", ".join(sorted({key for source in known for key in source})[:12])
            )


def _has(source: Any, field: str) -> bool:
    if isinstance(source, list):
        return any(_has(one, field) for one in source)
    if not isinstance(source, dict):
        return False
    if field in source:
        return source[field] not in (None, "", [])
    head, _, rest = field.partition(".")
    return bool(rest) and _has(source.get(head), rest)


def _slow_engine(asked: Sequence[Asked], policy: Mapping[str, Any]) -> Iterator[str]:
    search_ms = statistics.median(one.final.message.meta.timings.search_ms for one in asked)
    budget_ms = policy.get("budget_ms", 0)
    if budget_ms and search_ms > _SLOW_ENGINE * budget_ms:
        yield f"the engine's search takes {search_ms:.0f} ms (median) of a budget of {budget_ms} ms"


def _is_constant(one: Asked) -> bool:
    scores = {result.relevance_score for result in one.final.results if result.HasField("relevance_score")}
    return len(scores) == 1 < len(one.final.results)


def _moved(one: Asked) -> bool:
    return any(result.original_rank != place for place, result in enumerate(one.final.results))
