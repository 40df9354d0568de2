"""Which policy an index expression gets, and why; docs/policies.md states the rules. Pure."""

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

    ``refused``: an `on_conflict: refuse` forbids answering the request.
    """

    policy_name: str | None
    why: str
    refused: bool = False

    def checked(self) -> "Resolution":
        """Return itself; raises PolicyConflict if it is refused."""
        if self.refused:
            raise PolicyConflict(self.why)
        return self


class Resolver:
    """Chooses policies by one configuration, whose match tables are built once."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._tables = {name: Table(settings, name) for name in (None, *settings.connectors)}

    def must_ask(self, connector: str | None, index: str | None, policy: str | None) -> bool:
        """Whether the engine has to resolve the expression before its policy can be chosen.

        Not where the request names its policy, where each part's own name settles it (an exact `match`, or one that
        no other policy's can beat), where only one policy could be chosen, or where the index is empty or too long.
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

        ``members`` are the indices behind the whole expression, if the engine was asked (see :meth:`must_ask`);
        ``problem`` says why it could not resolve them. Without members each part is matched as it is written.

        An index behind a part is matched by the part as written, by the alias or data stream that leads to it, and by
        its own name. The most specific `match` wins: an exact name before a pattern (of two exact names the nearer to
        the request), then the pattern with more literal characters, then one that names its connector, then the
        nearer, then the earlier in the file. Where indices or parts get different policies, the strictest
        `on_conflict` of these decides; one that no `match` fits counts as `default_policy`'s. Exclusions (`-old`) have
        no vote.

        A reason reads: index 'articles-2026' matches 'articles-*' (policy articles, 9 literal characters); also
        matched: everything '*'

        Raises:
            InvalidRequest: ``index`` has more than MAX_EXPRESSION_CHARS characters.
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
    """The settings of the named policy; raises UnknownPolicy."""
    if policy not in settings.policies:
        raise UnknownPolicy(f"there is no policy {policy!r}; the policies are: {', '.join(settings.policies)}")
    return settings.policies[policy]


def _counted(settings: Settings, votes: Sequence[Vote], subject: str) -> Resolution:
    """The policy that all votes agree on, else the one that `on_conflict` decides on."""
    first = {vote.policy: vote for vote in reversed(votes)}
    shown = [vote for vote in votes if first[vote.policy] is vote]  # the reason shows a vote for each policy
    shown += [vote for vote in votes[: len(shown) + _SHOWN_VOTES] if first[vote.policy] is not vote]
    told = f"({_listed(shown, len(votes))})"
    if set(first) == {None}:
        return _default(settings, f"no policy matches {subject} {told}")
    parties = {name or settings.default_policy for name in first}
    if len(parties) > 1:
        return _settled(settings, parties, f"{subject} is for different policies {told}")
    (name,) = parties
    unmatched = f"; default_policy {name} stands in where none matches" if None in first else ""
    return Resolution(name, f"{subject} is for policy {name} {told}{unmatched}")


def _settled(settings: Settings, parties: set[str | None], why: str) -> Resolution:
    """The decision of the strictest `on_conflict` among these policies; None among them stands for no policy."""
    stated = {name: settings.policies[name].on_conflict for name in settings.policies if name in parties}
    statement = max(stated.values(), key=_STRICTNESS.index)
    if statement == "default":
        return _default(settings, why)
    if statement == "refuse":
        who = next(name for name in stated if stated[name] == "refuse")
        return Resolution(None, f"{why}, and policy {who} refuses that (on_conflict): search them apart", refused=True)
    name = _strictest(settings, parties)
    taken = "the strictest is no policy" if name is None else f"policy {name} is taken as the strictest"
    return Resolution(name, f"{why}, so {taken} (on_conflict)")


def _strictest(settings: Settings, parties: set[str | None]) -> str | None:
    """The strictest: a disabled policy, then no policy, then smallest window, smallest budget, first in the file."""
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
