"""Patterns in which only `*` is special: it stands for any text, including none. Pure."""

from collections.abc import Sequence


def matches(pattern: str, name: str) -> bool:
    """Whether the whole name fits the pattern; linear in the name's length, whatever the pattern.

    >>> matches("logs-*-eu", "logs-2026-eu"), matches("logs-?", "logs-1")
    (True, False)
    """
    return fits(pattern.split("*"), name)


def fits(pieces: Sequence[str], name: str) -> bool:
    """Whether a name consists of these pieces in order with any text between them: a pattern split at its `*`."""
    if len(pieces) == 1:
        return name == pieces[0]
    first, last = pieces[0], pieces[-1]
    start, end = len(first), len(name) - len(last)
    if start > end or not name.startswith(first) or not name.endswith(last):
        return False
    for piece in pieces[1:-1]:
        found = name.find(piece, start, end)
        if found < 0:
            return False
        start = found + len(piece)
    return True
