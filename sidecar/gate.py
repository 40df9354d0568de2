"""What a call may do: which connector, which index, under which plan. Decides before a byte goes to the engine."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from connectors.base import Connector
from connectors.hits import Json
from sidecar import policy, skips, window
from sidecar.calls import Narrowing, RerankCall, SearchCall
from sidecar.errors import InvalidRequest, NotAllowed, UnknownName
from sidecar.lookups import named_indices
from sidecar.policy import Plan
from sidecar.settings import Limits, Settings
from sidecar.skips import Skip
from sidecar.types import Candidate
from sidecar.window import EngineRequest

_NO_LIMITS = Limits()
_SHOWN_CHARS = 200


@dataclass(frozen=True, slots=True)
class Prepared:
    """All that is decided of a search before the engine is asked. ``plan`` is None only where ``skip`` says why."""

    connector: Connector
    plan: Plan | None
    why: str
    skip: Skip | None
    request: EngineRequest


class Gate:
    """Checks calls against the configuration. All methods are quick and touch nothing but it."""

    def __init__(self, settings: Settings, connectors: Mapping[str, Connector]) -> None:
        self._settings = settings
        self._connectors = connectors

    def prepare(self, call: SearchCall) -> Prepared:
        """Where a search goes, under which plan, and as which request.

        Raises:
            InvalidRequest, UnknownName, NotAllowed: the call is not valid or not allowed.
        """
        connector = self._for_search(call)
        plan, why = self.plan(connector.name, call.index, call.query, call.narrowing)
        page = window.page_of(call.body, call.params)
        skip = skips.by_policy(plan, why) or (skips.by_search(call, page, plan) if plan else None)
        size = plan.rank_window_size if plan and not skip else None
        return Prepared(connector, plan, why, skip, window.request(call.index, call.body, call.params, page, size))

    def as_asked(self, call: SearchCall, prepared: Prepared) -> Prepared:
        """The same search without the window, which the engine has refused."""
        page = window.page_of(call.body, call.params)
        own = window.request(call.index, call.body, call.params, page, None)
        return replace(prepared, skip=skips.by_refused_window(), request=own)

    def _for_search(self, call: SearchCall) -> Connector:
        if not call.index:
            raise InvalidRequest("`index` is empty; name the index, alias or pattern to search")
        name = self._connector_name(call.connector)
        if name is None:
            raise InvalidRequest("`connector` is empty, and not exactly one connector is configured")
        self._allow(name, call.index)
        if tuple(self._settings.connectors[name].allow_indices) != ("*",):
            self._check_body(name, call.body)
        return self._connectors[name]

    def for_rerank(self, call: RerankCall) -> Connector | None:
        """The connector that fetches the missing texts of ``call``; None when no candidate needs it.

        Raises:
            InvalidRequest, UnknownName, NotAllowed: texts are missing and cannot be fetched.
        """
        missing = [candidate for candidate in call.candidates if needs_fetch(candidate)]
        name = self._connector_name(call.connector)
        if not missing:
            return self._connectors[name] if name else None
        if name is None:
            raise InvalidRequest(
                f"candidate {missing[0].rank} has neither `text` nor a `_source`, and `connector` does not say "
                "where to fetch it"
            )
        for index in {candidate.ref.index for candidate in missing if candidate.ref}:
            self._allow(name, index)
        return self._connectors[name]

    def closed_indices(self, connector: Connector | None, call: RerankCall) -> frozenset[str]:
        """Indices named by candidates that the connector may not read, since a hit may say that it is from anywhere."""
        if connector is None:
            return frozenset()
        allowed = self._settings.connectors[connector.name].allow_indices
        named = {candidate.ref.index for candidate in call.candidates if candidate.ref}
        return frozenset(index for index in named if not policy.is_allowed(allowed, index))

    def check_counts(self, plan: Plan | None, call: RerankCall) -> None:
        """Refuse more candidates, or more results, than the policy allows.

        Raises:
            InvalidRequest: a count is over its limit.
        """
        limit = (plan.limits if plan else _NO_LIMITS).candidates
        if len(call.candidates) > limit:
            raise InvalidRequest(f"there are {len(call.candidates)} `candidates`, at most {limit} are allowed")
        if call.top_n is not None and call.top_n > limit:
            raise InvalidRequest(f"`top_n` is {call.top_n}; allowed: 1..{limit}")

    def _connector_name(self, asked: str) -> str | None:
        """The configured name: ``asked``, or the only one when nothing is asked; None when that is not clear."""
        if asked and asked not in self._connectors:
            raise UnknownName(f"there is no connector {asked!r}; known: {', '.join(self._connectors) or 'none'}")
        return asked or (next(iter(self._connectors)) if len(self._connectors) == 1 else None)

    def plan(self, connector: str | None, index: str, query: str, narrowing: Narrowing) -> tuple[Plan | None, str]:
        """The plan of a call and why it is this one; None when no policy applies.

        Raises:
            InvalidRequest: the policy is unknown, a value is over its limit, or the query is too long.
        """
        resolution = policy.resolve(self._settings, connector, index or None, narrowing.policy)
        if resolution.policy_name is None:
            plan = None
        else:
            plan = policy.plan(self._settings, resolution.policy_name, narrowing.overrides)
        limit = (plan.limits if plan else _NO_LIMITS).query_chars
        if len(query) > limit:
            raise InvalidRequest(f"`query` has {len(query)} characters, at most {limit} are allowed")
        return plan, resolution.why

    def search_timeout_s(self, connector: Connector) -> float:
        """The longest that a search on this connector may take."""
        return self._settings.connectors[connector.name].search_timeout_ms / 1e3

    def _check_body(self, connector: str, body: Json) -> None:
        """Where not every index is allowed, the body may not read another one past the URL."""
        if "pit" in body:
            raise NotAllowed("a point in time hides which index it reads: this connector allows only some indices")
        for index in named_indices(body):
            self._allow(connector, index)

    def _allow(self, connector: str, index: str) -> None:
        if not policy.is_allowed(self._settings.connectors[connector].allow_indices, index):
            shown = index if len(index) <= _SHOWN_CHARS else f"{index[:_SHOWN_CHARS]}..."
            raise NotAllowed(f"index {shown!r} is not allowed on connector {connector!r}")


def needs_fetch(candidate: Candidate) -> bool:
    """Whether nothing of a candidate's text came with the request."""
    return candidate.text is None and candidate.source is None
