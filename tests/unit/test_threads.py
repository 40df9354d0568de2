"""All models of a process run in the same number of threads."""

from typing import Any

from sidecar.settings import Settings

POLICIES = {"p": {"text": {"fields": ["x"]}}}


def test_the_threads_that_one_model_names_are_those_of_all() -> None:
    """Models are loaded one after the other in the device's thread, whose number of threads the last one sets."""

    def threads(**models: dict[str, Any]) -> dict[str, int | None]:
        found = Settings.model_validate({"models": models, "policies": POLICIES}).loaded_models
        return {name: model.threads for name, model in found.items()}

    assert threads(default={"threads": 2}) == {"default": 2, "near": 2}
    assert threads(default={}, large={"threads": 3}) == {"default": 3, "large": 3, "near": 3}
    assert threads(default={}) == {"default": None, "near": None}
