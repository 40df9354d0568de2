"""Which policy an index expression gets, and why: docs/policies.md tells the rule. Pure."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from connectors.base import Member
from sidecar.errors import InvalidRequest
from sidecar.index_names import MAX_EXPRESSION_CHARS
from sidecar.settings import PolicySettings, Settings
from sidecar.specificity import Table
from sidecar.votes import Part, Vote, of_members, of_parts, parts_of, shorten

_SHOWN_VOTES = 10
_SHOWN_CHARS = 200
_STRICTNESS = ("default", "strictest", "refuse")


class UnknownPolicy(InvalidRequest):
    """The request names a policy that is not configured."""


class PolicyConflict(InvalidRequest):
    """The indices of the request are for different policies, and one of these says `on_conflict: refuse`."""


@dataclass(frozen=True, slots=True)
class Resolution:
    """The policy chosen for a request, None if there is none, and one plain sentence that says why."""

    policy_name: str | None
    why: str


def must_ask(settings: Settings, connector: str | None, index: str | None, policy: str | None) -> bool:
    """Whether the policy depends on what the expression stands for, so that the engine has to be asked.

    It does not where the request names its policy, where each part is settled by its own name (an exact `match`, or
    one that no other policy's can beat), and where every policy that could be chosen is the same.
    """
    if policy is not None or not index or len(index) > MAX_EXPRESSION_CHARS:
        return False
    table = Table(settings, connector)
    if len(table.policies | {settings.default_policy}) < 2:
        return False
    return not all(table.decides(part.written) for part in parts_of(index))


def resolve(
    settings: Settings,
    connector: str | None,
    index: str | None,
    policy: str | None,
    members: Sequence[Member] | None = None,
    problem: str = "",
) -> Resolution:
    """Choose the policy for an index expression (`a`, `a-*`, `a,b`, an alias), or take the one the request names.

    ``members`` are the indices behind the whole expression, where the engine was asked (see :func:`must_ask`);
    ``problem`` says why it could not tell. Without members each part is matched as it is written.

    The most specific `match` wins: an exact name before a pattern, then the pattern with more literal characters,
    then one that names its connector, then the earlier in the file. What a part stands for is matched by the part as
    written, by the alias or data stream that leads to it, and by its own name. Where the results differ, the strictest
    `on_conflict` of the policies involved decides; what none matches counts as `default_policy`'s. Exclusions
    (`-old`) have no say.

    Raises:
        UnknownPolicy: the request names a policy that is not configured.
        PolicyConflict: the indices are for different policies, and one of these refuses that.
        InvalidRequest: ``index`` has more than MAX_EXPRESSION_CHARS characters.

    A reason reads: index 'articles-2026' matches 'articles-*' (policy articles, 9 literal characters); also matched:
    everything '*'
    """
    if policy is not None:
        configured(settings, policy)
        return Resolution(policy, f"the request names policy {policy}")
    expression = index or ""
    if len(expression) > MAX_EXPRESSION_CHARS:
        raise InvalidRequest(f"index has {len(expression)} characters; at most {MAX_EXPRESSION_CHARS} are allowed")
    parts = parts_of(expression)
    if not parts:
        return _default(settings, "the request names no index")
    table = Table(settings, connector)
    if (members is None and not problem) or not must_ask(settings, connector, index, None):
        return _as_written(settings, connector, table, parts)
    if members and (votes := of_members(table, parts, members)):
        return _choose(settings, votes, _Story.of_members(parts, connector))
    note = f"the engine could not say what it stands for: {shorten(problem, _SHOWN_CHARS)}" if problem else ""
    return _as_written(settings, connector, table, parts, f"; {note or 'it stands for no index now'}")


def configured(settings: Settings, policy: str) -> PolicySettings:
    """The policy of this name. Raises UnknownPolicy."""
    if policy not in settings.policies:
        raise UnknownPolicy(f"there is no policy {policy!r}; the policies are: {', '.join(settings.policies)}")
    return settings.policies[policy]


def _as_written(
    settings: Settings, connector: str | None, table: Table, parts: Sequence[Part], note: str = ""
) -> Resolution:
    if len(parts) == 1:
        return _one(settings, connector, table, parts[0].written, note)
    return _choose(settings, of_parts(table, parts), _Story.of_parts(parts, note))


def _one(settings: Settings, connector: str | None, table: Table, index: str, note: str) -> Resolution:
    shown = f"index {shorten(index, _SHOWN_CHARS)!r}{_on(connector)}"
    entries = table.all(index)
    if not entries:
        return _default(settings, f"no policy matches {shown}", note)
    best, *others = entries
    named = "by its exact name" if best.rank[0] else f"{best.rank[1]} literal characters"
    connected = ", for this connector" if best.rank[2] else ""
    rest = f"; also matched: {_listed(others)}" if others else ""
    return Resolution(
        best.policy, f"{shown} matches {best.pattern!r} (policy {best.policy}, {named}{connected}){rest}{note}"
    )


@dataclass(frozen=True, slots=True)
class _Story:
    """How the reasons begin: where no policy matches, where all agree on one, and where they do not."""

    none: str
    agree: str
    differ: str
    note: str = ""

    @staticmethod
    def of_parts(parts: Sequence[Part], note: str) -> "_Story":
        shown = _expression(parts)
        return _Story(
            f"no policy matches a part of {shown}",
            f"every part of {shown} matches policy",
            f"the parts of {shown} do not agree on a policy",
            note,
        )

    @staticmethod
    def of_members(parts: Sequence[Part], connector: str | None) -> "_Story":
        shown = f"{_expression(parts)}{_on(connector)}"
        return _Story(
            f"no policy matches {shown} or what it stands for",
            f"all that {shown} stands for is for policy",
            f"what {shown} stands for does not agree on a policy",
        )


def _choose(settings: Settings, votes: Sequence[Vote], story: _Story) -> Resolution:
    """The policy that all votes agree on, or the one that `on_conflict` makes of them."""
    default = settings.default_policy
    parties = {vote.entry.policy if vote.entry else default for vote in votes}
    told = f"({_listed(_one_of_each_first(votes))})"
    if not any(vote.entry for vote in votes):
        return _default(settings, f"{story.none} {told}", story.note)
    if len(parties) == 1:
        (name,) = parties
        unmatched = "" if all(vote.entry for vote in votes) else f"; default_policy {default} counts for none"
        return Resolution(name, f"{story.agree} {name} {told}{unmatched}{story.note}")
    return _CONFLICT[_statement(settings, parties)](settings, parties, f"{story.differ} {told}", story.note)


def _statement(settings: Settings, parties: set[str | None]) -> str:
    """The strictest of what the policies say should happen."""
    return max((settings.policies[name].on_conflict for name in parties if name is not None), key=_STRICTNESS.index)


def _default(settings: Settings, reason: str, note: str = "") -> Resolution:
    if settings.default_policy is None:
        return Resolution(None, f"{reason}, and there is no default_policy{note}")
    return Resolution(settings.default_policy, f"{reason}, so default_policy {settings.default_policy} is taken{note}")


def _strictest(settings: Settings, parties: set[str | None], reason: str, note: str) -> Resolution:
    """A disabled policy first, then none at all, then the smallest window, then the smallest budget, then the file."""
    order = list(settings.policies)

    def strictness(name: str | None) -> tuple[int, int, int, int]:
        if name is None:
            return 1, 0, 0, 0
        policy = settings.policies[name]
        return (2 if policy.enabled else 0), policy.rank_window_size, policy.budget_ms, order.index(name)

    name = min(parties, key=strictness)
    taken = "the strictest is to have none" if name is None else f"policy {name} is taken as the strictest"
    return Resolution(name, f"{reason}, so {taken} (on_conflict){note}")


def _refuse(settings: Settings, parties: set[str | None], reason: str, note: str) -> Resolution:
    who = next(
        name for name in settings.policies if name in parties and settings.policies[name].on_conflict == "refuse"
    )
    raise PolicyConflict(f"{reason}, and policy {who} refuses that (on_conflict): search them apart{note}")


def _by_default(settings: Settings, _: set[str | None], reason: str, note: str) -> Resolution:
    return _default(settings, reason, note)


_CONFLICT: dict[str, Callable[[Settings, set[str | None], str, str], Resolution]] = {
    "default": _by_default,
    "strictest": _strictest,
    "refuse": _refuse,
}


def _one_of_each_first(votes: Sequence[Vote]) -> list[Vote]:
    """The votes, in an order whose first entries show every policy that has one."""
    first: dict[str | None, Vote] = {}
    for vote in votes:
        first.setdefault(vote.entry.policy if vote.entry else None, vote)
    shown = set(map(id, first.values()))
    return [*first.values(), *(vote for vote in votes if id(vote) not in shown)]


def _listed(things: Sequence[object]) -> str:
    more = f" and {len(things) - _SHOWN_VOTES} more" if len(things) > _SHOWN_VOTES else ""
    return ", ".join(map(str, things[:_SHOWN_VOTES])) + more


def _expression(parts: Sequence[Part]) -> str:
    return repr(shorten(",".join(part.written for part in parts), _SHOWN_CHARS))


def _on(connector: str | None) -> str:
    return f" on connector {connector!r}" if connector else ""
