"""Aliases, patterns and data streams: each rule by which what stands behind a name decides on the policy."""

from collections.abc import Sequence
from typing import Any

import pytest

from connectors.base import Member
from sidecar import index_names, votes
from sidecar.errors import InvalidRequest
from sidecar.resolution import PolicyConflict, Resolution, Resolver
from sidecar.settings import Settings

TEXT = {"fields": ["title"]}


def settings(policies: dict[str, dict[str, Any]], default: str | None = None) -> Settings:
    """Settings with these policies; `match` may be given as names, or as (name, connector)."""
    tree = {
        name: {
            "text": TEXT,
            **policy,
            "match": [
                {"index": one} if isinstance(one, str) else {"index": one[0], "connector": one[1]}
                for one in policy.get("match", [])
            ],
        }
        for name, policy in policies.items()
    }
    connectors = {name: {"type": "opensearch", "hosts": ["http://localhost:9200"]} for name in ("east", "west")}
    return Settings.model_validate({"connectors": connectors, "policies": tree, "default_policy": default})


def resolve(
    configured: Settings,
    connector: str | None,
    index: str | None,
    policy: str | None,
    members: Sequence[Member] | None = None,
    problem: str = "",
) -> Resolution:
    return Resolver(configured).resolve(connector, index, policy, members, problem)


def must_ask(configured: Settings, connector: str | None, index: str | None, policy: str | None) -> bool:
    return Resolver(configured).must_ask(connector, index, policy)


ARTICLES = settings({"everything": {"match": ["*"]}, "articles": {"match": ["articles-*"]}}, "everything")
CONFLICT = {
    "big": {"match": ["big-*"], "rank_window_size": 200},
    "small": {"match": ["small-*"], "rank_window_size": 20},
    "rest": {},
}
BOTH = [Member("big-1", ("all",)), Member("small-1", ("all",))]


def conflict(default: str | None = "rest", **on_conflict: str) -> Settings:
    """Two policies whose indices are behind the alias `all`, with these statements."""
    return settings(
        {name: {**policy, "on_conflict": on_conflict.get(name, "default")} for name, policy in CONFLICT.items()},
        default,
    )


def test_an_alias_gets_the_policy_of_its_index_and_not_the_catch_all() -> None:
    assert resolve(ARTICLES, None, "current", None).policy_name == "everything"
    found = resolve(ARTICLES, None, "current", None, [Member("articles-2026", ("current",))])
    assert found.policy_name == "articles"
    assert found.why == "what 'current' stands for is for policy articles ('articles-2026': articles 'articles-*')"


def test_a_wildcard_gets_the_policy_its_indices_agree_on() -> None:
    members = [Member("articles-2026"), Member("articles-2025", ("art",))]
    found = resolve(ARTICLES, "east", "art*", None, members)
    assert found.policy_name == "articles"
    assert found.why == (
        "what 'art*' on connector 'east' stands for is for policy articles "
        "('articles-2025': articles 'articles-*', 'articles-2026': articles 'articles-*')"
    )


def test_a_data_stream_counts_by_its_own_name_since_its_backing_index_hides() -> None:
    logs = settings({"logs": {"match": ["logs-*"]}, "rest": {}}, "rest")
    found = resolve(logs, None, "l*", None, [Member(".ds-logs-web-000001", ("logs-web",))])
    assert found.policy_name == "logs"
    assert found.why == ("what 'l*' stands for is for policy logs ('.ds-logs-web-000001' as 'logs-web': logs 'logs-*')")


def test_date_math_gets_the_policy_of_the_index_that_the_engine_names() -> None:
    found = resolve(ARTICLES, None, "<articles-{now/d}>", None, [Member("articles-2026.11.23")])
    assert found.policy_name == "articles"


def test_an_index_of_another_cluster_is_matched_with_its_cluster() -> None:
    remote = settings({"eu": {"match": ["eu:logs-*"]}, "here": {"match": ["logs-*"]}, "rest": {}}, "rest")
    found = resolve(remote, None, "eu:l*", None, [Member("eu:logs-1"), Member("eu:logs-2")])
    assert found.policy_name == "eu"
    assert resolve(remote, None, "us:l*", None, [Member("us:logs-1")]).policy_name == "rest"


