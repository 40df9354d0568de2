"""What holds of policies for every configuration and every request."""

import re
from collections.abc import Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from connectors.base import Member
from sidecar.index_names import is_allowed
from sidecar.resolution import PolicyConflict, Resolver
from sidecar.settings import Settings
from sidecar.wildcards import matches

NAMES = st.text("ab-.", min_size=1, max_size=6)
PATTERNS = st.text("ab-.*", min_size=1, max_size=6)
MATCHES = st.lists(PATTERNS, max_size=3)
EXPRESSIONS = st.text("ab-*,_/<. ?", max_size=12)
MEMBERS = st.lists(st.builds(Member, NAMES, st.lists(NAMES, max_size=2).map(tuple)), max_size=5)
PARTS = st.lists(st.text("ab-.*", min_size=1, max_size=5).filter(lambda part: part[0] != "-"), min_size=1, max_size=4)
REFUSED = "refused"


@st.composite
def settings(draw: st.DrawFn) -> Settings:
    """Settings with a few policies over a small alphabet, so that many patterns match the same index."""
    policies = draw(st.dictionaries(st.sampled_from("pqrst"), MATCHES, min_size=1))
    tree = {
        name: {
            "text": {"fields": ["x"]},
            "match": [{"index": index} for index in of],
            "on_conflict": draw(st.sampled_from(["default", "default", "strictest", "refuse"])),
            "rank_window_size": draw(st.sampled_from([10, 20])),
            "enabled": draw(st.booleans()),
        }
        for name, of in policies.items()
    }
    default = draw(st.none() | st.sampled_from(sorted(policies)))
    return Settings.model_validate({"policies": tree, "default_policy": default})


def outcome(configured: Settings, index: str, members: Sequence[Member] | None = None, problem: str = "") -> str | None:
    """The policy's name, None for none, or that the request is refused."""
    try:
        return Resolver(configured).resolve(None, index, None, members, problem).policy_name
    except PolicyConflict:
        return REFUSED


def expected(configured: Settings, parts: Sequence[str], members: Sequence[Member]) -> str | None:
    """The written rule for members that the parts lead to, in the plainest way and with no short cut."""

    def is_exact(part: str) -> bool:
        return any(
            match.index == part and "*" not in part for policy in configured.policies.values() for match in policy.match
        )

    def best(names: list[tuple[int, str]]) -> str | None:
        ranked = [
            ((exact := "*" not in match.index), exact and near, len(match.index.replace("*", "")), near, -place, policy)
            for near, name in names
            for place, (policy, match) in enumerate(
                (policy, match) for policy, of in configured.policies.items() for match in of.match
            )
            if matches(match.index, name)
        ]
        return str(max(ranked)[-1]) if ranked else configured.default_policy

    parties = {best([(2, part)]) for part in parts if is_exact(part)}
    for member in members:
        for part in parts:
            via = [name for name in member.via if matches(part, name)]
            if not is_exact(part) and (via or matches(part, member.index)):
                parties.add(best([(2, part), *((1, name) for name in via), (0, member.index)]))
    if len(parties) == 1:
        return parties.pop()
    stated = {configured.policies[name].on_conflict for name in parties if name}
    if "refuse" in stated:
        return REFUSED
    if "strictest" not in stated:
        return configured.default_policy
    off = [name for name in configured.policies if name in parties and not configured.policies[name].enabled]
    if off or None in parties:
        return (
            min(
                off,
                key=lambda name: (configured.policies[name].rank_window_size, list(configured.policies).index(name)),
            )
            if off
            else None
        )
    return min(
        (name for name in configured.policies if name in parties),
        key=lambda name: configured.policies[name].rank_window_size,
    )


@given(settings(), EXPRESSIONS, st.none() | MEMBERS, st.sampled_from(["", "timeout"]))
def test_resolution_is_deterministic_and_never_fails(
    configured: Settings, index: str, members: list[Member] | None, problem: str
) -> None:
    found = outcome(configured, index, members, problem)
    assert found == outcome(configured, index, members, problem)
    assert found is None or found == REFUSED or found in configured.policies


@given(settings(), st.text(max_size=30), st.lists(st.builds(Member, st.text(), st.lists(st.text()).map(tuple))))
def test_no_name_is_too_odd(configured: Settings, index: str, members: list[Member]) -> None:
    outcome(configured, index, members)
    Resolver(configured).must_ask(None, index, None)


