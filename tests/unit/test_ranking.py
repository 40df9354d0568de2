"""Orders: what the numbers say, by hand-computed examples."""

import math

import pytest

from sidecar.errors import NonFiniteScore
from sidecar.ranking import applied, best_passages, min_max, order, sigmoid, z_score
from sidecar.settings import Fusion
from sidecar.types import Ranked

REPLACE = Fusion(method="replace")
LINEAR = Fusion(method="linear", model_weight=0.5)


def test_replace_sorts_by_the_model_alone() -> None:
    assert order([9.0, 5.0, 1.0], {0: -1.0, 1: 0.5, 2: 3.0}, REPLACE) == [2, 1, 0]


def test_ties_stay_in_the_engines_order() -> None:
    assert order([3.0, 2.0, 1.0], {0: 1.0, 1: 1.0, 2: 1.0}, REPLACE) == [0, 1, 2]


def test_linear_fusion_weighs_both_on_one_scale() -> None:
    # min-max: engine 1, .5, 0; model 0, 1, .9 -> .5, .75, .45
    assert order([10.0, 6.0, 2.0], {0: 0.0, 1: 10.0, 2: 9.0}, LINEAR) == [1, 0, 2]


def test_linear_fusion_of_z_scores() -> None:
    fusion = Fusion(method="linear", model_weight=0.9, normalize="z_score")
    assert order([3.0, 2.0, 1.0], {0: 1.0, 1: 2.0, 2: 3.0}, fusion) == [2, 1, 0]


def test_rrf_by_hand() -> None:
    # engine ranks 1, 2, 3; model ranks 3, 1, 2 -> .5/61+.5/63, .5/62+.5/61, .5/63+.5/62
    assert order([3.0, 2.0, 1.0], {0: 0.1, 1: 0.9, 2: 0.5}, Fusion(method="rrf", model_weight=0.5)) == [1, 0, 2]


def test_negative_engine_scores_do_not_break_the_order() -> None:
    assert order([-1.0, -2.0, -30.0], {0: 0.0, 1: 1.0, 2: 0.5}, LINEAR) == [1, 0, 2]


def test_unscored_candidates_keep_their_places() -> None:
    assert order([4.0, 3.0, 2.0, 1.0], {0: 0.1, 2: 0.9, 3: 0.5}, REPLACE) == [2, 1, 3, 0]


def test_without_engine_scores_the_model_alone_decides_and_the_answer_says_so() -> None:
    assert order([None, 1.0], {0: 0.0, 1: 1.0}, LINEAR) == [1, 0]
    assert applied([None, 1.0], {0: 0.0, 1: 1.0}, LINEAR) == "replace"
    assert applied([2.0, None], {0: 0.0}, LINEAR) == "linear"


def test_the_best_passage_stands_for_its_document() -> None:
    best = best_passages({0: ["a", "b"], 3: ["c"]}, [0.1, 0.7, -2.0])
    assert best == {0: Ranked(0, 0.7, "b"), 3: Ranked(3, -2.0, "c")}


def test_a_document_may_count_as_the_mean_of_its_best_passages() -> None:
    passages = {0: ["a", "b", "c"], 1: ["d"], 2: ["e", "f"]}
    best = best_passages(passages, [0.9, 0.1, 0.5, 0.8, 0.2, 0.8], mean_of_top=2)
    assert [(one.relevance_score, one.passage) for one in best.values()] == [
        (pytest.approx(0.7), "a"),
        (0.8, "d"),
        (0.5, "f"),
    ]


def test_equal_passages_give_the_first_of_them() -> None:
    assert best_passages({0: ["a", "b"]}, [0.5, 0.5])[0].passage == "a"


def test_documents_behind_a_shrunk_window_are_left_out() -> None:
    assert list(best_passages({0: ["a"], 1: ["b"], 2: ["c"]}, [0.1, 0.2])) == [0, 1]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_one_score_that_is_not_finite_refuses_all(bad: float) -> None:
    with pytest.raises(NonFiniteScore, match="1 of 3"):
        best_passages({0: ["a"], 1: ["b", "c"]}, [0.1, bad, 0.2])


def test_scores_near_the_largest_double_are_ordered_as_any_others() -> None:
    huge = [1.7e308, 5.0, 0.0, -1.7e308]
    for fusion in (LINEAR, Fusion(method="linear", model_weight=0.5, normalize="z_score")):
        assert order(huge, {rank: float(-rank) for rank in range(4)}, fusion) == [0, 1, 2, 3]
        assert order(huge[::-1], {rank: float(rank) for rank in range(4)}, fusion) == [3, 2, 1, 0]


def test_scales_of_constant_or_no_scores_are_zero() -> None:
    assert min_max([2.0, 2.0]) == [0.0, 0.0]
    assert z_score([2.0, 2.0]) == [0.0, 0.0]
    assert min_max([]) == z_score([]) == []


def test_z_scores_have_mean_zero_and_deviation_one() -> None:
    assert z_score([1.0, 3.0]) == [-1.0, 1.0]


def test_sigmoid_is_monotone_and_does_not_overflow() -> None:
    assert [sigmoid(-1000.0), sigmoid(0.0), sigmoid(1000.0)] == [0.0, 0.5, 1.0]
