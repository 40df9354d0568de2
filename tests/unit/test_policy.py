"""Which policy an index gets and why, what a request may change, and which indices it may name."""

import math
from typing import Any

import pytest

from sidecar.errors import InvalidRequest
from sidecar.index_names import is_allowed
from sidecar.policy import AS_CONFIGURED, InvalidOverride, Overrides, Plans, plan
from sidecar.resolution import Resolution, Resolver, UnknownPolicy
from sidecar.rollout import Arm
from sidecar.settings import Settings
from sidecar.wildcards import matches

TEXT = {"fields": ["title"]}


def settings(policies: dict[str, list[Any]], default: str | None = None, **of_each: Any) -> Settings:
    """Settings with these policies; a match is a pattern, or (pattern, connector)."""
    pairs = {
        name: [match if isinstance(match, tuple) else (match, None) for match in of] for name, of in policies.items()
    }
    tree = {
        name: {"text": TEXT, "match": [{"index": index, "connector": via} for index, via in of], **of_each}
        for name, of in pairs.items()
    }
    connectors = {name: {"type": "opensearch", "hosts": ["http://localhost:9200"]} for name in ("east", "west")}
    return Settings.model_validate({"connectors": connectors, "policies": tree, "default_policy": default})


def resolve(configured: Settings, connector: str | None, index: str | None, policy: str | None) -> Resolution:
    return Resolver(configured).resolve(connector, index, policy)


@pytest.mark.parametrize(
    ("policies", "connector", "index", "chosen"),
    [
        ({"a": ["logs"], "b": ["logs-*"]}, None, "logs-1", "b"),
        ({"pattern": ["logs-2026*"], "exact": ["logs-2026"]}, None, "logs-2026", "exact"),
        ({"short": ["logs-*"], "long": ["logs-2*"]}, None, "logs-2026", "long"),
        ({"long_end": ["*-2026"], "short": ["l*"]}, None, "logs-2026", "long_end"),
        ({"any": ["logs-*"], "east": [("logs-*", "east")]}, "east", "logs-1", "east"),
        ({"any": ["logs-*"], "east": [("logs-*", "east")]}, "west", "logs-1", "any"),
        ({"any": ["logs-*"], "east": [("logs-*", "east")]}, None, "logs-1", "any"),
        ({"longer": ["logs-*"], "east": [("logs*", "east")]}, "east", "logs-1", "longer"),
        ({"first": ["a*b"], "second": ["ab*"]}, None, "abb", "first"),
        ({"second": ["ab*"], "first": ["a*b"]}, None, "abb", "second"),
        ({"a": ["x", "logs-*"]}, None, "logs-1", "a"),
        ({"a": ["logs.*"], "other": ["*"]}, None, "logsX1", "other"),
        ({"a": ["logs[1]"], "other": ["*"]}, None, "logs1", "other"),
        ({"a": ["a*"]}, None, "a1,a2", "a"),
        ({"a": ["a*"], "b": ["b*"]}, None, "a1,b2", "other"),
        ({"a": ["a*"]}, None, "a1,b2", "other"),
        ({"a": ["a*"]}, None, "a*,-b2", "a"),
        ({"a": ["a*"]}, None, "b", "other"),
        ({"a": ["*"]}, None, None, "other"),
        ({"a": ["*"]}, None, "", "other"),
    ],
)
def test_the_most_specific_match_wins(
    policies: dict[str, list[Any]], connector: str | None, index: str | None, chosen: str
) -> None:
    assert resolve(settings({"other": [], **policies}, "other"), connector, index, None).policy_name == chosen


def test_why_is_one_plain_sentence() -> None:
    several = settings({"articles": ["articles-*"], "everything": ["*", ("articles-1", "east")]})
    assert resolve(several, None, "articles-2026", None).why == (
        "index 'articles-2026' matches 'articles-*' (policy articles, 9 literal characters); "
        "also matched: everything '*'"
    )
    assert resolve(several, "east", "articles-1", None).why == (
        "index 'articles-1' on connector 'east' matches 'articles-1' (policy everything, by its exact name, "
        "for this connector); also matched: articles 'articles-*'"
    )
    assert resolve(several, None, "articles-1,articles-2", None).why == (
        "'articles-1,articles-2' is for policy articles "
        "('articles-1': articles 'articles-*', 'articles-2': articles 'articles-*')"
    )
    assert resolve(several, None, "x", "articles").why == "the request names policy articles"


