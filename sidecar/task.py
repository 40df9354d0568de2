"""The rest of a call once its candidates are known."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from connectors.base import Connector
from connectors.hits import Hit, Hits
from sidecar.calls import Answer, Result
from sidecar.deadline import Deadline
from sidecar.policy import Plan
from sidecar.skips import Skip
from sidecar.timing import Stopwatch
from sidecar.types import Candidate, Carried, Outcome, Ranked, Ranking, Reason, Timings
from sidecar.window import Page


@dataclass(frozen=True, slots=True)
class Task:
    """Candidates to be ranked for a query under a plan, before a deadline; or a reason not to.

    ``plan`` is None only if ``skip`` says why. No document is ever fetched from ``closed_indices``.
    """

    query: str
    candidates: Sequence[Candidate]
    pinned_ids: frozenset[str]
    plan: Plan | None
    skip: Skip | None
    connector: Connector | None
    deadline: Deadline
    watch: Stopwatch
    closed_indices: frozenset[str] = frozenset()
    key: str = ""
    """Decides the arm of a policy on trial."""
    chars: float = math.inf
    """Upper bound on the characters of all texts; for a search the length of the engine's whole answer."""

    def is_pinned(self, candidate: Candidate) -> bool:
        """Whether a candidate keeps its place and is not scored."""
        return candidate.has_id(self.pinned_ids)

    def keeps(self, place: Ranked) -> bool:
        """Whether a result stays in the answer: only a scored one can fall below ``min_score``."""
        least = self.plan.min_score if self.plan else None
        return place.relevance_score is None or least is None or place.relevance_score >= least

    def kept(self, places: Sequence[Ranked], most: int | None) -> list[Ranked]:
        """The first ``most`` places (None: all) that stay in the answer.

        A place that was not scored stays only if it is among the first ``most`` before any falls below ``min_score``.
        """
        stay = (
            place
            for new, place in enumerate(places)
            if self.keeps(place) and (place.relevance_score is not None or most is None or new < most)
        )
        return list(islice(stay, most))


@dataclass(frozen=True, slots=True)
class Retrieved:
    """A search that the engine has answered. Its hits begin at ``first_rank`` of the engine's order."""

    task: Task
    hits: Hits
    page: Page
    first_rank: int

    def original(self) -> Answer:
        """Return the requested page in the engine's order, before its ranking is known."""
        unranked = Ranking.original(len(self.task.candidates), Outcome.UNSPECIFIED, Reason.UNSPECIFIED, "")
        return self._answer(unranked, self.task.watch.so_far())

    def answer(self, ranking: Ranking) -> Answer:
        """Return the requested page of the final order: the window as ranked, then the hits behind it."""
        return self._answer(ranking, self.task.watch.stop())

    def _answer(self, ranking: Ranking, timings: Timings) -> Answer:
        count = len(self.hits.hits)
        places = [*ranking.order, *(Ranked(rank) for rank in range(len(ranking.order), count))]
        kept = [place for place in places[self.page.cut(count)] if self.task.keeps(place)]
        results = [Result(self._candidate(place.rank), place) for place in kept]
        response = self.hits.with_page([place.rank for place in kept])
        return Answer(results, ranking, self.task.plan, timings, response)

    def _candidate(self, place: int) -> Candidate:
        """Return the hit at a place of the engine's answer, with its rank in the engine's whole order."""
        known = self.task.candidates
        if self.first_rank == 0 and place < len(known):
            return known[place]
        return candidate_of(self.hits.hits[place], self.first_rank + place)


def candidate_of(hit: Hit, rank: int, carried: Carried = Carried.UNKNOWN) -> Candidate:
    """Return a hit as a candidate; ``carried`` is how much of its document it holds."""
    return Candidate(rank, hit.ref, hit.score, source=hit.source, carried=carried, hit=hit.raw)


def chars_of(candidates: Sequence[Candidate]) -> float:
    """Return the number of characters that candidates bring as text; infinite if one brings a hit."""
    if any(one.hit is not None for one in candidates):
        return math.inf
    return sum(len(one.text or "") for one in candidates)
