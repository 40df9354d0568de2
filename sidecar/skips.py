"""When reranking is skipped because it does not apply. Pure; each reason comes with a sentence for people."""

from collections.abc import Collection, Sequence

from sidecar.calls import SearchCall
from sidecar.policy import Plan
from sidecar.rollout import Arm
from sidecar.types import Candidate, Reason
from sidecar.window import Page, sizes_itself, skip_reason

Skip = tuple[Reason, str]

_SENTENCES = {
    Reason.NO_CANDIDATES: "there are too few candidates to reorder",
    Reason.NOT_RELEVANCE_SORTED: "the hits are not sorted by relevance",
    Reason.WINDOW_REFUSED: "the engine refuses this search with the window's `from` and `size`, and takes it as it is",
    Reason.BEYOND_WINDOW: "the page starts behind the window that is reranked",
}

_CURSOR = "`search_after` continues the engine's order, not that of a reranked page: page by `from` and `size`"


def by_policy(plan: Plan | None, why: str) -> Skip | None:
    """Skip if no policy applies, or if it is off or holds the call out; ``why`` says how the policy was found."""
    if plan is None:
        return Reason.NO_POLICY, why
    if plan.switched_off:
        return Reason.POLICY_DISABLED, f"policy {plan.policy!r} is switched off by hand (PolicyService.Switch)"
    if not plan.enabled:
        return Reason.POLICY_DISABLED, f"policy {plan.policy!r} is not enabled, or the whole configuration is not"
    return (Reason.HELD_OUT, f"policy {plan.policy!r} is not tried for this key") if plan.arm is Arm.HELD_OUT else None


def by_search(call: SearchCall, page: Page, plan: Plan) -> Skip | None:
    """Skip if the page cannot be reranked (see :func:`skip_reason`), or leaves its length to the engine."""
    if sizes_itself(call.body, call.params):
        return Reason.WINDOW_REFUSED, "a compound retriever without `size` gives as many hits as the engine decides"
    reason = skip_reason(call.body, call.params, page, plan.rank_window_size)
    if reason is Reason.NOT_RELEVANCE_SORTED and "search_after" in call.body:
        return reason, _CURSOR
    return _skip(reason)


def by_refused_window() -> Skip | None:
    """Skip because the engine accepted the search only without the window."""
    return _skip(Reason.WINDOW_REFUSED)


def by_hits(candidates: Sequence[Candidate], pinned_ids: Collection[str]) -> Skip | None:
    """Skip if the engine found fewer than two hits, gave a hit no score, or all hits are pinned."""
    if any(candidate.score is None for candidate in candidates):
        return _skip(Reason.NOT_RELEVANCE_SORTED)
    return _skip(Reason.NO_CANDIDATES) if len(candidates) < 2 else _all_pinned(candidates, pinned_ids)


def by_count(candidates: Sequence[Candidate], pinned_ids: Collection[str]) -> Skip | None:
    """Skip if there are no candidates, or all are pinned. A single one is still scored: see ``Rerank``."""
    return _skip(Reason.NO_CANDIDATES) if not candidates else _all_pinned(candidates, pinned_ids)


def _all_pinned(candidates: Sequence[Candidate], pinned_ids: Collection[str]) -> Skip | None:
    if pinned_ids and all(one.has_id(pinned_ids) for one in candidates):
        return Reason.NO_CANDIDATES, "every candidate is pinned"
    return None


def _skip(reason: Reason | None) -> Skip | None:
    return None if reason is None else (reason, _SENTENCES[reason])
