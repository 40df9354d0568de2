"""Which hits are reranked and which page of them is returned. Pure.

The first ``rank_window_size`` hits are ranked whatever page is asked for. The body's ``from`` and ``size`` cut a page
out of the reordered window; the hits behind it follow in the engine's order. So pages neither repeat nor lose a hit.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from connectors.hits import Json
from sidecar.errors import InvalidRequest
from sidecar.size_defaults import written_out
from sidecar.types import Reason

_DEFAULT_SIZE = 10
_LARGEST = 2**31 - 1
_ENGINE_SHARE = 0.8
_SIMPLE_RETRIEVERS = frozenset({"standard", "knn"})
_REFUSED_PARAMS = {
    "filter_path": "it would hide what the reply is built from",
    "format": "the engine has to answer in JSON",
    "source": "send the body in `body`",
    "source_content_type": "send the body in `body`",
}


@dataclass(frozen=True, slots=True)
class Page:
    """The hits ``start`` to ``start + size`` of the final order."""

    start: int
    size: int

    def cut(self, count: int) -> slice:
        """Return this page as a slice of a list of ``count`` places."""
        return slice(min(self.start, count), min(self.start + self.size, count))


_WHOLE = Page(0, sys.maxsize)


def page_of(body: Json, params: Mapping[str, str]) -> Page:
    """Return the page that a search asks for; URL parameters take precedence over the body, as in the engines.

    Raises:
        InvalidRequest: ``from`` or ``size`` is not a whole number of 0 to 2**31 - 1, or a parameter is not supported.
    """
    for name, why in _REFUSED_PARAMS.items():
        if name in params:
            raise InvalidRequest(f"params: {name!r} is not supported: {why}")
    return Page(_whole(body, params, "from", 0), _whole(body, params, "size", _DEFAULT_SIZE))


def _whole(body: Json, params: Mapping[str, str], name: str, default: int) -> int:
    value: Any = params.get(name, body.get(name))
    if value is None:
        return default
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # as the engines read it
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= len(str(_LARGEST)):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _LARGEST:
        where = "params" if name in params else "body"
        raise InvalidRequest(f"{where}: `{name}` is not a whole number of 0 to {_LARGEST}")
    return value


def sizes_itself(body: Json, params: Mapping[str, str]) -> bool:
    """Whether the engine decides the length of the page: a compound retriever's own window, if no size is given."""
    retriever = body.get("retriever")
    if not isinstance(retriever, Mapping) or "size" in body or "size" in params:
        return False
    return not retriever.keys() <= _SIMPLE_RETRIEVERS


def rescored(body: Json, rank_window_size: int) -> int:
    """Return the window, at most what a ``rescore`` orders: a wider search would mix in hits by their first score."""
    rescorers = body.get("rescore") or ()
    sizes = [
        one.get("window_size", _DEFAULT_SIZE)
        for one in (rescorers if isinstance(rescorers, (list, tuple)) else [rescorers])
        if isinstance(one, Mapping)
    ]
    return min([rank_window_size, *(size for size in sizes if isinstance(size, int) and size > 0)])


def skip_reason(body: Json, params: Mapping[str, str], page: Page, rank_window_size: int) -> Reason | None:
    """Return why this search is passed through unchanged; None if it can be reranked."""
    if page.size == 0:
        return Reason.NO_CANDIDATES
    if "search_after" in body or "slice" in body or "scroll" in params:
        return Reason.NOT_RELEVANCE_SORTED
    if not _by_relevance(params.get("sort", body.get("sort"))):
        return Reason.NOT_RELEVANCE_SORTED
    return Reason.BEYOND_WINDOW if page.start >= rescored(body, rank_window_size) else None


def _by_relevance(sort: Any) -> bool:
    """Whether ``sort`` (any of the engines' spellings) puts the best score first."""
    if isinstance(sort, list):
        return not sort or _by_relevance(sort[0])
    if isinstance(sort, Mapping):
        name, how = next(iter(sort.items()), ("_score", "desc"))
        direction = how.get("order", "desc") if isinstance(how, Mapping) else how
        return name == "_score" and direction == "desc"
    return sort is None or str(sort).split(",")[0] in ("_score", "_score:desc")


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """What is sent to the engine for one search, and how to cut the page out of what comes back.

    ``first_rank`` is the place of the first hit in the engine's whole order; only the first ``window`` hits are
    candidates (None: all of them). ``changes`` has one line for each difference from the app's own request;
    ``widened`` says that it asks for another page than the app's.
    """

    index: str
    body: Json
    params: Mapping[str, str]
    page: Page
    first_rank: int
    window: int | None
    changes: tuple[str, ...] = ()
    widened: bool = False


def request(
    index: str, body: Json, params: Mapping[str, str], page: Page, rank_window_size: int | None
) -> EngineRequest:
    """Return the app's own request if ``rank_window_size`` is None, else one that returns both window and page.

    A point in time names its index itself, and the engines accept no other with it: ``index`` is then left out, and
    only selects the policy.
    """
    dropped = (f"index: {index} -> none, the point in time names it",) if "pit" in body else ()
    index = "" if dropped else index
    if rank_window_size is None:
        return EngineRequest(index, body, params, _WHOLE, page.start, None, dropped)
    asked = {"from": page.start, "size": page.size}
    window = rescored(body, rank_window_size)
    wanted = {"from": 0, "size": max(window, page.start + page.size)}
    changes = [f"{name}: {asked[name]} -> {value}" for name, value in wanted.items() if value != asked[name]]
    body, defaults = (body, ()) if body.get("size") == wanted["size"] else written_out(body, page.size)
    others = {name: value for name, value in params.items() if name not in wanted}
    fewer = () if window == rank_window_size else (f"rank_window_size: {rank_window_size} -> {window}, as rescored",)
    told = (*dropped, *changes, *defaults, *fewer)
    return EngineRequest(index, {**body, **wanted}, others, page, 0, window, told, widened=bool(changes))


def stopping_after(request: EngineRequest, seconds: float) -> EngineRequest:
    """Return the request with a ``timeout`` for the engine within ``seconds``, or unchanged if the app has set one.

    It is 0.8 of that time (at least 1 ms), since what the engine has found by then must still be sent and read.
    """
    if "timeout" in request.body or "timeout" in request.params:
        return request
    timeout = f"{max(1, int(seconds * _ENGINE_SHARE * 1e3))}ms"
    change = f"timeout: none -> {timeout}, of the time that is left for the search"
    return replace(request, body={**request.body, "timeout": timeout}, changes=(*request.changes, change))


def is_refused(response: Json) -> bool:
    """Whether a shard failed because the window is too large for its index, so that its hits are missing."""
    shards = response.get("_shards")
    failures = shards.get("failures") if isinstance(shards, Mapping) else None
    return any("max_result_window" in str(failure) for failure in failures or ())
