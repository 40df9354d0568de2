"""Parses the messages of the contract into calls. Pure; every error names the field and what is allowed."""

import math
from collections.abc import Mapping
from typing import Any

from google.protobuf.message import Message

from connectors.errors import MalformedAnswer
from connectors.hits import DocumentRef, Hit, Json, hit_of
from sidecar.callers import NOBODY, Caller
from sidecar.calls import Clock, Narrowing, RerankCall, SearchCall
from sidecar.errors import InvalidRequest
from sidecar.json_text import json_object
from sidecar.policy import Overrides
from sidecar.text import clean
from sidecar.types import Candidate
from sidecar.v1 import rerank_pb2 as pb

MAX_PINNED_IDS = 10_000
MAX_KEY_CHARS = 256
MAX_CANDIDATES = 100_000
"""More than any policy may allow; a larger request is refused before its candidates are parsed."""


def search_call(
    request: pb.SearchRequest, clock: Clock, authorization: str | None = None, caller: Caller = NOBODY
) -> SearchCall:
    """Parse a Search request. Raises :class:`InvalidRequest`."""
    return _search(request, _query(request.query), clock, authorization, caller)


def explained_call(
    request: pb.ExplainRequest, clock: Clock, authorization: str | None = None, caller: Caller = NOBODY
) -> SearchCall:
    """Parse an Explain request as the search that it asks about. Raises :class:`InvalidRequest`."""
    return _search(request, "", clock, authorization, caller)


def _search(
    request: pb.SearchRequest | pb.ExplainRequest, query: str, clock: Clock, authorization: str | None, caller: Caller
) -> SearchCall:
    return SearchCall(
        connector=request.connector,
        index=request.index,
        query=query,
        body=json_object(request.body or "{}", "body"),
        params=_params(request.params),
        narrowing=narrowing(request.options),
        clock=clock,
        template=_template(request),
        authorization=authorization,
        caller=caller,
    )


def _params(params: Mapping[str, str]) -> dict[str, str]:
    if "index" in params:
        raise InvalidRequest("`params.index`: what is searched is named by `index` alone")
    return dict(params)


def _template(request: pb.SearchRequest | pb.ExplainRequest) -> Json | None:
    if not request.template:
        return None
    if request.body:
        raise InvalidRequest("`body` and `template` exclude each other: the template makes the body")
    return json_object(request.template, "template")


def rerank_call(
    request: pb.RerankRequest, clock: Clock, authorization: str | None = None, caller: Caller = NOBODY
) -> RerankCall:
    """Parse a Rerank request. Raises :class:`InvalidRequest`."""
    top_n = _given(request, "top_n")
    if top_n is not None and top_n < 1:
        raise InvalidRequest(f"`top_n` is {top_n}; it must be 1 or more")
    if len(request.candidates) > MAX_CANDIDATES:
        raise InvalidRequest(f"there are {len(request.candidates)} `candidates`; at most {MAX_CANDIDATES} are allowed")
    return RerankCall(
        connector=request.connector,
        index=request.index,
        query=_query(request.query),
        candidates=[_candidate(one, rank, request.index) for rank, one in enumerate(request.candidates)],
        top_n=top_n,
        narrowing=narrowing(request.options),
        clock=clock,
        authorization=authorization,
        caller=caller,
    )


def narrowing(options: pb.Options) -> Narrowing:
    """Parse the options; the policy checks the bounds of its overrides. Raises :class:`InvalidRequest`."""
    overrides = Overrides(
        rank_window_size=_given(options, "rank_window_size"),
        budget_ms=_given(options, "budget_ms"),
        min_score=_given(options, "min_score"),
    )
    if len(options.pinned_ids) > MAX_PINNED_IDS:
        raise InvalidRequest(f"there are {len(options.pinned_ids)} `pinned_ids`; at most {MAX_PINNED_IDS} are allowed")
    if len(options.key) > MAX_KEY_CHARS:
        raise InvalidRequest(f"`options.key` has {len(options.key)} characters; at most {MAX_KEY_CHARS} are allowed")
    return Narrowing(options.policy or None, overrides, frozenset(options.pinned_ids), options.key)


def _query(query: str) -> str:
    cleaned = clean(query).strip()
    if not cleaned:
        raise InvalidRequest("`query` is empty; it is the text that the model reads")
    return cleaned


def _given(message: Message, name: str) -> Any:
    return getattr(message, name) if message.HasField(name) else None


def _candidate(given: pb.Candidate, rank: int, default_index: str) -> Candidate:
    """Parse a candidate; its own fields take precedence over those of its hit."""
    hit = _hit(given, rank, default_index) if given.hit else None
    # HasField is slow, and only empty values need it
    text, score = given.text or _given(given, "text"), given.score or _given(given, "score")
    if score is not None and not math.isfinite(score):
        raise InvalidRequest(f"candidates[{rank}].score is {score}; it must be a finite number")
    ref = _ref(given, hit, default_index)
    if text is None and hit is None and (ref is None or not ref.index):
        raise InvalidRequest(f"candidates[{rank}] needs `text`, `hit`, or an `id` together with an `index`")
    score = hit.score if score is None and hit else score
    return Candidate(rank, ref, score, text, hit.source if hit else None, hit=hit.raw if hit else None)


def _ref(given: pb.Candidate, hit: Hit | None, default_index: str) -> DocumentRef | None:
    document_id = given.id or (hit.ref.id if hit else "")
    if not document_id:
        return None
    index = given.index or (hit.ref.index if hit else "") or default_index
    return DocumentRef(index, document_id, given.routing or (hit.ref.routing if hit else None))


def _hit(given: pb.Candidate, rank: int, default_index: str) -> Hit:
    row = {"_id": given.id, "_index": given.index or default_index, **json_object(given.hit, f"candidates[{rank}].hit")}
    try:
        return hit_of(row, rank)
    except MalformedAnswer:
        raise InvalidRequest(
            f"candidates[{rank}].hit is not a hit: `_id`, `_index` or `_score` is ill-formed"
        ) from None
