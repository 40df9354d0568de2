"""Arms are stable, shares are right, and interleaving is fair."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.rollout import Arm, arm_of, interleaved
from sidecar.types import Ranked

KEYS = [f"session-{number}" for number in range(10_000)]


@pytest.mark.parametrize("percent", [0, 1, 30, 50, 99.5, 100])
def test_as_many_keys_are_tried_as_asked(percent: float) -> None:
    tried = sum(arm_of("p", "on", percent, key) is Arm.RERANKED for key in KEYS)
    assert tried / len(KEYS) == pytest.approx(percent / 100, abs=0.015)
    if percent in (0, 100):
        assert tried == percent / 100 * len(KEYS)


def test_a_larger_share_keeps_those_that_had_the_new_order() -> None:
    few, more = ({key for key in KEYS if arm_of("p", "on", share, key) is Arm.RERANKED} for share in (10, 40))
    assert few < more


def test_policies_draw_by_themselves() -> None:
    both = sum(arm_of("p", "on", 50, key) is arm_of("q", "on", 50, key) for key in KEYS)
    assert both / len(KEYS) == pytest.approx(0.5, abs=0.02)


def test_a_mode_is_the_arm_of_those_that_are_tried() -> None:
    assert arm_of("p", "shadow", 100, "k") is Arm.SHADOW
    assert arm_of("p", "interleave", 100, "k") is Arm.INTERLEAVED
    assert arm_of("p", "shadow", 0, "k") is Arm.HELD_OUT
    assert arm_of("p", "on", 50, "\ud800") in (Arm.RERANKED, Arm.HELD_OUT)


@given(st.permutations(range(12)), st.text(max_size=8))
def test_every_hit_is_drawn_once_and_each_team_draws_as_often(ranks: list[int], key: str) -> None:
    order = [Ranked(rank, float(-place)) for place, rank in enumerate(ranks)]
    drawn = interleaved(order, key)
    assert sorted(place.rank for place in drawn) == list(range(12))
    assert interleaved(order, key) == drawn, "the same for the same key"
    for end in range(2, 13, 2):
        assert abs(Counter(place.team for place in drawn[:end])["engine"] - end / 2) <= 1
    engines = [place.rank for place in drawn if place.team == "engine"]
    assert engines == sorted(engines), "each team draws its best first"


def test_what_was_not_ordered_keeps_its_place() -> None:
    order = [Ranked(3, 2.0), Ranked(1), Ranked(2, 1.0), Ranked(0, 0.5), Ranked(4)]
    for number in range(20):
        drawn = interleaved(order, f"key {number}")
        assert (drawn[1], drawn[4]) == (Ranked(1), Ranked(4))


def test_over_many_keys_neither_team_is_favoured() -> None:
    order = [Ranked(rank, 1.0) for rank in (2, 0, 1)]
    first = Counter(interleaved(order, key)[0].team for key in KEYS[:2000])
    assert first["engine"] / 2000 == pytest.approx(0.5, abs=0.04)
