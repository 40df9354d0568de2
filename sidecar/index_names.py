"""Which index expressions a request may name. Pure."""

from collections.abc import Iterable

from sidecar.wildcards import matches

MAX_EXPRESSION_CHARS = 4096
"""Longest index expression: the engines accept no longer URL, and checking a longer one would cost time."""


def is_allowed(patterns: Iterable[str], index_expression: str) -> bool:
    """Whether a request may name this index expression: every part of its comma list must fit an allow pattern.

    A wildcard of the request is compared as an ordinary character: `a*` fits `a*` but not `a-*`; so all that an allowed
    wildcard expands to is allowed too. An exclusion (`-old`) must fit without its minus. `_all` needs a pattern `*` or
    `_all`, another cluster (`cluster:index`) a pattern `*` or one with a colon. No part may be empty, `.` or `..`, or
    contain whitespace, control characters or any of `/ \\ ? # " < > |`; only where everything is allowed (the list is
    exactly `*`) may it be date math in angle brackets. Nothing longer than MAX_EXPRESSION_CHARS is allowed.
    """
    allowed = tuple(patterns)
    return len(index_expression) <= MAX_EXPRESSION_CHARS and all(
        _is_part_allowed(allowed, part.removeprefix("-")) for part in index_expression.split(",")
    )


def _is_part_allowed(patterns: tuple[str, ...], name: str) -> bool:
    if not _is_well_formed(name, date_math=patterns == ("*",)):
        return False
    if name == "_all":
        return not {"*", "_all"}.isdisjoint(patterns)
    return any(matches(pattern, name) for pattern in patterns if ":" not in name or ":" in pattern or pattern == "*")


def _is_well_formed(name: str, *, date_math: bool) -> bool:
    forbidden = set('/\\?#"<>| ')
    if date_math and name.startswith("<") and name.endswith(">"):
        forbidden -= set("/|<>")
    return name not in ("", ".", "..") and name.isprintable() and forbidden.isdisjoint(name)