@given(settings(), PARTS, MEMBERS)
def test_the_policy_is_that_of_the_written_rule(configured: Settings, parts: list[str], members: list[Member]) -> None:
    led = [
        member
        for member in members
        if any(matches(part, name) for part in parts for name in (member.index, *member.via))
    ]
    decided_alone = not led  # then the parts are matched as written, which other tests are about
    if not decided_alone:
        assert outcome(configured, ",".join(parts), led) == expected(configured, parts, led)


@given(settings(), PARTS, MEMBERS, st.randoms())
def test_no_order_of_members_or_parts_changes_the_policy(
    configured: Settings, parts: list[str], members: list[Member], random: Any
) -> None:
    shuffled_parts, shuffled_members = list(parts), [Member(one.index, one.via[::-1]) for one in members]
    random.shuffle(shuffled_parts)
    random.shuffle(shuffled_members)
    before = outcome(configured, ",".join(parts), members)
    assert outcome(configured, ",".join(shuffled_parts), shuffled_members) == before
    assert outcome(configured, ",".join(shuffled_parts)) == outcome(configured, ",".join(parts))


@given(settings(), PARTS, MEMBERS, st.sampled_from(["default", "strictest", "refuse"]), st.booleans())
def test_a_policy_that_matches_nothing_changes_nothing(
    configured: Settings, parts: list[str], members: list[Member], on_conflict: str, first: bool
) -> None:
    tree = configured.model_dump()
    idle = {"idle": {"text": {"fields": ["x"]}, "match": [{"index": "zzz-*"}], "on_conflict": on_conflict}}
    tree["policies"] = {**idle, **tree["policies"]} if first else {**tree["policies"], **idle}
    with_idle = Settings.model_validate(tree)
    for known in (None, members):
        assert outcome(with_idle, ",".join(parts), known) == outcome(configured, ",".join(parts), known)


@given(settings(), PARTS, MEMBERS)
def test_where_nobody_need_be_asked_no_answer_would_change_the_policy(
    configured: Settings, parts: list[str], members: list[Member]
) -> None:
    led = [
        member
        for member in members
        if any(matches(part, name) for part in parts for name in (member.index, *member.via))
    ]
    reached = all(any(matches(part, n) for m in led for n in (m.index, *m.via)) for part in parts)
    if reached and not Resolver(configured).must_ask(None, ",".join(parts), None):
        assert outcome(configured, ",".join(parts)) == expected(configured, parts, led)


@given(settings(), NAMES)
def test_an_exact_name_beats_every_pattern(configured: Settings, index: str) -> None:
    exact = [
        name for name, policy in configured.policies.items() if any(match.index == index for match in policy.match)
    ]
    if exact and not index.startswith("-"):
        assert Resolver(configured).resolve(None, index, None).policy_name == exact[0]


@given(settings(), NAMES)
def test_the_winner_has_the_most_literal_characters(configured: Settings, index: str) -> None:
    literal = {
        name: max((len(m.index) - m.index.count("*") for m in policy.match if matches(m.index, index)), default=-1)
        for name, policy in configured.policies.items()
    }
    found = Resolver(configured).resolve(None, index, None).policy_name
    if found is not None and max(literal.values()) >= 0 and not index.startswith("-"):
        assert literal[found] == max(literal.values())


@given(PATTERNS, st.text("ab-.*\n", max_size=8))
def test_matching_agrees_with_a_regular_expression(pattern: str, name: str) -> None:
    expected = re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), name, re.DOTALL)
    assert matches(pattern, name) is (expected is not None)


@given(MATCHES, EXPRESSIONS)
def test_nothing_outside_the_patterns_is_allowed(patterns: list[str], expression: str) -> None:
    if is_allowed(patterns, expression):
        for part in expression.split(","):
            name = part.removeprefix("-")
            assert name
            assert any(matches(pattern, name) for pattern in patterns)
            assert patterns == ["*"] or not set(name) & set("/<>? ")


@given(st.lists(PATTERNS, min_size=1, max_size=3), PATTERNS, st.lists(NAMES, max_size=4))
def test_what_an_allowed_wildcard_expands_to_is_allowed(
    patterns: list[str], expression: str, replacements: list[str]
) -> None:
    if is_allowed(patterns, expression):
        expanded = expression.removeprefix("-")
        for replacement in replacements:
            expanded = expanded.replace("*", replacement, 1)
        assert any(matches(pattern, expanded) for pattern in patterns)