@pytest.mark.parametrize(
    ("policies", "index", "member", "chosen"),
    [
        # The more specific match wins, whichever of the names it fits.
        ({"a": ["al*"], "b": ["index-*"]}, "alias", Member("index-1", ("alias",)), "b"),
        ({"a": ["alia*"], "b": ["in*"]}, "alias", Member("index-1", ("alias",)), "a"),
        # Among equals the name as written, then the alias, then the index.
        ({"index": ["in*"], "alias": ["al*"], "written": ["a**"]}, "alias", Member("index", ("alias",)), "alias"),
        ({"index": ["i*"], "written": ["a*"]}, "alias", Member("index", ("alias",)), "written"),
        ({"index": ["index"], "alias": ["al"]}, "*", Member("index", ("al",)), "alias"),
        # An exact alias name is exact however short it is, and however narrowly the index is named.
        ({"index": ["index-2026"], "alias": ["al"]}, "a*", Member("index-2026", ("al",)), "alias"),
        ({"index": [("index", "east")], "alias": ["al"]}, "a*", Member("index", ("al",)), "alias"),
        # An alias that a part does not lead through is of no account for it.
        ({"index": ["index-*"], "alias": ["secret"]}, "index-*", Member("index-1", ("secret",)), "index"),
        # Between two aliases it is the file's order, not the engine's or the alphabet's.
        ({"one": ["y*"], "two": ["z*"]}, "*", Member("index", ("z1", "y1")), "one"),
        # A match for another connector never counts.
        ({"west": [("index-1", "west")], "any": ["i*"]}, "alias", Member("index-1", ("alias",)), "any"),
    ],
)
def test_the_most_specific_of_all_names_wins(
    policies: dict[str, list[Any]], index: str, member: Member, chosen: str
) -> None:
    configured = settings({name: {"match": match} for name, match in policies.items()} | {"rest": {}}, "rest")
    assert resolve(configured, "east", index, None, [member]).policy_name == chosen


def test_a_part_settled_by_its_exact_name_asks_nobody_and_keeps_its_say() -> None:
    shop = settings({"shop": {"match": ["products"]}, "logs": {"match": ["logs-*"]}, "rest": {}}, "rest")
    assert not must_ask(shop, None, "products", None)
    assert resolve(shop, None, "products", None, [Member("logs-1", ("products",))]).policy_name == "shop"
    assert must_ask(shop, None, "products,l*", None)
    mixed = resolve(shop, None, "products,l*", None, [Member("shop-7", ("products",)), Member("logs-1")])
    assert mixed == resolve(shop, None, "products,l*", None, [Member("logs-1")])
    assert mixed.policy_name == "rest"
    assert mixed.why == (
        "what 'products,l*' stands for is for different policies ('products': shop 'products', "
        "'logs-1': logs 'logs-*'), so default_policy rest is taken"
    )


def test_disagreeing_indices_get_the_default_unless_a_policy_says_otherwise() -> None:
    found = resolve(conflict(), None, "all", None, BOTH)
    assert found.policy_name == "rest"
    assert found.why == (
        "what 'all' stands for is for different policies ('big-1': big 'big-*', 'small-1': small 'small-*'), "
        "so default_policy rest is taken"
    )
    found = resolve(conflict(None), None, "all", None, BOTH)
    assert found.policy_name is None
    assert found.why.endswith(", and there is no default_policy")


def test_the_strictest_policy_is_taken_where_one_asks_for_it() -> None:
    found = resolve(conflict(big="strictest"), None, "all", None, BOTH)
    assert found.policy_name == "small"
    assert found.why.endswith(
        "('big-1': big 'big-*', 'small-1': small 'small-*'), so policy small is taken as the strictest (on_conflict)"
    )


