"""Which policy's `match` fits a name best. Pure."""

from collections.abc import Iterator
from enum import IntEnum
from typing import NamedTuple

from sidecar.index_names import fits
from sidecar.settings import Settings


class Near(IntEnum):
    """How near a name of an index is to what the request wrote; the nearer one wins among equals."""

    CONCRETE = 0
    """The index itself."""
    VIA = 1
    """An alias or data stream that led to it."""
    WRITTEN = 2
    """A part of the request's expression."""


class Entry(NamedTuple):
    """One `match` of one policy. `rank` is (exact, literal characters, names its connector): more is more specific."""

    policy: str
    pattern: str
    rank: tuple[bool, int, bool]
    place: int
    pieces: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.policy} {self.pattern!r}"

    def key(self, near: Near) -> tuple[bool, int, int, bool, int, int]:
        """What orders entries that fit different names of one index: the largest wins.

        Of two exact ones the nearer wins, since lengths of different names tell nothing.
        """
        exact, literal, connected = self.rank
        return exact, near if exact else 0, literal, connected, near, -self.place


class Table:
    """The `match` entries of all policies that count for one connector (or for a call without one)."""

    def __init__(self, settings: Settings, connector: str | None) -> None:
        entries = list(_entries(settings, connector))
        self.policies = frozenset(entry.policy for entry in entries)
        self._entries = sorted(entries, key=lambda entry: (entry.rank, -entry.place), reverse=True)
        self._exact: dict[str, Entry] = {}
        for entry in self._entries:
            if entry.rank[0]:
                self._exact.setdefault(entry.pattern, entry)
        self._patterns = [entry for entry in self._entries if not entry.rank[0]]

    def best(self, name: str) -> Entry | None:
        """The most specific entry that fits; of equals the first in the file."""
        return self._exact.get(name) or next((entry for entry in self._patterns if fits(entry.pieces, name)), None)

    def all(self, name: str) -> list[Entry]:
        """The best fitting entry of each policy that has one, the most specific first."""
        found: dict[str, Entry] = {}
        for entry in self._entries:
            if entry.policy not in found and fits(entry.pieces, name):
                found[entry.policy] = entry
        return list(found.values())

    def decides(self, part: str) -> bool:
        """Whether no alias or index that a part of an expression may stand for can match another policy better."""
        best = self.best(part)
        if best is None:
            return False
        highest = best.key(Near.WRITTEN)
        return not any(entry.policy != best.policy and entry.key(Near.VIA) > highest for entry in self._entries)


def _entries(settings: Settings, connector: str | None) -> Iterator[Entry]:
    place = 0
    for name, policy in settings.policies.items():
        for match in policy.match:
            if match.connector in (None, connector):
                literal = len(match.index) - match.index.count("*")
                rank = ("*" not in match.index, literal, match.connector is not None)
                yield Entry(name, match.index, rank, place, tuple(match.index.split("*")))
                place += 1
