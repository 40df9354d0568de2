"""What a call may do: which connector, which index, under which plan. Decided before a search or fetch is sent."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import NoReturn

from connectors.base import Connector
from connectors.hits import Json
from sidecar import policy, skips, window
from sidecar.callers import Caller
from sidecar.calls import RerankCall, SearchCall
from sidecar.errors import InvalidRequest, NoAuthorization, NotAllowed, UnknownName
from sidecar.index_names import is_allowed
from sidecar.lookups import hides_a_query, named_indices
from sidecar.names import Known
from sidecar.policy import Plan
from sidecar.resolution import Resolution, Resolver, UnknownPolicy
from sidecar.settings import Limits, Settings
from sidecar.skips import Skip
from sidecar.text import lacks_text
from sidecar.types import Candidate
from sidecar.wildcards import matches
from sidecar.window import EngineRequest

_NO_LIMITS = Limits()
_SHOWN_CHARS = 200
_NAMES_SHARE = 0.25
_UNNAMED_USER = "connector {!r} forwards the end user's rights: send `authorization` as metadata of the call"


@dataclass(frozen=True, slots=True)
class Prepared:
    """Everything decided about a search before it is sent. ``plan`` is None only where ``skip`` says why.

    ``known`` is what the index expression stands for; None if the engine did not have to be asked.
    """

    call: SearchCall
    connector: Connector
    plan: Plan | None
    why: str
    skip: Skip | None
    request: EngineRequest
    known: Known | None = None


@dataclass(frozen=True, slots=True)
class Access:
    """What a Rerank call may use: its plan (None: no policy applies, see ``why``), and the connector to fetch from.

    No document is ever fetched from ``closed_indices``; ``connector`` is None if none can be fetched at all.
    """

    plan: Plan | None
    why: str
    connector: Connector | None
    closed_indices: frozenset[str]


class Gate:
    """Authorises and plans calls by the configuration. No I/O; only :meth:`work_out` may be slow."""

    def __init__(
        self,
        settings: Settings,
        connectors: Mapping[str, Connector],
        is_off: Callable[[str], bool] = lambda _: False,
    ) -> None:
        """``is_off`` returns whether the named policy is switched off by hand."""
        self._settings = settings
        self._is_off = is_off
        self._connectors = connectors
        self._resolver = Resolver(settings)
        self._plans = policy.Plans(settings)

    def for_search(self, call: SearchCall) -> Connector:
        """The connector that a search goes to, acting with its own rights or the end user's, as configured.

        Raises:
            InvalidRequest, UnknownName, NotAllowed, NoAuthorization: the call is not valid or not allowed.
        """
        if not call.index:
            raise InvalidRequest("`index` is empty; name the index, alias or pattern to search")
        name = self._connector_name(call)
        if name is None:
            allowed = ", ".join(self._connectors_of(call.caller)) or "none"
            raise InvalidRequest(f"name a `connector`; allowed: {allowed}")
        self._allow(name, call.index, call.caller)
        return self._with_rights(name, call.authorization)

    def names_timeout_s(self, call: SearchCall | RerankCall) -> float:
        """Seconds to wait for index names to be resolved: a share of the smallest budget that the call may get."""
        budgets_ms = [policy.budget_ms for policy in self._settings.policies.values()]
        asked_ms = call.narrowing.overrides.budget_ms
        return min([*budgets_ms, asked_ms] if asked_ms else budgets_ms) / 1e3 * _NAMES_SHARE

    def must_ask(self, connector: Connector, call: SearchCall | RerankCall) -> bool:
        """Whether the policy depends on what the index expression stands for."""
        return self._resolver.must_ask(connector.name, call.index or None, call.narrowing.policy)

    def work_out(self, connector: str | None, index: str, known: Known) -> Resolution:
        """Choose the policy by the resolved indices, and keep it in ``known``; may be called from any thread."""
        if known.resolution is None:
            known.resolution = self._resolver.choose(connector, index, known.members, known.problem)
        return known.resolution

    def prepare(self, call: SearchCall, connector: Connector, known: Known | None, time_left_s: float) -> Prepared:
        """Choose the plan of a search and build its request; ``time_left_s`` bounds a timeout given to the engine.

        Raises:
            InvalidRequest, NotAllowed: the call is not valid or not allowed.
        """
        if self._restricts(connector.name, call.caller):
            self._check_body(connector.name, call.body, call.caller)
        plan, why = self._plan(connector.name, call, known)
        page = window.page_of(call.body, call.params)
        skip = skips.by_policy(plan, why) or (skips.by_search(call, page, plan) if plan else None)
        size = plan.rank_window_size if plan and not skip else None
        return Prepared(call, connector, plan, why, skip, _request(call, plan, size, time_left_s), known)

    def as_asked(self, prepared: Prepared, time_left_s: float) -> Prepared:
        """The same search as the app wrote it, without the window that the engine has refused; not reranked."""
        own = _request(prepared.call, prepared.plan, None, time_left_s)
        return replace(prepared, skip=skips.by_refused_window(), request=own)

    def for_rerank(self, call: RerankCall) -> tuple[str | None, Connector | None]:
        """The connector's name, and the connector if texts can be fetched from it, acting as in :meth:`for_search`.

        Raises:
            UnknownName, NotAllowed: there is no such connector, or it is not for the caller's role.
            InvalidRequest: the end user's `authorization` cannot be used.
        """
        name = self._connector_name(call)
        if name is None or (self._forwards(name) and call.authorization is None):
            return name, None
        return name, self._with_rights(name, call.authorization)

    def to_be_resolved(self, connector: Connector, call: RerankCall) -> list[str]:
        """Index names of candidates without text that have to be resolved, as they may be aliases.

        A fetch by id would bypass an alias's filter. Empty where the caller may read every index.
        """
        if not self._restricts(connector.name, call.caller):
            return []
        named = {one.ref.index for one in call.candidates if one.ref and one.text is None}
        return sorted(name for name in named if name and self._is_allowed(connector.name, name, call.caller))

    def plan_of(self, call: RerankCall, name: str | None, known: Known | None) -> tuple[Plan | None, str]:
        """The plan of a Rerank call, and why it is this one; needed before its candidates' indices are resolved.

        Raises:
            InvalidRequest, NotAllowed: the call is not valid or not allowed.
        """
        plan, why = self._plan(name, call, known)
        self._check_counts(plan, call)
        return plan, why

    def access(
        self,
        call: RerankCall,
        planned: tuple[Plan | None, str],
        name: str | None,
        connector: Connector | None,
        resolved: Mapping[str, Known],
    ) -> Access:
        """What a Rerank call may use. Its candidates may claim to be from any index: where not every index is allowed,
        texts are fetched only from concrete indices that are allowed by their own name.

        Raises:
            InvalidRequest, NotAllowed: the call is not valid or not allowed.
            NoAuthorization: texts are missing, and the connector fetches only with an end user's rights.
        """
        plan, why = planned
        missing = [candidate for candidate in call.candidates if needs_fetch(candidate, plan)]
        if connector is None:
            if missing:
                self._cannot_fetch(missing[0], name)
            return Access(plan, why, None, frozenset())
        closed = self._closed(connector, call)
        doubtful = {index for index, one in resolved.items() if index not in {member.index for member in one.members}}
        for candidate in missing:
            index = candidate.ref.index if candidate.ref else None
            if index == "":
                raise InvalidRequest(f"candidates[{candidate.rank}] has no text, and no `index` says where to fetch it")
            if index in closed:
                self._allow(connector.name, index, call.caller)
            if index in doubtful and not resolved[index].problem:
                raise NotAllowed(
                    f"{index!r} is not a concrete index; this connector fetches texts from concrete indices only"
                )
        return Access(plan, why, connector, closed | doubtful)

    def _cannot_fetch(self, candidate: Candidate, name: str | None) -> NoReturn:
        if name is not None:
            raise NoAuthorization(_UNNAMED_USER.format(name))
        raise InvalidRequest(
            f"candidate {candidate.rank} has neither `text` nor a `_source`, and `connector` does not say "
            "where to fetch it"
        )

    def search_timeout_s(self, connector: Connector) -> float:
        """Seconds that a search on this connector may take."""
        return self._settings.connectors[connector.name].search_timeout_ms / 1e3

    def _plan(
        self, connector: str | None, call: SearchCall | RerankCall, known: Known | None
    ) -> tuple[Plan | None, str]:
        """The plan of a call and why it is this one; None when no policy applies.

        Raises:
            InvalidRequest: the policy is unknown or in conflict, a value is over its limit, or the query is too long.
            NotAllowed: the policy is not for the caller's role.
        """
        narrowing = call.narrowing
        self._check_policy(narrowing.policy, call.caller)  # before the lookup, so also for unknown names
        found = self._resolution(connector, call, known)
        self._check_policy(found.policy_name, call.caller)
        key, overrides = narrowing.arm_key(call.query), narrowing.overrides
        plan = self._plans.of(found.policy_name, overrides, key) if found.policy_name else None
        if plan and self._is_off(plan.policy):
            plan = replace(plan, switched_off=True)
        limit = (plan.limits if plan else _NO_LIMITS).query_chars
        if len(call.query) > limit:
            raise InvalidRequest(f"`query` has {len(call.query)} characters, at most {limit} are allowed")
        return plan, found.why

    def _check_policy(self, name: str | None, caller: Caller) -> None:
        if name and not fits(caller.role.policies, name):
            raise NotAllowed(f"policy {name!r} is not for the role of {caller.name!r}")
        if name and name not in self._settings.policies:
            known = [one for one in self._settings.policies if fits(caller.role.policies, one)]
            raise UnknownPolicy(f"there is no policy {name!r}; the policies are: {', '.join(known) or 'none'}")

    def _resolution(self, connector: str | None, call: SearchCall | RerankCall, known: Known | None) -> Resolution:
        """The policy of a call; the one that follows from ``known`` is worked out once and kept in it."""
        if known is None or call.narrowing.policy is not None:
            return self._resolver.resolve(connector, call.index or None, call.narrowing.policy)
        return self.work_out(connector, call.index, known).checked()

    def _check_counts(self, plan: Plan | None, call: RerankCall) -> None:
        limit = (plan.limits if plan else _NO_LIMITS).candidates
        if len(call.candidates) > limit:
            raise InvalidRequest(f"there are {len(call.candidates)} `candidates`, at most {limit} are allowed")
        if call.top_n is not None and call.top_n > limit:
            raise InvalidRequest(f"`top_n` is {call.top_n}; allowed: 1..{limit}")

    def _connector_name(self, call: SearchCall | RerankCall) -> str | None:
        """The connector asked for; if none is, the only one that the caller may use, or None if there is not just one.

        Raises:
            UnknownName, NotAllowed: the connector is not configured, or not for the caller's role.
        """
        asked, known = call.connector, self._connectors_of(call.caller)
        if asked and asked not in known:
            if asked in self._connectors:
                raise NotAllowed(f"connector {asked!r} is not for the role of {call.caller.name!r}")
            raise UnknownName(f"there is no connector {asked!r}; known: {', '.join(known) or 'none'}")
        return asked or (known[0] if len(known) == 1 else None)

    def _connectors_of(self, caller: Caller) -> list[str]:
        """Names of the connectors that a caller may use."""
        return [name for name in self._connectors if fits(caller.role.connectors, name)]

    def _with_rights(self, name: str, authorization: str | None) -> Connector:
        """The connector with its own credentials or, where it forwards, with the end user's alone.

        Raises:
            NoAuthorization, InvalidRequest: the end user's `authorization` is missing, or cannot be used.
        """
        connector = self._connectors[name]
        if not self._forwards(name):
            return connector
        if authorization is None:
            raise NoAuthorization(_UNNAMED_USER.format(name))
        try:
            return connector.acting_as(authorization)
        except ValueError as error:
            raise InvalidRequest(f"metadata `authorization`: {error}") from None

    def _forwards(self, name: str) -> bool:
        return bool(getattr(self._settings.connectors[name], "forward_authorization", False))

    def _restricts(self, name: str, caller: Caller) -> bool:
        everything = ("*",)
        return tuple(self._settings.connectors[name].allow_indices) != everything or caller.role.indices != everything

    def _check_body(self, connector: str, body: Json, caller: Caller) -> None:
        """Refuse a body that reads an index which is not allowed, or hides which one it reads.

        Called only where not every index is allowed.
        """
        if "pit" in body:
            raise NotAllowed("a point in time hides which index it reads: only some indices are allowed here")
        if hides_a_query(body):
            raise NotAllowed("a `wrapper` query, or `collate`, hides what it reads: only some indices are allowed here")
        for index in named_indices(body):
            self._allow(connector, index, caller)

    def _closed(self, connector: Connector, call: RerankCall) -> frozenset[str]:
        named = {candidate.ref.index for candidate in call.candidates if candidate.ref}
        return frozenset(index for index in named if not self._is_allowed(connector.name, index, call.caller))

    def _is_allowed(self, connector: str, index: str, caller: Caller) -> bool:
        allowed = self._settings.connectors[connector].allow_indices, caller.role.indices
        return all(is_allowed(patterns, index) for patterns in allowed)

    def _allow(self, connector: str, index: str, caller: Caller) -> None:
        if not self._is_allowed(connector, index, caller):
            shown = index if len(index) <= _SHOWN_CHARS else f"{index[:_SHOWN_CHARS]}..."
            mine = is_allowed(self._settings.connectors[connector].allow_indices, index)
            whose = f"for the role of {caller.name!r}" if mine else "allowed"
            raise NotAllowed(f"index {shown!r} is not {whose} on connector {connector!r}")


def fits(patterns: Iterable[str], name: str) -> bool:
    """Whether a name fits one of the patterns, in which `*` stands for any text."""
    return any(matches(pattern, name) for pattern in patterns)


def _request(call: SearchCall, plan: Plan | None, size: int | None, time_left_s: float) -> EngineRequest:
    page = window.page_of(call.body, call.params)
    request = window.request(call.index, call.body, call.params, page, size)
    return window.stopping_after(request, time_left_s) if plan and plan.engine_timeout else request


def needs_fetch(candidate: Candidate, plan: Plan | None) -> bool:
    """Whether a candidate came without text: no ``text``, no source, and none of the plan's fields in its hit."""
    if candidate.text is not None or candidate.source is not None:
        return False
    return plan is None or lacks_text(candidate, plan.text)
