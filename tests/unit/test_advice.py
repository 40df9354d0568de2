"""What the log says at start about budgets that cannot be kept; 1 ms a pass and 10 us a token."""

import pytest

from sidecar.advice import seconds, tight_budgets
from sidecar.cost import CostModel
from sidecar.loaded import LoadedModel
from sidecar.scoring.fake import WordOverlapScorer
from sidecar.settings import ModelSettings
from tests.conftest import settings

MODEL = LoadedModel.of("default", WordOverlapScorer(), CostModel(overhead_s=0.001, token_s=1e-5), ModelSettings())


def test_a_window_that_needs_more_than_the_budget_is_named_with_what_would_fit() -> None:
    configured = settings({"rank_window_size": 100, "budget_ms": 60})
    (advice,) = tight_budgets(configured, MODEL)
    assert (advice.policy, advice.pairs, advice.budget_ms) == ("default", 100, 60)
    assert advice.needed_ms == round(seconds(MODEL, 100) * 1e3) > 60
    left_s = (60 - configured.server.reserve_ms) / 1e3
    assert seconds(MODEL, advice.fits) <= left_s < seconds(MODEL, advice.fits + 1)


@pytest.mark.parametrize("policy", [{"budget_ms": 1000}, {"enabled": False}, {"mode": "off"}, {"rank_window_size": 5}])
def test_nothing_is_said_where_the_budget_is_enough_or_nothing_is_ranked(policy: dict[str, object]) -> None:
    assert tight_budgets(settings({"rank_window_size": 100, "budget_ms": 60, **policy}), MODEL) == []


def test_every_passage_that_a_document_may_have_is_counted() -> None:
    text = {"fields": ["body"], "passages": {"words": 100, "stride": 100, "max_passages": 3}}
    (advice,) = tight_budgets(settings({"rank_window_size": 100, "budget_ms": 200, "text": text}), MODEL)
    assert advice.pairs == 300


def test_the_largest_window_is_advised_on_at_once() -> None:
    policy = {"rank_window_size": 4000, "limits": {"rank_window_size": 4000}, "budget_ms": 60}
    (advice,) = tight_budgets(settings(policy), MODEL)
    assert advice.fits < 100
