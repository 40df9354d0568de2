"""What a cosine changes of an order, by hand-computed examples."""

from collections.abc import Mapping, Sequence

import pytest

from sidecar.cosines import NONE, Cosines
from sidecar.errors import BudgetExhausted, Fallback, Overloaded
from sidecar.pair_scores import PairScores
from sidecar.policy import Plan, plan
from sidecar.ranking import applied, order
from sidecar.settings import Fusion, Settings
from sidecar.types import Outcome, Ranked, Ranking, Reason
from sidecar.verdict import ranking_of

FUSION = Fusion(method="linear", model_weight=0.8)
ENGINE = [10.0, 6.0, 2.0]


def test_three_opinions_are_weighed_on_one_scale() -> None:
    # engine 1 .5 0 (weight .2), model 0 1 .5 (.4), cosine 0 .2 1 (.4): .2, .58, .6
    model, cosine = {0: -3.0, 1: 5.0, 2: 1.0}, {0: 0.1, 1: 0.2, 2: 0.6}
    assert order(ENGINE, model, FUSION, cosine, 0.5) == [2, 1, 0]
    assert order(ENGINE, model, FUSION, cosine, 0.25) == [1, 2, 0], "model .6, cosine .2: .2, .74, .5"
    assert order(ENGINE, model, FUSION) == [1, 2, 0], "the model alone beside the engine: .2, .9, .4"


def test_reciprocal_ranks_of_three() -> None:
    fusion = Fusion(method="rrf", model_weight=0.8, rrf_k=1)
    # engine .2 (1/2 1/3 1/4), model .3 (1/4 1/2 1/3), cosine .5 (1/4 1/3 1/2): .3, .383, .4
    assert order(ENGINE, {0: 0.0, 1: 2.0, 2: 1.0}, fusion, {0: 0.1, 1: 0.2, 2: 0.3}, 0.625) == [2, 1, 0]


def test_where_one_document_has_no_cosine_the_model_has_all_of_its_weight() -> None:
    # engine 1 .5 0 (.2), model 0 1 .5 (.8): .2, .9, .4
    model = {0: -3.0, 1: 5.0, 2: 1.0}
    assert order(ENGINE, model, FUSION, {0: 1.0, 1: 0.2}, 0.5) == [1, 2, 0]


def test_documents_with_a_cosine_alone_share_their_places() -> None:
    # behind the two that the model scored: engine 1 .5 0 (.2), cosine 0 .5 1 (.8): .2, .5, .8
    original = [9.0, 8.0, 7.0, 6.0, 5.0]
    assert order(original, {0: 0.0, 1: 1.0}, FUSION, {2: 0.1, 3: 0.3, 4: 0.5}, 0.5) == [1, 0, 4, 3, 2]


def test_without_engine_scores_model_and_cosine_decide() -> None:
    model, cosine = {0: 0.0, 1: 1.0}, {0: 0.9, 1: 0.1}
    assert order([None, None], model, FUSION, cosine, 0.5) == [0, 1]
    assert applied([None, None], model, FUSION, cosine) == "linear"
    assert applied([None, None], model, FUSION) == "replace"


PASSAGES = {0: ["a0", "a1"], 1: ["b"], 3: ["d"]}
SCORES = [4.0, 3.0, 2.0, 1.0]


def planned(*, order_rest: bool = False) -> Plan:
    policy = {"text": {"fields": ["t"]}, "cosine": {"order_rest": order_rest}}
    return plan(Settings.model_validate({"policies": {"p": policy}}), "p")


def ranked(
    scores: Sequence[float], groups: int, cosines: Mapping[int, Sequence[float]], late: Fallback | None = None
) -> Ranking:
    near = Cosines("v", cosines) if cosines else NONE
    return ranking_of(SCORES, planned(order_rest=True), PASSAGES, PairScores(scores, groups, late), near, "m")


def test_the_reply_tells_each_documents_opinions() -> None:
    found = ranked([0.0, 2.0, 5.0, 1.0], 3, {0: [0.2, 0.1], 1: [0.9], 3: [0.0]})
    assert (found.outcome, found.scored, found.compared) == (Outcome.RERANKED, 3, 3)
    assert (found.model_version, found.cosine_version, found.fusion) == ("m", "v", "linear")
    assert found.order == [Ranked(1, 5.0, "b", 0.9), Ranked(0, 2.0, "a1", 0.2), Ranked(2), Ranked(3, 1.0, "d", 0.0)]


def test_what_had_no_say_is_not_told() -> None:
    found = ranked([0.0, 2.0, 5.0, 1.0], 3, {0: [0.2, 0.1], 3: [0.0]})
    assert found.compared == 0
    assert found.cosine_version == ""


def test_the_rest_of_a_partial_order_follows_the_cosine() -> None:
    found = ranked([0.0, 2.0], 1, {1: [0.1], 3: [0.9]})
    assert found.order == [Ranked(0, 2.0, "a1"), Ranked(3, None, "d", 0.9), Ranked(2), Ranked(1, None, "b", 0.1)]
    assert (found.outcome, found.reason, found.scored, found.compared) == (Outcome.PARTIAL, Reason.OVERLOADED, 1, 2)
    assert "the others are in the order of cosine and engine" in found.detail


def test_an_overloaded_model_leaves_the_order_to_the_cosine() -> None:
    found = ranked([], 0, {0: [0.1, 0.2], 1: [0.5], 3: [0.9]}, Overloaded("too much to do"))
    assert [place.rank for place in found.order] == [3, 1, 2, 0]
    assert found.order[3] == Ranked(0, None, "a1", 0.2)
    assert (found.outcome, found.reason, found.scored) == (Outcome.PARTIAL, Reason.OVERLOADED, 0)
    assert found.detail == "too much to do: no candidate was scored, and 3 are in the order of cosine and engine"
    assert found.model_version == ""


def test_without_scores_and_cosines_it_is_the_models_failure() -> None:
    with pytest.raises(Overloaded, match="too much"):
        ranked([], 0, {}, Overloaded("too much to do"))


def test_what_was_scored_before_it_was_too_late_counts() -> None:
    found = ranked([0.0, 2.0, 5.0], 2, {}, BudgetExhausted("the budget ended"))
    assert (found.outcome, found.reason, found.scored) == (Outcome.PARTIAL, Reason.BUDGET_EXHAUSTED, 2)
    assert found.detail.startswith("only the first 2 candidates")


def test_a_cosine_that_is_no_number_is_none() -> None:
    found = ranked([0.0, 2.0, 5.0, 1.0], 3, {0: [0.2, float("nan")], 1: [0.9], 3: [0.0]})
    assert (found.outcome, found.compared) == (Outcome.RERANKED, 0)


def test_the_rest_keeps_its_places_unless_the_policy_says_so() -> None:
    found = ranking_of(SCORES, planned(), PASSAGES, PairScores([0.0, 2.0], 1), Cosines("v", {1: [0.1], 3: [0.9]}), "m")
    assert [place.rank for place in found.order] == [0, 1, 2, 3]
    assert found.compared == 0
