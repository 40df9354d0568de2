"""The text of candidates: from the hits themselves, and one call to the engine for what is missing."""

from collections.abc import Mapping, Sequence

from connectors.errors import ConnectorError
from connectors.hits import DocumentRef, Json
from sidecar import text
from sidecar.errors import TextUnavailable
from sidecar.policy import Plan
from sidecar.task import Task
from sidecar.types import Candidate


async def passages_of(task: Task, plan: Plan) -> dict[int, list[str]]:
    """The passages of each candidate that has text, by rank. Pinned candidates are left out: they are not scored.

    Raises:
        TextUnavailable: no candidate has text, or all are pinned.
    """
    wanted = [candidate for candidate in task.candidates if not _is_pinned(candidate, task.pinned_ids)]
    if not wanted:
        raise TextUnavailable("every candidate is pinned, and none is scored")
    fetched, problem = await _fetch_missing(task, plan, wanted)
    found = {candidate.rank: text.passages(candidate, _source(candidate, fetched), plan.text) for candidate in wanted}
    passages = {rank: texts for rank, texts in found.items() if texts}
    if not passages:
        names = ", ".join(field.name for field in plan.text.fields)
        raise TextUnavailable(problem or f"no candidate has text in any of the policy's fields ({names})")
    return passages


def _is_pinned(candidate: Candidate, pinned_ids: frozenset[str]) -> bool:
    return candidate.ref is not None and candidate.ref.id in pinned_ids


def _source(candidate: Candidate, fetched: Mapping[DocumentRef, Json]) -> Json | None:
    return fetched.get(candidate.ref, candidate.source) if candidate.ref else candidate.source


async def _fetch_missing(
    task: Task, plan: Plan, candidates: Sequence[Candidate]
) -> tuple[Mapping[DocumentRef, Json], str]:
    """What the engine still has of the candidates without text; its failure costs only those, and is told."""
    lacking = (c for c in candidates if c.text is None and not (c.whole and text.has_text(c.source, plan.text)))
    missing = [c.ref for c in lacking if c.ref and c.ref.index not in task.closed_indices]
    if not missing or task.connector is None:
        return {}, ""
    fields = [field.name for field in plan.text.fields]
    try:
        with task.watch.stage("fetch"):
            return await task.connector.fetch(missing, fields, timeout_s=task.deadline.remaining_s()), ""
    except ConnectorError as error:
        return {}, f"the documents could not be fetched: {error}"
