"""The text of candidates: from their hits, and if missing there from one fetch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from connectors.errors import ConnectorError
from connectors.hits import DocumentRef, Json
from sidecar import text
from sidecar.errors import TextUnavailable
from sidecar.policy import Plan
from sidecar.task import Task
from sidecar.types import Candidate

_FETCH_SHARE = 0.5
"""Share of the remaining time that a fetch may take, so that if it fails, candidates with text can be scored."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """What the engine returned of the documents asked for; ``problem`` says why there are none, if that is a failure.

    ``gone`` are those that it did not return: scored by what their hits hold, they would be misjudged.
    """

    sources: Mapping[DocumentRef, Json] = field(default_factory=dict)
    gone: frozenset[DocumentRef] = frozenset()
    problem: str = ""


def missing_of(task: Task, plan: Plan) -> list[DocumentRef]:
    """Return the documents whose text did not come with their hits, and that may be fetched."""
    return [
        candidate.ref
        for candidate in task.candidates
        if candidate.ref
        and candidate.ref.id
        and candidate.ref.index
        and candidate.ref.index not in task.closed_indices
        and not task.is_pinned(candidate)
        and text.lacks_text(candidate, plan.text)
    ]


async def fetch(task: Task, plan: Plan, missing: Sequence[DocumentRef]) -> Fetched:
    """Fetch documents; a ``ConnectorError`` ends up in ``problem``."""
    if not missing or task.connector is None:
        return Fetched()
    fields = [one.name for one in plan.text.fields]
    timeout_s = task.deadline.remaining_s() * _FETCH_SHARE
    try:
        with task.watch.stage("fetch"):
            sources = await task.connector.fetch(missing, fields, timeout_s=timeout_s)
    except ConnectorError as error:
        return Fetched(problem=f"the documents could not be fetched: {error}")
    gone = frozenset(missing) - sources.keys()
    return Fetched(sources, gone, "" if sources else _none_of(len(missing)))


def _none_of(count: int) -> str:
    documents = f"the {count} documents that were to be fetched"
    return f"the engine has the `_source` of none of {documents}: deleted, or `_source` is disabled in the mapping"


def passages_of(task: Task, plan: Plan, fetched: Fetched) -> dict[int, list[str]]:
    """Return each candidate's passages by rank, except for pinned candidates, those gone and those without text.

    Raises:
        TextUnavailable: no candidate has text.
    """
    candidates, pinned = task.candidates, task.pinned_ids
    wanted = [candidate for candidate in candidates if not task.is_pinned(candidate)] if pinned else candidates
    there = [candidate for candidate in wanted if candidate.ref not in fetched.gone] if fetched.gone else wanted
    found = {one.rank: text.passages(one, _source(one, fetched.sources), plan.text) for one in there}
    passages = {rank: texts for rank, texts in found.items() if texts}
    if not passages:
        raise TextUnavailable(fetched.problem or _nothing_in(wanted, plan))
    return passages


def _nothing_in(candidates: Sequence[Candidate], plan: Plan) -> str:
    names = ", ".join(one.name for one in plan.text.fields)
    if any(one.source is not None or one.text is not None for one in candidates):
        return f"no candidate has text in any of the policy's fields ({names})"
    return f"no hit has a `_source`, as when the mapping disables it, nor the policy's fields ({names}) elsewhere"


def _source(candidate: Candidate, fetched: Mapping[DocumentRef, Json]) -> Json | None:
    return fetched.get(candidate.ref, candidate.source) if fetched and candidate.ref else candidate.source
