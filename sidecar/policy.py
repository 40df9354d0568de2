"""Which policy an index gets, what a request may change of it, and which indices it may name.

Everything here is pure: no I/O, no clock. In patterns only `*` is special; it stands for any text, the empty one too.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import isfinite
from typing import NamedTuple

from sidecar.errors import InvalidRequest
from sidecar.settings import Fusion, Limits, ModelSettings, PolicySettings, Settings, TextSettings

MAX_EXPRESSION_CHARS = 4096
"""Longest index expression; the engines take no longer URL, and what is longer would cost time before it is refused."""


class UnknownPolicy(InvalidRequest):
    """The request names a policy that is not configured."""


class InvalidOverride(InvalidRequest):
    """The request changes a value of its policy to one that is out of bounds."""


@dataclass(frozen=True, slots=True)
class Resolution:
    """The policy chosen for a request, None if there is none, and one plain sentence that says why."""

    policy_name: str | None
    why: str


@dataclass(frozen=True, slots=True)
class Overrides:
    """What a request asks to be different from its policy; None leaves the policy's value."""

    rank_window_size: int | None = None
    budget_ms: int | None = None
    min_score: float | None = None


AS_CONFIGURED = Overrides()


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything decided about one request before the first byte is read from the engine.

    `version` is 12 hex digits that change whenever the policy or the settings of its model change.
    """

    policy: str
    model: str
    text: TextSettings
    rank_window_size: int
    min_rank_window_size: int | None
    budget_ms: int
    min_score: float | None
    fusion: Fusion
    limits: Limits
    enabled: bool
    version: str


class _Candidate(NamedTuple):
    """A `match` entry that fits; `rank` orders candidates, the larger the more specific."""

    policy: str
    pattern: str
    rank: tuple[bool, int, bool]

    def __str__(self) -> str:
        return f"{self.policy} {self.pattern!r}"


def resolve(settings: Settings, connector: str | None, index: str | None, policy: str | None) -> Resolution:
    """Choose the policy for an index expression (`a`, `a-*`, `a,b`), or take the one the request names.

    The most specific `match` wins: an exact name before a pattern, then the pattern with more literal characters,
    then one that names its connector, then the earlier in the file. The parts of a comma list must agree, or
    `default_policy` is taken, as it is where nothing matches. Parts that exclude (`-old`) have no say.
    Raises UnknownPolicy, and InvalidRequest for more than MAX_EXPRESSION_CHARS characters.

    A reason reads: index 'articles-2026' matches 'articles-*' (policy articles, 9 literal characters); also matched:
    everything '*'
    """
    if policy is not None:
        _configured(settings, policy)
        return Resolution(policy, f"the request names policy {policy}")
    if len(index or "") > MAX_EXPRESSION_CHARS:
        raise InvalidRequest(f"index has {len(index or '')} characters; at most {MAX_EXPRESSION_CHARS} are allowed")
    parts = [part for part in (index or "").split(",") if part and not part.startswith("-")]
    if not parts:
        return _default(settings, "the request names no index")
    if len(parts) == 1:
        return _resolve_one(settings, connector, parts[0])
    return _resolve_list(settings, connector, parts)


def _resolve_one(settings: Settings, connector: str | None, index: str) -> Resolution:
    candidates = _candidates(settings, connector, index)
    if not candidates:
        return _default(settings, f"no policy matches index {index!r}{_on(connector)}")
    best, *others = candidates
    named = "by its exact name" if best.rank[0] else f"{best.rank[1]} literal characters"
    connected = ", for this connector" if best.rank[2] else ""
    rest = f"; also matched: {', '.join(map(str, others))}" if others else ""
    why = f"index {index!r}{_on(connector)} matches {best.pattern!r} (policy {best.policy}, {named}{connected}){rest}"
    return Resolution(best.policy, why)


def _resolve_list(settings: Settings, connector: str | None, parts: Sequence[str]) -> Resolution:
    found = {part: next(iter(_candidates(settings, connector, part)), None) for part in parts}
    policies = {best.policy if best else None for best in found.values()}
    story = ", ".join(f"{part!r}: {best or 'none'}" for part, best in found.items())
    if len(policies) == 1 and (name := policies.pop()) is not None:
        return Resolution(name, f"every part of {','.join(parts)!r} matches policy {name} ({story})")
    return _default(settings, f"the parts of {','.join(parts)!r} do not agree on a policy ({story})")


def _candidates(settings: Settings, connector: str | None, index: str) -> list[_Candidate]:
    """The best match of each policy that has one, the most specific first, equals in the file's order."""
    best: dict[str, _Candidate] = {}
    for name, policy in settings.policies.items():
        for match in policy.match:
            if match.connector in (None, connector) and matches(match.index, index):
                literal = len(match.index) - match.index.count("*")
                rank = ("*" not in match.index, literal, match.connector is not None)
                if name not in best or rank > best[name].rank:
                    best[name] = _Candidate(name, match.index, rank)
    return sorted(best.values(), key=lambda candidate: candidate.rank, reverse=True)


