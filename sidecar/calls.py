"""Parsed requests and finished answers, independent of gRPC."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from connectors.hits import Json
from sidecar.callers import NOBODY, Caller
from sidecar.policy import AS_CONFIGURED, Overrides, Plan
from sidecar.types import Candidate, Ranked, Ranking, Timings


@dataclass(frozen=True, slots=True)
class Narrowing:
    """What a request asks for within its policy's limits: another policy, other values, hits that keep their place."""

    policy: str | None = None
    overrides: Overrides = AS_CONFIGURED
    pinned_ids: frozenset[str] = frozenset()
    key: str = ""
    """Decides the arm of a policy on trial; empty: the query does."""

    def arm_key(self, query: str) -> str:
        """Return what decides the arm of a call with this query."""
        return self.key or query


@dataclass(frozen=True, slots=True)
class Clock:
    """When a call arrived (monotonic time) and the seconds its client will wait; None if it set no deadline."""

    received_at: float
    client_time_left_s: float | None = None


@dataclass(frozen=True, slots=True)
class SearchCall:
    """A Search request. An empty ``connector`` means the only one.

    ``template`` is a search template from which the engine makes the body, instead of ``body``. ``authorization`` is
    the end user's own, as the gRPC call carried it.
    """

    connector: str
    index: str
    query: str
    body: Json
    params: Mapping[str, str]
    narrowing: Narrowing
    clock: Clock
    template: Json | None = None
    authorization: str | None = None
    caller: Caller = NOBODY


@dataclass(frozen=True, slots=True)
class RerankCall:
    """A Rerank request; ``top_n`` is None for all. An empty ``connector`` means the only one."""

    connector: str
    index: str
    query: str
    candidates: Sequence[Candidate]
    top_n: int | None
    narrowing: Narrowing
    clock: Clock
    authorization: str | None = None
    caller: Caller = NOBODY


class Result(NamedTuple):
    """One document of an answer."""

    candidate: Candidate
    ranked: Ranked


@dataclass(frozen=True, slots=True)
class Answer:
    """The results of a call and how they came about. ``response`` is the engine's own JSON, empty for Rerank.

    ``plan`` is None when no policy applies; ``ranking`` is that of the whole window, ``results`` may be a page of it.
    """

    results: Sequence[Result]
    ranking: Ranking
    plan: Plan | None
    timings: Timings
    response: str = ""
