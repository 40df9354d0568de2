"""Which policy an index expression gets, and why: docs/policies.md tells the rule. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from connectors.base import Member
from sidecar.errors import InvalidRequest
from sidecar.index_names import MAX_EXPRESSION_CHARS
from sidecar.matching import Table
from sidecar.settings import PolicySettings, Settings
from sidecar.votes import Expression, Vote, of_members, of_parts, read, shorten

_SHOWN_VOTES = 10
_SHOWN_CHARS = 200
_STRICTNESS = ("default", "strictest", "refuse")


class UnknownPolicy(InvalidRequest):
    """The request names a policy that is not configured."""


class PolicyConflict(InvalidRequest):
    """The indices of the request are for different policies, and one of these says `on_conflict: refuse`."""


@dataclass(frozen=True, slots=True)
class Resolution:
    """The policy chosen for a request, None if there is none, and one plain sentence that says why.

    ``refused`` says that the request must not be answered, by an `on_conflict`.
    """

    policy_name: str | None
    why: str
    refused: bool = False

    def checked(self) -> "Resolution":
        """Itself. Raises PolicyConflict where it is a refusal."""
        if self.refused:
            raise PolicyConflict(self.why)
        return self


class Resolver:
    """Chooses policies by one configuration; what can be worked out of that alone is worked out once."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._tables = {name: Table(settings, name) for name in (None, *settings.connectors)}

    def must_ask(self, connector: str | None, index: str | None, policy: str | None) -> bool:
        """Whether the policy depends on what the expression stands for, so that the engine has to be asked.

        It does not where the request names its policy, where each part is settled by its own name (an exact `match`,
        or one that no other policy's can beat), and where every policy that could be chosen is the same.
        """
        if policy is not None or not index or len(index) > MAX_EXPRESSION_CHARS:
            return False
        return self._depends(self._table(connector), read(index))

    def resolve(
        self,
        connector: str | None,
        index: str | None,
        policy: str | None,
        members: Sequence[Member] | None = None,
        problem: str = "",
    ) -> Resolution:
        """The policy that the request names, or the one that :meth:`choose` finds.

        Raises:
            UnknownPolicy: the request names a policy that is not configured.
            PolicyConflict: the indices are for different policies, and one of these refuses that.
            InvalidRequest: ``index`` has more than MAX_EXPRESSION_CHARS characters.
        """
        if policy is not None:
            configured(self._settings, policy)
            return Resolution(policy, f"the request names policy {policy}")
        return self.choose(connector, index or "", members, problem).checked()

    def choose(
        self, connector: str | None, index: str, members: Sequence[Member] | None = None, problem: str = ""
    ) -> Resolution:
        """Choose the policy for an index expression (`a`, `a-*`, `a,b`, an alias), or refuse to.

        ``members`` are the indices behind the whole expression, where the engine was asked (see :meth:`must_ask`);
        ``problem`` says why it could not tell. Without members each part is matched as it is written.

        The most specific `match` wins: an exact name before a pattern, then the pattern with more literal characters,
        then one that names its connector, then the earlier in the file. What a part stands for is matched by the part
        as written, by the alias or data stream that leads to it, and by its own name. Where the results differ, the
        strictest `on_conflict` of the policies involved decides; what none matches counts as `default_policy`'s.
        Exclusions (`-old`) have no say.

        Raises:
            InvalidRequest: ``index`` has more than MAX_EXPRESSION_CHARS characters.

        A reason reads: index 'articles-2026' matches 'articles-*' (policy articles, 9 literal characters); also
        matched: everything '*'
        """
        if len(index) > MAX_EXPRESSION_CHARS:
            raise InvalidRequest(f"index has {len(index)} characters; at most {MAX_EXPRESSION_CHARS} are allowed")
        expression, table = read(index), self._table(connector)
        shown = f"{shorten(str(expression), _SHOWN_CHARS)!r}" + (f" on connector {connector!r}" if connector else "")
        if not expression.parts:
            return _default(self._settings, "the request names no index")
        if (members is None and not problem) or not self._depends(table, expression):
            return self._as_written(table, expression, shown)
        if members and (votes := of_members(table, expression, members)):
            return _counted(self._settings, votes, f"what {shown} stands for")
        missing = f"the engine could not say what it stands for: {shorten(problem, _SHOWN_CHARS)}" if problem else ""
        found = self._as_written(table, expression, shown)
        return replace(found, why=f"{found.why}; {missing or 'it stands for no index now'}")

    def _table(self, connector: str | None) -> Table:
        return self._tables.get(connector, self._tables[None])

    def _depends(self, table: Table, expression: Expression) -> bool:
        if len(table.policies | {self._settings.default_policy}) < 2:
            return False
        return not all(table.decides(part.written) for part in expression.parts)

    def _as_written(self, table: Table, expression: Expression, shown: str) -> Resolution:
        if len(expression.parts) > 1:
            return _counted(self._settings, of_parts(table, expression.parts), shown)
        entries = table.all(expression.parts[0].written)
        if not entries:
            return _default(self._settings, f"no policy matches index {shown}")
        best, *others = entries
        exact, literal, connected = best.weight
        named = "by its exact name" if exact else f"{literal} literal characters"
        told = f"(policy {best.policy}, {named}{', for this connector' if connected else ''})"
        rest = f"; also matched: {_listed(others)}" if others else ""
        return Resolution(best.policy, f"index {shown} matches {best.pattern!r} {told}{rest}")