def _default(settings: Settings, reason: str) -> Resolution:
    if settings.default_policy is None:
        return Resolution(None, f"{reason}, and there is no default_policy")
    return Resolution(settings.default_policy, f"{reason}, so default_policy {settings.default_policy} is taken")


def _on(connector: str | None) -> str:
    return f" on connector {connector!r}" if connector else ""


def _configured(settings: Settings, policy: str) -> PolicySettings:
    if policy not in settings.policies:
        raise UnknownPolicy(f"there is no policy {policy!r}; the policies are: {', '.join(settings.policies)}")
    return settings.policies[policy]


def plan(settings: Settings, policy: str, overrides: Overrides = AS_CONFIGURED) -> Plan:
    """The plan of a request under the named policy. Raises UnknownPolicy and InvalidOverride."""
    chosen = _configured(settings, policy)
    window = _bounded("rank_window_size", overrides.rank_window_size, chosen)
    smallest = chosen.min_rank_window_size
    return Plan(
        policy=policy,
        model=chosen.model,
        text=chosen.text,
        rank_window_size=window,
        min_rank_window_size=None if smallest is None else min(smallest, window),
        budget_ms=_bounded("budget_ms", overrides.budget_ms, chosen),
        min_score=_finite(overrides.min_score, chosen.min_score),
        fusion=chosen.fusion,
        limits=chosen.limits,
        enabled=chosen.enabled,
        version=version(chosen, settings.models[chosen.model]),
    )


def _bounded(field: str, asked: int | None, policy: PolicySettings) -> int:
    """The policy's value, or the one asked for if it is within 1 and the policy's limit (a NaN never is)."""
    value: int = getattr(policy, field) if asked is None else asked
    limit: int = getattr(policy.limits, field)
    if not 1 <= value <= limit:
        raise InvalidOverride(f"{field} is {value}; a request may ask for 1..{limit} under this policy")
    return value


def _finite(asked: float | None, configured: float | None) -> float | None:
    if asked is not None and not isfinite(asked):
        raise InvalidOverride(f"min_score is {asked}; it must be a finite number")
    return configured if asked is None else asked


@lru_cache(maxsize=1024)
def version(policy: PolicySettings, model: ModelSettings) -> str:
    """12 hex digits of SHA-256 over the canonical JSON of a policy and the settings of its model."""
    content = [policy.model_dump(mode="json"), model.model_dump(mode="json")]
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:12]


def matches(pattern: str, name: str) -> bool:
    """Whether the whole name fits the pattern; linear in the name's length, whatever the pattern.

    >>> matches("logs-*-eu", "logs-2026-eu"), matches("logs-?", "logs-1")
    (True, False)
    """
    first, *rest = pattern.split("*")
    if not rest:
        return name == pattern
    *middle, last = rest
    start, end = len(first), len(name) - len(last)
    if start > end or not name.startswith(first) or not name.endswith(last):
        return False
    for piece in middle:
        found = name.find(piece, start, end)
        if found < 0:
            return False
        start = found + len(piece)
    return True


def is_allowed(patterns: Iterable[str], index_expression: str) -> bool:
    """Whether a request may name this index expression: every part of its comma list must fit an allow pattern.

    A wildcard of the request is an ordinary character here: `a*` is inside `a*` and not inside `a-*`; whatever an
    allowed one expands to is then inside too. Of an exclusion (`-old`) the rest must fit. `_all` needs a pattern `*`
    or `_all`, another cluster (`cluster:index`) a pattern `*` or one with a colon. No part may be empty, `.` or `..`,
    or hold whitespace, control characters or any of `/ \\ ? # " < > |`; only where everything is allowed (the list is
    exactly `*`) date math in angle brackets passes.
    Nothing longer than MAX_EXPRESSION_CHARS is allowed.
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
