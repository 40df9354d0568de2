"""Models take turns by their weights; none is owed anything for the time in which it had no work."""

import pytest

from sidecar.shares import Shares


def served(shares: Shares, waiting: list[str], batches: int, seconds: dict[str, float]) -> dict[str, float]:
    """Device time that each of the waiting models gets."""
    got = dict.fromkeys(waiting, 0.0)
    for _ in range(batches):
        model = shares.pick(waiting)
        shares.charge(model, seconds[model], sum(got.values()))
        got[model] += seconds[model]
    return got


def test_a_model_of_large_batches_gets_no_more_than_one_of_small_ones() -> None:
    got = served(Shares(), ["slow", "fast"], 600, {"slow": 0.05, "fast": 0.01})
    assert got["slow"] == pytest.approx(got["fast"], rel=0.05)


def test_time_is_given_by_weight() -> None:
    got = served(Shares({"one": 3.0}), ["one", "two"], 400, {"one": 0.01, "two": 0.01})
    assert got["one"] == pytest.approx(3 * got["two"], rel=0.05)


def test_who_had_no_work_has_saved_nothing_up() -> None:
    shares = Shares()
    served(shares, ["one"], 100, {"one": 0.01})
    got = served(shares, ["one", "two"], 20, {"one": 0.01, "two": 0.01})
    assert abs(got["one"] - got["two"]) <= 0.0101


def test_what_the_others_lately_used_is_left_to_them_up_to_their_share() -> None:
    shares = Shares()
    assert shares.left_to("one", 0.0) == 1.0
    now = 0.0
    for _ in range(100):
        shares.charge("two", 0.02, now)
        now += 0.1  # a fifth of the device
    assert shares.left_to("one", now) == pytest.approx(0.8, abs=0.02)
    assert shares.left_to("two", now) == 1.0
    for _ in range(500):
        shares.charge("two", 0.02, now)
        now += 0.02  # all of it
    assert shares.left_to("one", now) == 0.5
    assert shares.left_to("one", now + 20) == 1.0, "it is forgotten"


def test_a_turn_of_another_model_is_waited_for_only_when_it_comes_first() -> None:
    shares = Shares()
    shares.charge("slow", 0.05, 0.0)
    assert shares.turn_s("fast", 0.0) == 0.0
    shares.charge("fast", 0.2, 0.05)
    assert shares.turn_s("fast", 0.25) == 0.05