@pytest.mark.parametrize(
    ("first", "second", "strictest"),
    [
        ({"enabled": False, "rank_window_size": 500}, {"rank_window_size": 10}, "first"),
        ({"mode": "off", "rank_window_size": 500}, {"rank_window_size": 10}, "first"),
        ({"rank_window_size": 50}, {"rank_window_size": 49}, "second"),
        ({"rank_window_size": 50, "budget_ms": 100}, {"rank_window_size": 50, "budget_ms": 99}, "second"),
        ({"rank_window_size": 50, "budget_ms": 100}, {"rank_window_size": 50, "budget_ms": 101}, "first"),
        ({}, {}, "first"),
    ],
)
def test_strictest_is_disabled_then_the_smallest_window_then_budget_then_the_files_order(
    first: dict[str, Any], second: dict[str, Any], strictest: str
) -> None:
    for_each = {"first": first | {"match": ["a-*"]}, "second": second | {"match": ["b-*"]}}
    configured = settings({name: policy | {"on_conflict": "strictest"} for name, policy in for_each.items()})
    members = [Member("b-1", ("x",)), Member("a-1", ("x",))]
    assert resolve(configured, None, "x", None, members).policy_name == strictest


def test_to_have_no_policy_is_stricter_than_any_but_a_disabled_one() -> None:
    members = [*BOTH, Member("other", ("all",))]
    found = resolve(conflict(None, big="strictest"), None, "all", None, members)
    assert found.policy_name is None
    assert found.why.endswith("so the strictest is no policy (on_conflict)")
    off = settings({"off": {"match": ["off-*"], "enabled": False, "on_conflict": "strictest"}})
    members = [Member("off-1", ("all",)), Member("other", ("all",))]
    assert resolve(off, None, "all", None, members).policy_name == "off"


def test_one_policy_that_refuses_is_enough_and_the_error_names_indices_and_policies() -> None:
    with pytest.raises(PolicyConflict) as caught:
        resolve(conflict(big="strictest", small="refuse"), None, "all", None, BOTH)
    assert isinstance(caught.value, InvalidRequest)
    assert str(caught.value) == (
        "what 'all' stands for is for different policies ('big-1': big 'big-*', 'small-1': small 'small-*'), "
        "and policy small refuses that (on_conflict): search them apart"
    )
    assert resolve(conflict(small="refuse"), None, "all", None, BOTH[:1]).policy_name == "big"
    assert resolve(conflict(rest="refuse"), None, "all", None, BOTH).policy_name == "rest"


def test_a_comma_list_is_settled_by_the_same_rule_where_no_engine_is_asked() -> None:
    assert resolve(conflict(), None, "big-1,small-1", None).policy_name == "rest"
    assert resolve(conflict(small="strictest"), None, "big-1,small-1", None).policy_name == "small"
    with pytest.raises(PolicyConflict, match="'big-1,small-1' is for different policies"):
        resolve(conflict(small="refuse"), None, "big-1,small-1", None)


def test_an_index_without_a_policy_counts_as_the_defaults() -> None:
    same = settings({"a": {"match": ["a-*"], "on_conflict": "refuse"}, "b": {}}, "a")
    members = [Member("a-1", ("x",)), Member("other", ("x",))]
    assert resolve(same, None, "x,b-1", None, members).policy_name == "a"
    two = settings({"a": {"match": ["a-*"]}, "b": {"match": ["b-*"]}}, "a")
    found = resolve(two, None, "x", None, members)
    assert found.policy_name == "a"
    assert found.why == (
        "what 'x' stands for is for policy a ('a-1': a 'a-*', 'other': none); "
        "default_policy a stands in where none matches"
    )
    found = resolve(two, None, "x", None, [Member("other", ("x",)), Member("another", ("x",))])
    assert found.policy_name == "a"
    assert found.why == (
        "no policy matches what 'x' stands for ('another': none, 'other': none), so default_policy a is taken"
    )


def test_without_members_the_name_as_written_counts_and_the_reason_says_so() -> None:
    found = resolve(ARTICLES, None, "art*", None, [])
    assert found.policy_name == "everything"
    assert found.why == (
        "index 'art*' matches '*' (policy everything, 0 literal characters); it stands for no index now"
    )
    found = resolve(ARTICLES, None, "art*", None, None, "no answer within 0.2 s")
    assert found.policy_name == "everything"
    assert found.why.endswith("; the engine could not say what it stands for: no answer within 0.2 s")
    with pytest.raises(PolicyConflict, match="could not say what it stands for: gone"):
        resolve(conflict(small="refuse"), None, "big-1,small-1,x", None, None, "gone")