def configured(settings: Settings, policy: str) -> PolicySettings:
    """The policy of this name. Raises UnknownPolicy."""
    if policy not in settings.policies:
        raise UnknownPolicy(f"there is no policy {policy!r}; the policies are: {', '.join(settings.policies)}")
    return settings.policies[policy]


def _counted(settings: Settings, votes: Sequence[Vote], subject: str) -> Resolution:
    """The policy that all votes agree on, or the one that `on_conflict` makes of them."""
    first = {vote.policy: vote for vote in reversed(votes)}
    shown = [vote for vote in votes if first[vote.policy] is vote]  # each policy that has a vote is seen in the reason
    shown += [vote for vote in votes[: len(shown) + _SHOWN_VOTES] if first[vote.policy] is not vote]
    told = f"({_listed(shown, len(votes))})"
    if set(first) == {None}:
        return _default(settings, f"no policy matches {subject} {told}")
    parties = {name or settings.default_policy for name in first}
    if len(parties) > 1:
        return _settled(settings, parties, f"{subject} is for different policies {told}")
    (name,) = parties
    unmatched = f"; default_policy {name} counts for none" if None in first else ""
    return Resolution(name, f"{subject} is for policy {name} {told}{unmatched}")


def _settled(settings: Settings, parties: set[str | None], why: str) -> Resolution:
    """What the strictest `on_conflict` of these policies, and None for no policy, makes of them."""
    stated = {name: settings.policies[name].on_conflict for name in settings.policies if name in parties}
    statement = max(stated.values(), key=_STRICTNESS.index)
    if statement == "default":
        return _default(settings, why)
    if statement == "refuse":
        who = next(name for name in stated if stated[name] == "refuse")
        return Resolution(None, f"{why}, and policy {who} refuses that (on_conflict): search them apart", refused=True)
    name = _strictest(settings, parties)
    taken = "the strictest is to have none" if name is None else f"policy {name} is taken as the strictest"
    return Resolution(name, f"{why}, so {taken} (on_conflict)")


def _strictest(settings: Settings, parties: set[str | None]) -> str | None:
    """A disabled policy first, then none at all, then the smallest window, then the smallest budget, then the file."""
    order = list(settings.policies)

    def strictness(name: str | None) -> tuple[int, int, int, int]:
        if name is None:
            return 1, 0, 0, 0
        policy = settings.policies[name]
        return (2 if policy.is_on else 0), policy.rank_window_size, policy.budget_ms, order.index(name)

    return min(parties, key=strictness)


def _default(settings: Settings, why: str) -> Resolution:
    if settings.default_policy is None:
        return Resolution(None, f"{why}, and there is no default_policy")
    return Resolution(settings.default_policy, f"{why}, so default_policy {settings.default_policy} is taken")


def _listed(things: Sequence[object], count: int | None = None) -> str:
    count = len(things) if count is None else count
    more = f" and {count - _SHOWN_VOTES} more" if count > _SHOWN_VOTES else ""
    return ", ".join(map(str, things[:_SHOWN_VOTES])) + more
