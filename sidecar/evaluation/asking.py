"""Asks a running sidecar the judged queries, and keeps both orders of each answer."""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc

from sidecar.client import BlockingRerankClient, Page
from sidecar.comparison import title_of
from sidecar.v1 import rerank_pb2 as pb

_TIMEOUT_S = 180.0
_IDS_AT_ONCE = 500
_SHOWN_CHARS = 240
_LATE = ("BUDGET_EXHAUSTED", "OVERLOADED")
"""Reasons that a larger budget or a smaller window would avoid."""
PLACE = "{{query}}"
"""Placeholder for the query in a body."""


class AskingError(Exception):
    """A call to the sidecar failed; the message holds what was asked and the reason."""


@dataclass(frozen=True)
class Question:
    """How queries are asked: index, search body, number of results, connector, and the field with the judged id.

    ``body`` holds :data:`PLACE` in its texts where the query goes. ``id_field`` empty: the hit's ``_id``.
    """

    index: str
    body: Mapping[str, Any]
    size: int = 10
    connector: str = ""
    id_field: str = ""
    authorization: str | None = None
    """The end user's `Authorization` for the engine, where the connector has `forward_authorization`."""

    def body_for(self, query: str) -> dict[str, Any]:
        """Return the search body of one query."""
        filled: dict[str, Any] = _filled(dict(self.body), query)
        return {**filled, "size": self.size}


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to one query: ids without duplicates, in the engine's order and in the final one; outcome and reason.

    ``took_ms`` is the time from sending the call to its final page, ``engine_ms`` to the engine's page.
    """

    original: Sequence[str]
    final: Sequence[str]
    outcome: str
    reason: str
    took_ms: float
    engine_ms: float
    texts: Mapping[str, str]
    """For people, by id: the start of the passage that was scored, else the hit's title or the start of its text."""

    @property
    def fell_back(self) -> bool:
        """Whether the order is not entirely the model's, though there was something to order."""
        return self.outcome != "RERANKED" and self.reason != "NO_CANDIDATES"

    @property
    def late(self) -> bool:
        """Whether it fell back for lack of time: a larger budget or a smaller window would help."""
        return self.fell_back and (self.outcome == "PARTIAL" or self.reason in _LATE)


def ask(
    client: BlockingRerankClient,
    question: Question,
    queries: Mapping[str, str],
    options: pb.Options,
    advance: Callable[[], None] = lambda: None,
) -> dict[str, Answer]:
    """Ask one query after the other, and return the answers by query id; ``advance`` is called after each.

    Raises:
        AskingError: a call ends with an error.
    """
    answers = {}
    for name, query in queries.items():
        answers[name] = _answer(client, question, query, options)
        advance()
    return answers


def absent(
    client: BlockingRerankClient, question: Question, ids: Sequence[str], options: pb.Options | None = None
) -> list[str]:
    """Return those of the ids that no document of the index has.

    Raises:
        AskingError: a search for ids ends with an error.
    """
    found: set[str] = set()
    for start in range(0, len(ids), _IDS_AT_ONCE):
        some = list(ids[start : start + _IDS_AT_ONCE])
        wanted = {"terms": {question.id_field: some}} if question.id_field else {"ids": {"values": some}}
        source = {"_source": [question.id_field]} if question.id_field else {"_source": False}
        body = {"query": wanted, "size": len(some), **source}
        with _told(f"{len(some)} ids"):
            pages = client.search_progressive(
                question.index,
                "ids",
                body,
                connector=question.connector,
                options=options,
                timeout_s=_TIMEOUT_S,
                authorization=question.authorization,
            )
            original, *_ = pages  # the engine's own page, from which no policy has left anything out
        found |= {_id_of(hit, question.id_field) for hit in original.hits}
    return [one for one in ids if one not in found]


def _answer(client: BlockingRerankClient, question: Question, query: str, options: pb.Options) -> Answer:
    started, arrived, pages = time.perf_counter(), [], []
    with _told(repr(query)):
        for page in client.search_progressive(
            question.index,
            query,
            question.body_for(query),
            connector=question.connector,
            options=options,
            timeout_s=_TIMEOUT_S,
            authorization=question.authorization,
        ):
            arrived.append(1e3 * (time.perf_counter() - started))
            pages.append(page)
    original, final = pages
    ids = _ids(final, question)
    texts = {_id_of(hit, question.id_field): title_of(hit)[:_SHOWN_CHARS] for hit in original.hits}
    shown = zip(ids, final.results, final.hits, strict=True)
    texts |= {one: (result.passage or title_of(hit))[:_SHOWN_CHARS] for one, result, hit in shown}
    before, after = (list(dict.fromkeys(_ids(page, question))) for page in (original, final))
    return Answer(before, after, final.outcome, final.reason, arrived[-1], arrived[0], texts)


def _ids(page: Page, question: Question) -> list[str]:
    """Return the ids of the hits, duplicates included; an order keeps the first of each."""
    return [_id_of(hit, question.id_field) for hit in page.hits]


def _id_of(hit: Mapping[str, Any], field: str) -> str:
    if not field:
        return str(hit["_id"])
    found: Any = hit.get("_source") or {}
    for part in [field] if field in found else field.split("."):
        found = found.get(part, "") if isinstance(found, Mapping) else ""
    return str(found)


def _filled(part: Any, query: str) -> Any:
    """Return a part of a body with the query in place of :data:`PLACE`."""
    if isinstance(part, str):
        return part.replace(PLACE, query)
    if isinstance(part, Mapping):
        return {key: _filled(value, query) for key, value in part.items()}
    return [_filled(one, query) for one in part] if isinstance(part, list) else part


def has_place(body: Mapping[str, Any]) -> bool:
    """Whether a body says where the query goes."""
    return PLACE in json.dumps(body)


@contextmanager
def _told(what: str) -> Iterator[None]:
    """Turn errors of gRPC into :class:`AskingError`, with what was asked."""
    try:
        yield
    except grpc.RpcError as error:
        raise AskingError(f"{what}: {error.code().name}: {error.details()}") from error
