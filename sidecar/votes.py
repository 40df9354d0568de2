"""The policy that each index behind an expression votes for. Pure.

The engine resolves all parts of an expression together; this module works out again which part leads to which index.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from connectors.base import Member
from sidecar.matching import Entry, Key, Near, Table
from sidecar.wildcards import fits

MOST_COMPARISONS = 25_000
"""Most comparisons (stars of patterns times names) made to assign indices to parts; more would outlast a search."""

_SHOWN_CHARS = 80


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """One part of an expression: as written, its place there, and its pattern, split at the stars."""

    written: str
    place: int
    pieces: tuple[str, ...]

    @property
    def is_opaque(self) -> bool:
        """Whether only the engine knows which names the part stands for: date math."""
        return self.written.startswith("<")


class Expression(NamedTuple):
    """The parts of a comma list, each once, and its exclusions (`-x`) as (place, pattern split at the stars)."""

    parts: tuple[Part, ...]
    exclusions: tuple[tuple[int, tuple[str, ...]], ...]

    def __str__(self) -> str:
        return ",".join(part.written for part in self.parts)


def read(expression: str) -> Expression:
    """Parse a comma list into parts and exclusions; a repeated part has its last place."""
    found: dict[str, Part] = {}
    exclusions = []
    for place, piece in enumerate(expression.split(",")):
        if piece.startswith("-"):
            exclusions.append((place, tuple(piece[1:].split("*"))))
        elif piece:
            pattern = "*" if piece == "_all" else piece.partition("::")[0]
            found[piece] = Part(piece, place, tuple(pattern.split("*")))
    return Expression(tuple(found.values()), tuple(exclusions))


class Vote(NamedTuple):
    """The entry that fits an index or a part best (None: none fits), and ``fitting``, the name that it fits."""

    entry: Entry | None
    name: str
    fitting: str

    @property
    def policy(self) -> str | None:
        """The entry's policy; None if no entry fits."""
        return self.entry.policy if self.entry else None

    def __str__(self) -> str:
        shown = f"{shorten(self.name)!r}"
        if self.fitting != self.name:
            shown += f" as {shorten(self.fitting)!r}"
        return f"{shown}: {self.entry or 'none'}"


def of_parts(table: Table, parts: Sequence[Part]) -> list[Vote]:
    """The votes of the parts as they are written."""
    return [Vote(table.best(part.written), part.written, part.written) for part in parts]


def of_members(table: Table, expression: Expression, members: Sequence[Member]) -> list[Vote]:
    """The votes of the members, after those of the parts that are settled as written.

    A part that leads to no member has no vote, unless a policy matches it by its exact name. Members' votes are sorted
    by name, so that the order in which the engine lists its indices does not matter. Empty if nothing has a vote.
    """
    parts = expression.parts
    exact = {part for part in parts if (best := table.best(part.written)) and best.is_exact}
    settled = {part for part in parts if table.decides(part.written)}
    together = _best_fitting(table, [part for part in parts if part not in exact])
    vote, lead = _voting(table), _leading(expression, members)
    heard = set(exact)
    votes: dict[tuple[str, str], Vote] = {}

    def add(one: Vote) -> None:
        votes[one.name, one.entry.policy if one.entry else ""] = one

    for member in members:
        leading = lead(member)
        for part, via, excluded in leading:
            if excluded:
                continue
            if part in settled:
                heard.add(part)
            else:
                add(vote(member.index, via, part.written))
        if not leading:
            add(vote(member.index, member.via, together))
    return [*of_parts(table, [part for part in parts if part in heard]), *(votes[key] for key in sorted(votes))]


Lead = tuple[Part, tuple[str, ...], bool]
"""A part that leads to a member, the aliases through which it does, and whether a later `-x` excludes the member."""


def comparisons(expression: Expression, members: Sequence[Member]) -> int:
    """Comparisons needed to assign members to parts: each name with each star (at least one) of each pattern."""
    names = len({name for member in members for name in (member.index, *member.via)})
    of_parts, of_exclusions = (
        sum(max(1, len(pieces) - 1) for pieces in patterns)
        for patterns in ([part.pieces for part in expression.parts], [pieces for _, pieces in expression.exclusions])
    )
    return of_parts * names + of_exclusions * len(members)


def _leading(expression: Expression, members: Sequence[Member]) -> Callable[[Member], list[Lead]]:
    """A function that gives the parts leading to a member; always empty above :data:`MOST_COMPARISONS`."""
    if comparisons(expression, members) > MOST_COMPARISONS:
        return lambda _: []

    def fitting(name: str) -> tuple[Part, ...]:
        return tuple(part for part in expression.parts if fits(part.pieces, name))

    by_alias = cache(fitting)

    @cache
    def leads(own: tuple[Part, ...], via: tuple[str, ...], last: int) -> list[Lead]:
        aliases: dict[Part, list[str]] = {part: [] for part in own}
        for name in via:
            for part in by_alias(name):
                aliases.setdefault(part, []).append(name)
        # The engines apply an exclusion only to what a wildcard before it has found.
        return [(part, tuple(names), len(part.pieces) > 1 and part.place < last) for part, names in aliases.items()]

    def leading(member: Member) -> list[Lead]:
        excluded = [place for place, pieces in expression.exclusions if fits(pieces, member.index)]
        return leads(fitting(member.index), member.via, max(excluded, default=-1))

    return leading


def _best_fitting(table: Table, parts: Sequence[Part]) -> str:
    """The part, as written, that a policy matches best; empty if none is matched.

    It stands in for the unknown part of a member. If there are date math parts, it is one of these.
    """
    opaque = [part for part in parts if part.is_opaque]
    fitting = [
        (entry.keys[Near.WRITTEN], part.written) for part in opaque or parts if (entry := table.best(part.written))
    ]
    return max(fitting)[1] if fitting else ""


def _voting(table: Table) -> Callable[[str, tuple[str, ...], str], Vote]:
    """A function that gives the vote of an index, from the aliases that lead to it and the part as written."""

    @cache
    def by_others(via: tuple[str, ...], written: str) -> tuple[Key, str, Entry] | None:
        names = [*((Near.VIA, name) for name in via), (Near.WRITTEN, written)]
        fitting = [(entry.keys[near], name, entry) for near, name in names if (entry := table.best(name))]
        return max(fitting, key=lambda found: found[:2], default=None)

    def vote(index: str, via: tuple[str, ...], written: str) -> Vote:
        own, other = table.best(index), by_others(via, written)
        if other and (own is None or other[0] > own.keys[Near.CONCRETE]):
            return Vote(other[2], index, other[1])
        return Vote(own, index, index)

    return vote


def shorten(text: str, most: int = _SHOWN_CHARS) -> str:
    """The text, cut to ``most`` characters and "..." if it is longer."""
    return text if len(text) <= most else f"{text[:most]}..."
