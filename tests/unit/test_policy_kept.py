"""What follows from an answer about names is worked out once for it, and not for each call that goes by it."""

import pytest

from connectors.base import Member
from connectors.memory import MemoryConnector
from sidecar.calls import Clock, Narrowing, SearchCall
from sidecar.gate import Gate
from sidecar.names import Known
from sidecar.policy import Overrides
from sidecar.resolution import PolicyConflict
from sidecar.settings import Settings

MEMORY = {"main": {"type": "memory", "indices": {"x": "unused"}}}


def gate(on_conflict: str = "default") -> tuple[Gate, MemoryConnector]:
    """A gate to one engine, with the policies `big` and `small`."""
    tree = {
        name: {"match": [{"index": f"{name}-*"}], "text": {"fields": ["t"]}, "on_conflict": on_conflict}
        for name in ("big", "small")
    }
    engine = MemoryConnector("main", {})
    return Gate(Settings.model_validate({"connectors": MEMORY, "policies": tree}), {"main": engine}), engine


def call(policy: str | None = None) -> SearchCall:
    return SearchCall("main", "all", "q", {}, {}, Narrowing(policy=policy, overrides=Overrides()), Clock(0.0, None))


def test_an_answer_keeps_the_policy_that_follows_from_it() -> None:
    checks, engine = gate()
    known = Known([Member("big-1", ("all",))])
    first = checks.prepare(call(), engine, known, 1)
    kept = known.resolution
    assert kept is not None
    assert (kept.policy_name, first.why) == ("big", kept.why)
    assert checks.prepare(call(), engine, known, 1).why is kept.why
    assert known.resolution is kept


def test_an_answer_keeps_that_its_indices_are_refused() -> None:
    checks, engine = gate("refuse")
    known = Known([Member("big-1", ("all",)), Member("small-1", ("all",))])
    for _ in range(2):
        with pytest.raises(PolicyConflict, match="search them apart"):
            checks.prepare(call(), engine, known, 1)
    assert known.resolution is not None
    assert known.resolution.refused


def test_a_policy_that_the_request_names_is_no_part_of_what_an_answer_keeps() -> None:
    checks, engine = gate("refuse")
    known = Known([Member("big-1", ("all",)), Member("small-1", ("all",))])
    plan = checks.prepare(call("small"), engine, known, 1).plan
    assert plan is not None
    assert plan.policy == "small"
    assert known.resolution is None