def test_a_part_that_stands_for_nothing_has_no_say_beside_one_that_does() -> None:
    found = resolve(conflict(big="refuse"), None, "b*,small-none*", None, [Member("big-1")])
    assert found.policy_name == "big"


def test_what_an_exclusion_takes_from_a_wildcard_has_no_say() -> None:
    refusing = conflict(big="refuse")
    with pytest.raises(PolicyConflict):
        resolve(refusing, None, "*", None, BOTH)
    assert resolve(refusing, None, "*,-big-1", None, BOTH).policy_name == "small"
    assert resolve(refusing, None, "*,-b*", None, BOTH).policy_name == "small"
    assert resolve(refusing, None, "_all,-b*", None, BOTH).policy_name == "small"
    # As on the engines: an exclusion takes only from the wildcards before it, and never what is named itself.
    for again in ("-big-1,*", "*,-big-1,*", "*,-big-1,big-1"):
        with pytest.raises(PolicyConflict):
            resolve(refusing, None, again, None, BOTH)
    with pytest.raises(PolicyConflict):
        resolve(refusing, None, "all,s*,-big-1", None, BOTH)


def test_a_selector_of_a_data_stream_is_no_part_of_its_name() -> None:
    logs = settings({"logs": {"match": ["logs-*"]}, "rest": {"match": ["*"]}}, "rest")
    assert resolve(logs, None, "l*::data", None, [Member(".ds-logs-1", ("logs-web",))]).policy_name == "logs"
    assert resolve(logs, None, "web::data,logs-*", None, [Member(".ds-web-1", ("web",))]).policy_name == "rest"


@pytest.mark.parametrize(
    ("index", "asked"),
    [
        ("articles-2026", False),  # only `*` matches beside it, and nothing that it could stand for beats it
        ("articles-*", False),
        ("articles-1,articles-2", False),
        ("articles-1,-current", False),
        ("current", True),
        ("a*", True),
        ("articles-1,current", True),
        ("_all", True),
        ("<articles-{now/d}>", False),
        ("-current", False),
        ("", False),
        (None, False),
        ("x" * 5000, False),
    ],
)
def test_the_engine_is_asked_only_where_it_could_change_the_policy(index: str | None, asked: bool) -> None:
    three = settings({"everything": {"match": ["*"]}, "articles": {"match": ["articles-*"]}, "rest": {}}, "rest")
    expected = asked if index != "<articles-{now/d}>" else True  # as written it matches `*` alone
    assert must_ask(three, None, index, None) is expected


def test_nobody_is_asked_where_only_one_policy_is_possible_or_the_request_names_it() -> None:
    assert not must_ask(settings({"a": {"match": ["a-*"]}}, "a"), None, "x", None)
    assert must_ask(settings({"a": {"match": ["a-*"]}}), None, "x", None)
    assert not must_ask(settings({"a": {}, "b": {}}, "a"), None, "x", None)
    assert not must_ask(ARTICLES, None, "x", "articles")
    for_west = settings({"a": {"match": [("a-*", "west")]}, "b": {}}, "b")
    assert must_ask(for_west, "west", "x", None)
    assert not must_ask(for_west, "east", "x", None)
    assert not must_ask(for_west, None, "x", None)


def test_a_more_specific_match_of_the_same_policy_changes_nothing() -> None:
    both = settings({"articles": {"match": ["articles-*", "current"]}, "rest": {"match": ["*"]}})
    assert not must_ask(both, None, "articles-1", None)


def test_a_name_is_not_settled_while_another_policys_match_could_be_more_specific() -> None:
    exact = settings({"articles": {"match": ["articles-*"]}, "shop": {"match": ["shop"]}})
    assert must_ask(exact, None, "articles-1", None)
    assert resolve(exact, None, "articles-1", None, [Member("shop", ("articles-1",))]).policy_name == "shop"