def test_without_a_match_the_default_is_taken_or_there_is_none() -> None:
    found = resolve(settings({"a": ["a"], "b": []}, "b"), "east", "x", None)
    assert found.policy_name == "b"
    assert found.why == "no policy matches index 'x' on connector 'east', so default_policy b is taken"
    found = resolve(settings({"a": ["a"]}), "east", "a,x", None)
    assert found.policy_name is None
    assert found.why == (
        "'a,x' on connector 'east' is for different policies ('a': a 'a', 'x': none), and there is no default_policy"
    )
    assert resolve(settings({"a": ["a"]}), None, None, None).why == (
        "the request names no index, and there is no default_policy"
    )


def test_a_policy_named_by_the_request_wins_and_must_exist() -> None:
    two = settings({"a": ["x"], "b": []})
    assert resolve(two, None, "x", "b").policy_name == "b"
    with pytest.raises(UnknownPolicy, match="there is no policy 'c'; the policies are: a, b"):
        resolve(two, None, "x", "c")
    with pytest.raises(UnknownPolicy, match="there is no policy 'c'"):
        plan(two, "c")


def test_an_endless_index_expression_is_refused_at_once() -> None:
    with pytest.raises(InvalidRequest, match="index has 5000 characters; at most 4096 are allowed"):
        resolve(settings({"a": ["*"]}), None, "a," * 2500, None)


def test_a_plan_holds_the_policy_narrowed_by_the_request() -> None:
    one = settings({"a": []}, rank_window_size=50, min_rank_window_size=20, min_score=0.1)
    as_it_is = plan(one, "a")
    assert (as_it_is.policy, as_it_is.model, as_it_is.enabled) == ("a", "default", True)
    assert (as_it_is.rank_window_size, as_it_is.min_rank_window_size) == (50, 20)
    assert (as_it_is.budget_ms, as_it_is.min_score) == (300, 0.1)
    asked = plan(one, "a", Overrides(rank_window_size=10, budget_ms=100, min_score=-3.0))
    assert (asked.rank_window_size, asked.min_rank_window_size) == (10, 10)
    assert (asked.budget_ms, asked.min_score) == (100, -3.0)
    assert asked.version == as_it_is.version
    assert plan(one, "a", Overrides(rank_window_size=1000, budget_ms=5000)).rank_window_size == 1000


def test_the_window_may_shrink_by_default_and_the_default_yields_to_a_smaller_window() -> None:
    assert plan(settings({"a": []}), "a").min_rank_window_size == 10
    assert plan(settings({"a": []}, rank_window_size=5), "a").min_rank_window_size == 5
    assert plan(settings({"a": []}, min_rank_window_size=None), "a").min_rank_window_size is None


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (Overrides(rank_window_size=0), "rank_window_size is 0; a request may ask for 1..1000"),
        (Overrides(rank_window_size=1001), "rank_window_size is 1001; a request may ask for 1..1000"),
        (Overrides(budget_ms=-5), "budget_ms is -5; a request may ask for 1..5000"),
        (Overrides(budget_ms=5001), "budget_ms is 5001; a request may ask for 1..5000"),
        (Overrides(budget_ms=math.nan), "budget_ms is nan; a request may ask for 1..5000"),  # type: ignore[arg-type]
        (Overrides(min_score=math.nan), "min_score is nan; it must be a finite number"),
        (Overrides(min_score=math.inf), "min_score is inf; it must be a finite number"),
    ],
)
def test_an_override_out_of_bounds_is_refused(overrides: Overrides, message: str) -> None:
    with pytest.raises(InvalidOverride) as caught:
        plan(settings({"a": []}), "a", overrides)
    assert message in str(caught.value)


