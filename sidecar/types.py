"""Value types that modules pass to each other. Enum numbers are those of the contract (proto/sidecar/v1)."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import ClassVar, NamedTuple

from connectors.hits import DocumentRef, Json


class Outcome(IntEnum):
    """What became of the reranking."""

    UNSPECIFIED = 0
    RERANKED = 1
    PARTIAL = 2
    ORIGINAL_ORDER = 3
    SKIPPED = 4


class Reason(IntEnum):
    """Why the outcome is not RERANKED."""

    UNSPECIFIED = 0
    BUDGET_EXHAUSTED = 1
    OVERLOADED = 2
    MODEL_NOT_READY = 3
    MODEL_ERROR = 4
    NON_FINITE_SCORE = 5
    TEXT_UNAVAILABLE = 6
    POLICY_DISABLED = 7
    NOT_RELEVANCE_SORTED = 8
    NO_CANDIDATES = 9
    NO_POLICY = 10
    BEYOND_WINDOW = 11
    QUERY_TOO_LONG = 12
    WINDOW_REFUSED = 13
    LANGUAGE = 14
    HELD_OUT = 15
    SHADOW = 16
    CIRCUIT_OPEN = 17


@dataclass(frozen=True)
class Carried:
    """How much of its document a hit carries: fields the app filtered out must be fetched, absent ones need not.

    ``whole`` are the policy's fields that the hit's ``_source`` holds if the document does, ``asked`` those that the
    app requested in ``fields``; ``tags`` mark the matches in highlight fragments. ``is_known`` is false if it is not
    known how the hit was searched.
    """

    whole: frozenset[str] = frozenset()
    asked: frozenset[str] = frozenset()
    tags: tuple[str, ...] = ("<em>", "</em>")
    is_known: bool = True

    UNKNOWN: ClassVar["Carried"]
    """For a hit that the caller brings: it is not known how it was searched."""


Carried.UNKNOWN = Carried(is_known=False)


class Candidate(NamedTuple):
    """One document in the engine's order. ``rank`` is its place there, from 0.

    ``text`` is given by the caller and used unchanged; ``source`` is what the hit holds of the stored document, and
    ``carried`` how much that is. ``hit`` is the whole hit, for what it holds beside its source.
    """

    rank: int
    ref: DocumentRef | None = None
    score: float | None = None
    text: str | None = None
    source: Json | None = None
    carried: Carried = Carried.UNKNOWN
    hit: Json | None = None

    def has_id(self, ids: Collection[str]) -> bool:
        """Whether its document's id is one of ``ids``."""
        return self.ref is not None and self.ref.id in ids


class Ranked(NamedTuple):
    """One place of an answer.

    ``rank`` is the candidate's original rank, ``relevance_score`` its raw model score (None: not scored), ``passage``
    the one that got it, and ``cosine`` its cosine if that counted.
    """

    rank: int
    relevance_score: float | None = None
    passage: str = ""
    cosine: float | None = None
    team: str = ""
    """The team that drew it, if two orders are interleaved; else empty."""

    def of(self, team: str) -> "Ranked":
        """Return the same place, drawn by a team."""
        return self._replace(team=team)


@dataclass(slots=True)
class Timings:
    """Milliseconds a call spent in each stage; 0 for a stage that did not run."""

    search_ms: float = 0.0
    fetch_ms: float = 0.0
    tokenize_ms: float = 0.0
    queue_ms: float = 0.0
    score_ms: float = 0.0
    total_ms: float = 0.0
    device_ms: float = 0.0
    """Part of ``score_ms``: device time for the call's own pairs; of a shared batch, their share."""
    cosine_ms: float = 0.0
    """Wait for cosines after the model's scores were ready."""


@dataclass(frozen=True, slots=True)
class Ranking:
    """The order of all candidates and how it came about. ``order`` always holds every candidate exactly once.

    ``remembered`` says that it was made for an earlier call and kept.
    """

    order: Sequence[Ranked]
    outcome: Outcome
    reason: Reason = Reason.UNSPECIFIED
    detail: str = ""
    fusion: str = ""
    model_version: str = ""
    cosine_version: str = ""
    """The bi-encoder's version, if cosines counted."""
    truncated_ratio: float = 0.0
    """Share of the passages tokenised for this ranking that are longer than the model reads."""
    pinned: int = 0
    """How many candidates keep their places because the caller pinned them."""
    arm: str = ""
    """The call's arm if its policy is on trial; see :mod:`sidecar.rollout`."""
    remembered: bool = False

    @classmethod
    def original(cls, count: int, outcome: Outcome, reason: Reason, detail: str) -> "Ranking":
        """Return the original order of ``count`` candidates."""
        return cls([Ranked(rank) for rank in range(count)], outcome, reason, detail)

    def partial(self, scored: int, reason: Reason) -> "Ranking":
        """Return the same order as PARTIAL: only the first ``scored`` candidates with text were scored."""
        detail = f"only the first {scored} candidates with text could be scored in time"
        return replace(self, outcome=Outcome.PARTIAL, reason=reason, detail=detail)

    @property
    def scored(self) -> int:
        """How many candidates the model scored."""
        return sum(place.relevance_score is not None for place in self.order)

    @property
    def compared(self) -> int:
        """How many candidates have a cosine that counted."""
        return sum(place.cosine is not None for place in self.order)