def test_the_reason_stays_short_for_thousands_of_indices_and_shows_each_party() -> None:
    members = [Member(f"big-{number:04}", ("all",)) for number in range(4990)]
    members += [Member(f"small-{number}", ("all",)) for number in range(10)]
    why = resolve(conflict(), None, "all", None, members).why
    assert "'big-0000': big 'big-*', 'small-0': small 'small-*', 'big-0001'" in why
    assert why.endswith(" and 4990 more), so default_policy rest is taken")
    assert len(why) < 700
    long_names = [Member("big-" + "x" * 200 + str(number), ("all",)) for number in range(100)]
    assert len(resolve(conflict(), None, ",".join(["all", "x" * 4000]), None, long_names).why) < 2000


class CountedName(str):
    """The name of an index that counts how often a pattern is held against it."""

    __slots__ = ()
    looks = 0

    def startswith(self, *arguments: Any) -> bool:
        """The first look that a wildcard takes."""
        type(self).looks += 1
        return super().startswith(*arguments)


@pytest.mark.parametrize(
    ("pieces", "members"),
    [
        ([f"*{number:x}*" for number in range(700)], 10_000),
        ([f"*{number:x}*" for number in range(138)] + [f"-{number:x}*" for number in range(700)], 362),
        ([f"a{number}*,-b{number}*" for number in range(300)], 200),
        (["a" + "*a" * 1500], 10_000),
    ],
)
def test_parts_and_members_are_told_apart_in_bounded_work_or_taken_together(pieces: list[str], members: int) -> None:
    expression = ",".join(pieces)[: index_names.MAX_EXPRESSION_CHARS].rpartition(",")[0] or pieces[0]
    behind = [Member(CountedName(f"index-{number}")) for number in range(members)]
    resolver = Resolver(conflict())
    CountedName.looks = 0
    assert resolver.resolve(None, expression, None, behind).policy_name == "rest"
    assert CountedName.looks <= 2 * members  # those of the table
    few = behind[: votes.MOST_COMPARISONS // votes.comparisons(votes.read(expression), behind[:1])]
    CountedName.looks = 0
    resolver.resolve(None, expression, None, few)
    assert len(few) <= CountedName.looks <= votes.MOST_COMPARISONS + 2 * len(few)


def test_an_exclusion_is_held_against_an_index_once_however_many_wildcards_it_follows() -> None:
    expression = votes.read(",".join([*(f"*{number}*" for number in range(50)), *("-x*" for _ in range(20))]))
    behind = [Member("index-1"), Member("index-2")]
    assert votes.comparisons(expression, behind) == 2 * (50 * 2 + 20)


def test_what_is_taken_together_gets_the_policies_of_its_indices_all_the_same() -> None:
    expression = ",".join(["big-*", *(f"x{number}*" for number in range(300))])
    members = [Member(f"big-{number}") for number in range(200)]
    assert votes.comparisons(votes.read(expression), members) > votes.MOST_COMPARISONS
    assert resolve(conflict(), None, expression, None, members).policy_name == "big"
    assert resolve(conflict(), None, expression, None, [*members, Member("small-1")]).policy_name == "rest"


def test_two_patterns_over_ten_thousand_indices_are_still_told_apart() -> None:
    members = [Member(f"{'big' if number % 2 else 'small'}-{number}") for number in range(10_000)]
    with pytest.raises(PolicyConflict):  # three are not, and what is excluded has a say then
        resolve(conflict(big="refuse"), None, "b*,s*,-s*", None, members)
    assert resolve(conflict(big="refuse"), None, "*,-s*", None, members).policy_name == "big"


def test_nothing_of_the_settings_is_worked_out_again_for_a_request() -> None:
    resolver = Resolver(conflict())
    before = [resolver.resolve("east", "all", None, BOTH), resolver.must_ask("east", "all", None)]
    resolver._settings.policies["big"] = resolver._settings.policies["big"].model_copy(update={"match": ()})
    assert [resolver.resolve("east", "all", None, BOTH), resolver.must_ask("east", "all", None)] == before


def test_a_refusal_is_a_value_that_can_be_kept_and_raised_for_each_call() -> None:
    refused = Resolver(conflict(small="refuse")).choose(None, "all", BOTH)
    assert refused.refused
    for _ in range(2):
        with pytest.raises(PolicyConflict, match="policy small refuses that"):
            refused.checked()
    chosen = Resolver(conflict()).choose(None, "all", BOTH)
    assert chosen.checked() is chosen
