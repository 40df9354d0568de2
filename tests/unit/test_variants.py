"""What a sweep compares, and the settings of the sidecars that serve it."""

from typing import Any

import pytest
from pydantic import SecretStr

from sidecar.connector_settings import OpenSearchSettings
from sidecar.evaluation.variants import (
    Variant,
    VariantError,
    costs,
    fusion_of,
    policy_yaml,
    rollout_note,
    served,
    sweep,
)
from sidecar.policy import plan
from sidecar.rollout import Arm
from sidecar.settings import Settings

MAIN = {"type": "opensearch", "hosts": ["http://x:9200"], "basic_auth": {"username": "u", "password": "pw"}}


def settings(**policy: Any) -> Settings:
    text = {"fields": ["title", "text"]}
    return Settings.model_validate(
        {
            "server": {"address": "0.0.0.0:50051"},
            "connectors": {"main": MAIN},
            "models": {"default": {"threads": 2}, "large": {}},
            "policies": {"docs": {"match": [{"index": "docs"}], "text": text, "budget_ms": 250, **policy}},
            "default_policy": "docs",
        }
    )


def test_every_combination_is_compared_once() -> None:
    found = sweep(settings(), "docs", [20, 50, 20], [128], ["replace", "rrf:0.5"], ["default", "large"])
    assert len(found) == 2 * 1 * 2 * 2
    assert Variant("large", 128, 50, "rrf:0.5") in found


def test_what_is_not_given_is_the_policys() -> None:
    assert sweep(settings(), "docs", [], [], [], []) == [Variant("default", None, 100, "linear:0.8:0.5")]
    alone = settings(cosine=None, fusion={"method": "rrf"})
    assert sweep(alone, "docs", [], [], [], []) == [Variant("default", None, 100, "rrf:0.8:0")]
    replacing = settings(fusion={"method": "replace"}, rank_window_size=30)
    assert sweep(replacing, "docs", [], [], [], []) == [Variant("default", None, 30, "replace")]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"policy": "none"}, "policy 'none' is not in the configuration; allowed: docs"),
        ({"models": ["tiny"]}, "model 'tiny' is not in the configuration; allowed: default, large"),
        ({"fusions": ["linaer:1"]}, "'linaer:1' is not a fusion; allowed: replace, linear:WEIGHT"),
        ({"fusions": ["linear:1.5"]}, "is not a fusion"),
        ({"fusions": ["replace:0.5"]}, "is not a fusion"),
        ({"windows": [0]}, "window 0 is out of range; allowed: 1..1000"),
        ({"windows": [5000]}, "window 5000 is out of range"),
        ({"max_lengths": [8]}, "8 tokens a pair are out of range; allowed: 16..32768"),
    ],
)
def test_a_mistake_says_what_is_allowed(asked: dict[str, Any], message: str) -> None:
    empty: dict[str, Any] = {"policy": "docs", "windows": [], "max_lengths": [], "fusions": [], "models": []}
    with pytest.raises(VariantError, match=message.replace("(", r"\(")):
        sweep(settings(), **{**empty, **asked})


def test_what_a_fusion_does_not_say_is_the_policys() -> None:
    assert fusion_of("rrf") == {"fusion": {"method": "rrf"}}
    assert fusion_of(" linear:1 ") == {"fusion": {"method": "linear", "model_weight": 1.0}}
    own = settings(fusion={"normalize": "z_score"}, cosine={"order_rest": True, "share": 0.1})
    variants = sweep(own, "docs", [], [], ["linear:0.6", "linear:0.6:0.3", "linear:0.6:0", "replace"], [])
    policies = [served(own, "docs", [variant], for_quality=True).policies[variant.policy] for variant in variants]
    assert {policy.fusion.normalize for policy in policies} == {"z_score"}
    assert [policy.second and policy.second.share for policy in policies] == [0.1, 0.3, None, None]
    assert [policy.second and policy.second.order_rest for policy in policies] == [True, True, None, None]


def test_the_bi_encoder_is_the_configurations_own() -> None:
    tree = {
        "models": {"default": {}, "mine": {"kind": "bi_encoder", "max_length": 99}},
        "policies": {"docs": {"text": {"fields": ["text"]}, "cosine": {"model": "mine"}}},
    }
    own = Settings.model_validate(tree)
    made = served(own, "docs", sweep(own, "docs", [], [], [], []), for_quality=True)
    assert made.models["mine"] == own.models["mine"]
    assert set(made.loaded_models) == {"default", "mine"}


def test_for_quality_nothing_is_late_and_scores_are_kept() -> None:
    variants = sweep(settings(min_rank_window_size=5, order_cache_s=9), "docs", [20], [64], ["replace"], [])
    made = served(settings(min_rank_window_size=5, order_cache_s=9), "docs", variants, for_quality=True)
    policy = made.policies[variants[0].policy]
    assert (policy.rank_window_size, policy.min_rank_window_size, policy.order_cache_s) == (20, None, 0)
    assert (policy.fusion.method, policy.match, policy.budget_ms) == ("replace", (), 120_000)
    assert made.models[policy.model].max_length == 64
    assert made.models[policy.model].threads == 2
    assert made.server.score_cache_mib > 0


