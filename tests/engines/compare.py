"""What an answer through the sidecar may differ in from the engine's own. Pure; compares texts, not what they mean.

With reranking off the answer is the engine's to the letter, but for ``took``, the ids of scrolls and points in time,
and for what a profile tells.

With reranking on, the engine is asked for more hits than the app asked for. Each hit is still the engine's to the
letter, the page holds those that the order of the window puts there, and what stands beside the hits is what the engine
says to the app itself, but for this, each of it seen on real nodes:

- ``profile`` is that of the wide search: its collectors have another size.
- A shard that searches well and cannot fetch its hits (a highlighter that does not exist, the doc values of a text
  field) loses them from the engine's page. The wide search fetches more hits, so it may lose them where the small page
  had none of that shard that it cannot fetch; those behind move up, and ``_shards`` tells. It is the engine's own
  answer all the same.
- A hit of an index with required routing that was asked for with ``stored_fields: _none_`` does not tell its routing,
  so its document cannot be fetched: without text, it keeps its place.
- ``terminated_early``, totals (with ``track_total_hits`` of any value), ``max_score``, suggestions, aggregations,
  ``inner_hits`` and collapsed groups are not among the differences.
- A search with ``rescore`` has no more candidates than the smallest of its windows.
- A kNN search without ``k`` takes it from the ``size``; for it the wide search is one with the app's own size as ``k``.
- A ``rescorer`` retriever without ``size`` gives as many hits as its window: it is passed on as it is.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tests.engines.rest import Json

_BEFORE_ROWS = re.compile(r'"hits"\s*:\s*\{(?:[^{}\[\]"]|"[^"]*"|\{[^{}]*\})*?"hits"\s*:\s*\[\s*')
_CHANGING = re.compile(r'("took"\s*:\s*)\d+|("(?:_scroll_id|pit_id)"\s*:\s*)"[^"]*"')


@dataclass(frozen=True)
class Answer:
    """An answer as the engine or the sidecar wrote it."""

    text: str

    @cached_property
    def value(self) -> Json:
        """What it says."""
        return dict(json.loads(self.text))

    @cached_property
    def rows(self) -> list[str]:
        """The text of each element of ``hits.hits``."""
        return self._cut[0]

    @cached_property
    def rest(self) -> str:
        """All but those, and but for what is never the same twice."""
        return _CHANGING.sub(r"\1\2", self._cut[1], count=2)

    @property
    def hits(self) -> list[Json]:
        """What the rows say."""
        return list(self.value["hits"]["hits"])

    @cached_property
    def _cut(self) -> tuple[list[str], str]:
        start = _BEFORE_ROWS.search(self.text)
        assert start, f"no hits.hits in {self.text[:300]}"
        read, at, rows = json.JSONDecoder().raw_decode, start.end(), []
        while self.text[at] != "]":
            _, end = read(self.text, at)
            rows.append(self.text[at:end])
            at = end + len(self.text[end:]) - len(self.text[end:].lstrip(", \n"))
        return rows, f"{self.text[: start.end()].rstrip()}{self.text[at:]}"


@dataclass(frozen=True)
class Place:
    """One element of the reply's ``results``."""

    id: str
    index: str
    rank: int
    original_score: float | None
    relevance_score: float | None


@dataclass(frozen=True)
class Reply:
    """An answer of the sidecar."""

    answer: Answer
    outcome: str
    reason: str
    places: list[Place]


@dataclass(frozen=True)
class Page:
    """What the app asked for: the hits ``start`` to ``start + size``."""

    start: int
    size: int

    @classmethod
    def of(cls, body: Mapping[str, Any], params: Mapping[str, str]) -> "Page":
        """The URL's own word wins."""
        start, size = (params.get(name, body.get(name)) for name in ("from", "size"))
        return cls(int(start or 0), 10 if size is None else int(size))

    def cut(self, rows: Sequence[Any]) -> list[Any]:
        """The page out of the whole order."""
        return list(rows[self.start : self.start + self.size])


def rescored(body: Mapping[str, Any], window: int) -> int:
    """The window of a search whose best hits the engine itself orders anew: no more than each of its rescorers saw."""
    found = body.get("rescore", [])
    sizes: list[int] = [one["window_size"] for one in (found if isinstance(found, list) else [found])]
    return min([window, *sizes])


def with_k(value: Any, size: int) -> Any:
    """The body with the ``k`` that a kNN search without one has in a search of that size."""
    if isinstance(value, list):
        return [with_k(one, size) for one in value]
    if not isinstance(value, dict):
        return value
    filled = {key: with_k(one, size) for key, one in value.items()}
    if "query_vector" in value and "k" not in value:
        filled["k"] = min(size, value["num_candidates"])
    return filled


def same(own: Answer, got: Answer) -> list[str]:
    """Complaints where an answer that was only passed on is not the engine's."""
    complaints = [] if own.rows == got.rows else [f"rows: {_first_difference(own.rows, got.rows)}"]
    return complaints + same_rest(own, got)


def passed_on(own: Answer, page: Page, got: Reply) -> list[str]:
    """Complaints where a search that was only passed on does not come back to the letter, hit by hit."""
    told = [
        Place(hit.get("_id", ""), hit["_index"], page.start + place, hit.get("_score"), None)
        for place, hit in enumerate(own.hits)
    ]
    complaints = same(own, got.answer)
    return complaints if told == got.places else [*complaints, f"results {got.places} instead of {told}"]