def test_the_version_changes_with_the_policy_and_its_model_and_with_nothing_else() -> None:
    base = settings({"a": ["x"], "b": []})
    tree = base.model_dump()
    version = plan(base, "a").version
    assert len(version) == 12
    assert plan(Settings.model_validate({**tree, "server": {"reserve_ms": 9}}), "a").version == version
    assert plan(Settings.model_validate({**tree, "models": {"default": {"max_length": 64}}}), "a").version != version
    policies = {**tree["policies"], "a": {**tree["policies"]["a"], "min_score": 0.5}}
    changed = Settings.model_validate({**tree, "policies": policies})
    assert plan(changed, "a").version != version
    assert plan(changed, "b").version == plan(base, "b").version


@pytest.mark.parametrize(
    ("pattern", "name", "fits"),
    [
        ("*", "", True),
        ("a*", "a", True),
        ("a*a", "a", False),
        ("a*a", "aa", True),
        ("*b*b*", "ab", False),
        ("a*b*c", "aXbbYc", True),
        ("a**c", "ac", True),
        ("a", "a\n", False),
        ("a*", "a\nb", True),
        ("A", "a", False),
        ("a?", "ab", False),
        ("[ab]", "a", False),
        ("", "", True),
    ],
)
def test_only_a_star_is_special(pattern: str, name: str, fits: bool) -> None:
    assert matches(pattern, name) is fits


@pytest.mark.parametrize(
    ("patterns", "expression"),
    [
        (["*"], "a,b"),
        (["*"], "*"),
        (["*"], "_all"),
        (["_all"], "_all"),
        (["a-*"], "a-*"),
        (["a-*"], "a-1,a-2*"),
        (["a-*"], "a-*,-a-1"),
        (["a-*", "b"], "b,a-1"),
        (["*"], "<logs-{now/d}>"),
        (["*"], "<logs-{now/d{yyyy.MM.dd|+12:00}}>"),
        (["*"], "cluster:a"),
        (["cluster:a*"], "cluster:a1"),
    ],
)
def test_allowed(patterns: list[str], expression: str) -> None:
    assert is_allowed(patterns, expression)


@pytest.mark.parametrize(
    ("patterns", "expression"),
    [
        ([], "a"),
        (["a-*"], "*"),
        (["a-*"], "a*"),
        (["a-*"], "b"),
        (["a-*"], "a-1,b"),
        (["a-*"], "a-1,-b"),
        (["a-*"], "-b"),
        (["a*"], "_all"),
        (["_*"], "_all"),
        (["_*"], "-_all"),
        (["a-*"], "cluster:a-1"),
        (["a-*"], "a-*:secret"),
        (["a-*"], "a-*::failures"),
        (["*"], ""),
        (["*"], "a" * 4097),
        (["*"], "a,"),
        (["*"], ",a"),
        (["*"], "-"),
        (["*"], "a, b"),
        (["*"], "a\tb"),
        (["*"], "a\u3000b"),
        (["*"], "a\x00"),
        (["*"], "a\ud800"),
        (["*"], "a/_search"),
        (["*"], "a\\b"),
        (["*"], "a?"),
        (["*"], "a#b"),
        (["*"], 'a"b'),
        (["*"], "a<b"),
        (["*"], "<a"),
        (["*"], "a|b"),
        (["*"], "<a?>"),
        ([".*"], ".."),
        (["*"], "."),
        (["*", "a"], "<logs-{now/d}>"),
        (["<*"], "<logs-{now}>"),
    ],
)
def test_not_allowed(patterns: list[str], expression: str) -> None:
    assert not is_allowed(patterns, expression)


def test_what_is_configured_is_planned_once_and_all_else_each_time() -> None:
    tried = Settings.model_validate({"policies": {"p": {"text": {"fields": ["title"]}, "percent": 50}}})
    whole = Settings.model_validate({"policies": {"p": {"text": {"fields": ["title"]}}}})
    plans = Plans(whole)
    assert plans.of("p") is plans.of("p", AS_CONFIGURED, "another key")
    assert plans.of("p") == plan(whole, "p")
    narrowed = plans.of("p", Overrides(rank_window_size=7))
    assert (narrowed.rank_window_size, plans.of("p").rank_window_size) == (7, plan(whole, "p").rank_window_size)
    assert {Plans(tried).of("p", AS_CONFIGURED, str(key)).arm for key in range(50)} == {Arm.RERANKED, Arm.HELD_OUT}
