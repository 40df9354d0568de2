"""What each index behind an expression says of the policy. Pure.

An expression is split into parts; the engine's answer tells which indices are behind all of them together, and this
module finds out again which part led to which index.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from connectors.base import Member
from sidecar.index_names import matches
from sidecar.specificity import Entry, Near, Table

_MOST_PAIRS = 50_000
"""Parts times members; beyond, they are not told apart, which would take longer than a search."""

_SHOWN_CHARS = 80


class Vote(NamedTuple):
    """The entry that fits an index, or a part, best, None where none does; and both in words."""

    entry: Entry | None
    name: str
    fitting: str

    def __str__(self) -> str:
        shown = f"{shorten(self.name)!r}"
        if self.fitting != self.name:
            shown += f" as {shorten(self.fitting)!r}"
        return f"{shown}: {self.entry or 'none'}"


@dataclass(frozen=True, slots=True)
class Part:
    """One part of an expression: as written, what stands behind is looked for by, and what is excluded after it."""

    written: str
    pattern: str
    exclusions: tuple[str, ...] = ()

    @property
    def is_opaque(self) -> bool:
        """Whether nothing but the engine can tell what the part's own names look like: date math."""
        return self.written.startswith("<")

    def leads_by(self, member: Member) -> tuple[str, ...] | None:
        """The aliases and data streams through which this part leads to the member; None if it does not lead there."""
        via = tuple(name for name in member.via if matches(self.pattern, name))
        return via if via or matches(self.pattern, member.index) else None

    def excludes(self, member: Member) -> bool:
        """Whether a later `-x` takes the member away; the engines do so only to what a wildcard found."""
        return any(matches(pattern, member.index) for pattern in self.exclusions)


def parts_of(expression: str) -> list[Part]:
    """The parts of a comma list that name something, each once; `-x` only takes away from the wildcards before it."""
    pieces = [piece for piece in expression.split(",") if piece]
    found: dict[str, Part] = {}
    exclusions: list[str] = []
    for piece in reversed(pieces):
        if piece.startswith("-"):
            exclusions.append(piece[1:])
        elif piece not in found:  # the last of several counts: what was excluded before it is there again
            pattern = "*" if piece == "_all" else piece.partition("::")[0]
            found[piece] = Part(piece, pattern, tuple(exclusions) if "*" in pattern else ())
    return list(reversed(found.values()))


def of_parts(table: Table, parts: Sequence[Part]) -> list[Vote]:
    """What the parts say as they are written."""
    return [Vote(table.best(part.written), part.written, part.written) for part in parts]


def of_members(table: Table, parts: Sequence[Part], members: Sequence[Member]) -> list[Vote]:
    """What the members say, and the parts that need none of them since they are settled as written.

    A part that leads to no member has no say, unless a policy matches it by its exact name. Sorted by name, so that the
    order in which an engine lists its indices is of no account. Empty if nothing has a say.
    """
    exact = {part for part in parts if (best := table.best(part.written)) and best.rank[0]}
    others = [part for part in parts if part not in exact]
    settled = {part for part in parts if table.decides(part.written)}
    told = parts if len(parts) * len(members) <= _MOST_PAIRS else []
    together = _best_fitting(table, [part for part in others if part.is_opaque] or others)
    heard, votes = set(exact), {}
    for member in members:
        leading = [(part, via) for part in told if (via := part.leads_by(member)) is not None]
        heard.update(part for part, _ in leading if part in settled and not part.excludes(member))
        found = [
            _vote(table, member.index, via, part.written)
            for part, via in leading
            if part not in settled and not part.excludes(member)
        ]
        for vote in found if leading else [_vote(table, member.index, member.via, together)]:
            votes[vote.name, vote.entry.policy if vote.entry else ""] = vote
    return [*of_parts(table, [part for part in parts if part in heard]), *(votes[key] for key in sorted(votes))]


def _best_fitting(table: Table, parts: Sequence[Part]) -> str:
    """The part, as written, that a policy matches best: it stands for all that cannot be told apart."""
    fitting = [(entry.key(Near.WRITTEN), part.written) for part in parts if (entry := table.best(part.written))]
    return max(fitting)[1] if fitting else ""


def _vote(table: Table, index: str, via: Sequence[str], written: str) -> Vote:
    names = [(Near.CONCRETE, index), *((Near.VIA, name) for name in via), (Near.WRITTEN, written)]
    fitting = [(entry.key(near), name, entry) for near, name in names if (entry := table.best(name)) is not None]
    if not fitting:
        return Vote(None, index, index)
    _, name, entry = max(fitting, key=lambda found: (found[0], found[1]))
    return Vote(entry, index, name)


def shorten(text: str, most: int = _SHOWN_CHARS) -> str:
    """The text, cut where it is longer than a sentence can bear."""
    return text if len(text) <= most else f"{text[:most]}..."