def test_for_times_the_budget_is_the_policys_and_nothing_is_kept() -> None:
    variants = sweep(settings(), "docs", [], [], [], [])
    made = served(settings(), "docs", variants, for_quality=False)
    assert made.policies[variants[0].policy].budget_ms == 250
    assert made.server.score_cache_mib == 0
    assert made.server.address == "127.0.0.1:0", "whatever the file listens on"


@pytest.mark.parametrize("second", [{}, {"cosine": None}, {"fusion": {"method": "replace"}}])
def test_for_times_the_bi_encoder_keeps_nothing_either(second: dict[str, Any]) -> None:
    own = settings(**second)
    made = served(own, "docs", sweep(own, "docs", [], [], ["linear:0.8:0.5"], []), for_quality=False)
    kept = {name: (one.token_cache_mib, one.vector_cache_mib) for name, one in made.loaded_models.items()}
    assert kept == {"default": (0, 0), "near": (0, 0)}


def test_a_bi_encoder_that_no_variant_has_is_not_loaded() -> None:
    made = served(settings(), "docs", sweep(settings(), "docs", [], [], ["replace"], []), for_quality=False)
    assert set(made.loaded_models) == {"default"}


@pytest.mark.parametrize(
    ("policy", "alike"),
    [
        ({}, {"linear:0.8", "rrf", "linear:0.8:0.5"}),
        ({"cosine": None}, {"linear:0.8", "rrf", "linear:0.8:0", "replace"}),
        ({"cosine": {"share": 0}}, {"linear:0.8", "rrf", "linear:0.8:0", "replace"}),
        ({"cosine": {"share": 0, "order_rest": True}}, {"linear:0.8", "rrf", "linear:0.8:0.5"}),
    ],
)
def test_what_takes_the_same_time_is_timed_once(policy: dict[str, Any], alike: set[str]) -> None:
    own, fusions = settings(**policy), ["linear:0.8", "rrf", "linear:0.8:0.5", "linear:0.8:0", "replace"]
    found = costs(own, "docs", sweep(own, "docs", [], [], fusions, []))
    made = {variant.fusion: cost for variant, cost in found.items()}
    assert {fusion for fusion, cost in made.items() if cost == made["linear:0.8"]} == alike
    assert len(set(made.values())) == 2


def test_a_plain_caller_of_this_machine_is_let_in() -> None:
    server = {
        "tls": {"cert": "cert.pem", "key": "key.pem"},
        "auth": {"keys_env": "KEYS", "roles": {"app": {"connectors": ["main"], "policies": ["docs"]}}},
        "tracing": {},
        "metrics_address": "127.0.0.1:9464",
        "max_queued_pairs": 5000,
    }
    own = Settings.model_validate(
        {**settings().model_dump(mode="json"), "connectors": {"main": MAIN}, "server": server}
    )
    made = served(own, "docs", sweep(own, "docs", [], [], [], []), for_quality=False).server
    assert (made.tls, made.auth, made.tracing, made.metrics_address) == (None, None, None, None)
    assert made.max_queued_pairs == 5000


@pytest.mark.parametrize("rollout", [{"mode": "off"}, {"mode": "shadow"}, {"mode": "interleave"}, {"percent": 10}])
def test_a_policy_is_measured_as_if_it_were_on_for_every_call(rollout: dict[str, Any]) -> None:
    own = settings(**rollout)
    variants = sweep(own, "docs", [], [], [], [])
    for for_quality in (True, False):
        made = served(own, "docs", variants, for_quality=for_quality)
        asked = plan(made, variants[0].policy, key="any")
        assert (asked.enabled, asked.arm, asked.tried) == (True, Arm.RERANKED, False)
    advised = policy_yaml(own, "docs", variants[0], enabled=True)["policies"]["docs"]
    assert rollout.items() <= advised.items(), "the rollout is the user's own"
    (key, value), *_ = rollout.items()
    assert f"keeps its `{key}: {value}`" in rollout_note(own, "docs")


def test_a_policy_that_is_on_for_every_call_needs_no_note() -> None:
    assert rollout_note(settings(), "docs") == ""


def test_secrets_are_handed_over_and_not_masked() -> None:
    made = served(settings(), "docs", sweep(settings(), "docs", [], [], [], []), for_quality=True)
    connector = made.connectors["main"]
    assert isinstance(connector, OpenSearchSettings)
    assert connector.basic_auth
    assert isinstance(connector.basic_auth.password, SecretStr)
    assert connector.basic_auth.password.get_secret_value() == "pw"


def test_the_advice_is_a_policy_that_the_configuration_takes() -> None:
    chosen = Variant("large", 192, 50, "linear:0.6:0.25")
    advised = policy_yaml(settings(), "docs", chosen, enabled=False)
    parts = {**settings().model_dump(mode="json", include={"models"}), "policies": {}}
    checked = Settings.model_validate(
        {"models": {**parts["models"], **advised["models"]}, "policies": advised["policies"]}
    )
    policy = checked.policies["docs"]
    assert (policy.model, policy.rank_window_size, policy.enabled) == ("large-192", 50, False)
    assert (policy.fusion.model_weight, policy.match[0].index) == (0.6, "docs")
    assert policy.second
    assert policy.second.share == 0.25
