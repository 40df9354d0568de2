"""Finds the policy whose `match` fits a name best. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

from sidecar.settings import Settings
from sidecar.wildcards import fits


class Near(IntEnum):
    """How near a name of an index is to what the request wrote; among equally specific matches the nearer wins."""

    CONCRETE = 0
    """The index itself."""
    VIA = 1
    """An alias or data stream that led to it."""
    WRITTEN = 2
    """A part of the request's expression."""


Key = tuple[bool, int, int, bool, int, int]
"""The sort key of entries that fit different names of one index; docs/policies.md states the order in words."""


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """One `match` of one policy. ``weight`` is (exact, literal characters, names its connector): more is more specific.

    ``keys`` holds a sort key for each :class:`Near`; the largest wins. Of two exact entries the nearer has it, since
    the lengths of different names mean nothing.
    """

    policy: str
    pattern: str
    weight: tuple[bool, int, bool]
    pieces: tuple[str, ...]
    keys: tuple[Key, ...]

    def __str__(self) -> str:
        return f"{self.policy} {self.pattern!r}"

    @property
    def is_exact(self) -> bool:
        """Whether it is a name rather than a pattern."""
        return self.weight[0]


class Table:
    """The `match` entries of all policies that apply to one connector (None: to a call without one)."""

    def __init__(self, settings: Settings, connector: str | None) -> None:
        self._entries = sorted(_entries(settings, connector), key=_on_one_name, reverse=True)
        self.policies = frozenset(entry.policy for entry in self._entries)
        self._exact = {entry.pattern: entry for entry in reversed(self._entries) if entry.is_exact}
        self._by_start: dict[str, list[Entry]] = {}
        for entry in self._entries:
            if not entry.is_exact:
                self._by_start.setdefault(entry.pieces[0], []).append(entry)
        self._starts = sorted({len(start) for start in self._by_start})
        by_alias = sorted(self._entries, key=lambda entry: entry.keys[Near.VIA])
        best_of_each = {entry.policy: entry for entry in by_alias}.values()
        self._rivals = sorted(best_of_each, key=lambda entry: entry.keys[Near.VIA], reverse=True)[:2]

    def best(self, name: str) -> Entry | None:
        """The most specific entry that fits, the first in the file among equals; None if none fits."""
        if found := self._exact.get(name):
            return found
        for length in self._starts:
            if length > len(name):
                break
            for entry in self._by_start.get(name[:length], ()):
                if found and _on_one_name(entry) < _on_one_name(found):
                    break
                if fits(entry.pieces, name):
                    found = entry
                    break
        return found

    def all(self, name: str) -> list[Entry]:
        """The best fitting entry of each policy that has one; most specific first."""
        found: dict[str, Entry] = {}
        for entry in self._entries:
            if entry.policy not in found and fits(entry.pieces, name):
                found[entry.policy] = entry
        return list(found.values())

    def decides(self, part: str) -> bool:
        """Whether the part's own match is final: nothing that it may stand for can match another policy better."""
        best = self.best(part)
        if best is None:
            return False
        rival = next((entry for entry in self._rivals if entry.policy != best.policy), None)
        return rival is None or rival.keys[Near.VIA] <= best.keys[Near.WRITTEN]


def _on_one_name(entry: Entry) -> Key:
    return entry.keys[Near.CONCRETE]


def _entries(settings: Settings, connector: str | None) -> Iterator[Entry]:
    place = 0
    for name, policy in settings.policies.items():
        for match in policy.match:
            if match.connector in (None, connector):
                exact, literal = "*" not in match.index, len(match.index) - match.index.count("*")
                named = match.connector is not None
                keys = tuple((exact, near if exact else 0, literal, named, int(near), -place) for near in Near)
                yield Entry(name, match.index, (exact, literal, named), tuple(match.index.split("*")), keys)
                place += 1