def same_rest(own: Answer, got: Answer) -> list[str]:
    """Complaints where what stands beside the hits is not the engine's."""
    if own.rest == got.rest:
        return []
    if "profile" in own.value:
        theirs, ours = (_without_times(each.value) for each in (own, got))
        return [] if theirs == ours else [f"beside the profile: {_around_difference(theirs, ours)}"]
    return [f"beside the hits: {_around_difference(own.rest, got.rest)}"]


def skip_of(body: Mapping[str, Any], params: Mapping[str, str], page: Page, window: int) -> str:
    """The reason for which a search is passed on as it is, as far as it can be told without asking; else empty."""
    if page.size == 0:
        return "NO_CANDIDATES"
    if (
        "search_after" in body
        or "slice" in body
        or "scroll" in params
        or not _by_score(params.get("sort", body.get("sort")))
    ):
        return "NOT_RELEVANCE_SORTED"
    return "BEYOND_WINDOW" if page.start >= window else ""


def _by_score(sort: Any) -> bool:
    first = sort[0] if isinstance(sort, list) else sort
    if isinstance(first, str):
        return first.split(",")[0] in ("_score", "_score:desc")
    return first in (None, {"_score": "desc"}, {"_score": {"order": "desc"}})


@dataclass(frozen=True)
class Ranked:
    """What the sidecar should answer: which of the wide search's rows, in which order, and why."""

    order: list[int]
    scores: Mapping[int, float]
    outcome: str
    reason: str = "UNSPECIFIED"


def ranked(wide: Answer, window: int, texts: Mapping[tuple[str, str], str], score: Callable[[str], float]) -> Ranked:
    """What the rules of order make of the engine's first hits when the model alone decides.

    ``texts`` has, by index and id, what can be read of each document.
    """
    in_engines_order = list(range(len(wide.rows)))
    candidates = wide.hits[:window]
    if any(hit.get("_score") is None for hit in candidates):
        return Ranked(in_engines_order, {}, "SKIPPED", "NOT_RELEVANCE_SORTED")
    if len(candidates) < 2:
        return Ranked(in_engines_order, {}, "SKIPPED", "NO_CANDIDATES")
    found = ((rank, texts.get((hit["_index"], hit.get("_id", "")), "")) for rank, hit in enumerate(candidates))
    scores = {rank: score(text) for rank, text in found if text}
    if not scores:
        return Ranked(in_engines_order, {}, "ORIGINAL_ORDER", "TEXT_UNAVAILABLE")
    best_first = iter(sorted(scores, key=lambda rank: (-scores[rank], rank)))
    order = [next(best_first) if rank in scores else rank for rank in in_engines_order]
    return Ranked(order, scores, "RERANKED")


def reranked(own: Answer, wide: Answer, page: Page, expected: Ranked, got: Reply) -> list[str]:
    """Complaints where a reranked answer is not made of the engine's hits by the rules."""
    complaints = []
    if (got.outcome, got.reason) != (expected.outcome, expected.reason):
        complaints.append(f"{got.outcome} {got.reason} instead of {expected.outcome} {expected.reason}")
    ranks = page.cut(expected.order)
    if [place.rank for place in got.places] != ranks:
        complaints.append(f"ranks {[place.rank for place in got.places]} instead of {ranks}")
    rows = [wide.rows[rank] for rank in ranks]
    if rows != got.answer.rows:
        complaints.append(f"rows: {_first_difference(rows, got.answer.rows)}")
    for place, hit in zip(got.places, got.answer.hits, strict=True):
        told = Place(hit.get("_id", ""), hit["_index"], place.rank, hit.get("_score"), expected.scores.get(place.rank))
        if told != place:
            complaints.append(f"{place} instead of {told}")
    return complaints + same_rest(wide, got.answer) + widened(own, wide, page)


def widened(own: Answer, wide: Answer, page: Page) -> list[str]:
    """Complaints where the engine's answer to the wide search tells more or less than that to the app's own."""
    if _failed(own) or _failed(wide):  # a shard that cannot fetch its hits fails, or not, with what is asked of it
        there = [row for row, hit in zip(own.rows, own.hits, strict=True) if hit["_index"] not in _failing(wide)]
        return [f"a row of the engine's own page: {row[:200]}" for row in there if row not in wide.rows]
    complaints = []
    if page.cut(wide.rows) != own.rows:
        complaints.append(f"the engine's own page: {_first_difference(own.rows, page.cut(wide.rows))}")
    if "profile" in own.value and "profile" in wide.value:
        return complaints
    return complaints + same_rest(own, wide)


def _failing(answer: Answer) -> set[str]:
    return {failure["index"] for failure in answer.value["_shards"].get("failures", ())}


def _failed(answer: Answer) -> bool:
    return bool(answer.value["_shards"]["failed"])


def _without_times(value: Json) -> str:
    """All but the hits and times, and what a profile tells: the rewritten query and the shards that need it vary."""
    found = {**value, "took": 0, "hits": {**value["hits"], "hits": []}, "profile": list(value["profile"])}
    return json.dumps({key: one for key, one in found.items() if key not in ("pit_id", "_scroll_id")})


def _first_difference(own: Sequence[str], got: Sequence[str]) -> str:
    for place, (theirs, ours) in enumerate(zip(own, got, strict=False)):
        if theirs != ours:
            return f"{len(own)}/{len(got)}, row {place}: {_around_difference(theirs, ours)}"
    return f"{len(own)} rows expected, {len(got)} there"


def _around_difference(own: str, got: str) -> str:
    at = next((place for place, (a, b) in enumerate(zip(own, got, strict=False)) if a != b), min(len(own), len(got)))
    return f"expected ...{own[max(0, at - 80) : at + 160]}... got ...{got[max(0, at - 80) : at + 160]}..."
