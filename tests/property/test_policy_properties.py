"""What holds of policies for every configuration and every request."""

import re

from hypothesis import given
from hypothesis import strategies as st

from sidecar.policy import is_allowed, matches, resolve
from sidecar.settings import Settings

NAMES = st.text("ab-.", min_size=1, max_size=6)
PATTERNS = st.text("ab-.*", min_size=1, max_size=6)
MATCHES = st.lists(PATTERNS, max_size=3)
EXPRESSIONS = st.text("ab-*,_/<. ?", max_size=12)


@st.composite
def settings(draw: st.DrawFn) -> Settings:
    """Settings with a few policies over a small alphabet, so that many patterns match the same index."""
    policies = draw(st.dictionaries(st.sampled_from("pqrst"), MATCHES, min_size=1))
    tree = {
        name: {"text": {"fields": ["x"]}, "match": [{"index": index} for index in of]} for name, of in policies.items()
    }
    default = draw(st.none() | st.sampled_from(sorted(policies)))
    return Settings.model_validate({"policies": tree, "default_policy": default})


@given(settings(), EXPRESSIONS)
def test_resolution_is_deterministic_and_never_fails(configured: Settings, index: str) -> None:
    found = resolve(configured, None, index, None)
    assert found == resolve(configured, None, index, None)
    assert found.policy_name is None or found.policy_name in configured.policies
    assert found.why


@given(settings(), NAMES)
def test_an_exact_name_beats_every_pattern(configured: Settings, index: str) -> None:
    exact = [
        name for name, policy in configured.policies.items() if any(match.index == index for match in policy.match)
    ]
    if exact and not index.startswith("-"):
        assert resolve(configured, None, index, None).policy_name == exact[0]


@given(settings(), NAMES)
def test_the_winner_has_the_most_literal_characters(configured: Settings, index: str) -> None:
    literal = {
        name: max((len(m.index) - m.index.count("*") for m in policy.match if matches(m.index, index)), default=-1)
        for name, policy in configured.policies.items()
    }
    found = resolve(configured, None, index, None).policy_name
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
