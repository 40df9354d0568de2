"""A whole sidecar in this process: real gRPC server and client, memory connector, a scorer without a model."""

import gc
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import hypothesis
import pytest

from connectors.base import Connector
from connectors.memory import MemoryConnector
from sidecar.app import App
from sidecar.client import RerankClient
from sidecar.cost import CostModel
from sidecar.loaded import LoadedModel
from sidecar.scoring.base import Scorer
from sidecar.scoring.fake import WordOverlapScorer
from sidecar.settings import ModelSettings, Settings

# A shared machine is slow at times; that is no finding about the code.
hypothesis.settings.register_profile("default", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("default")

DOCUMENTS = {
    f"d{number}": {"title": title, "body": body}
    for number, (title, body) in enumerate(
        [
            ("apple", "apple apple apple fruit"),
            ("apple pie", "a pie of apple with butter crust"),
            ("phones", "the apple company sells many phones every winter"),
            ("storage", "which apple varieties keep well in winter storage"),
            ("pears", "pears and quinces"),
            ("orchard", "apple trees in an orchard in spring"),
        ]
    )
}

SERVER = {"address": "127.0.0.1:0", "metrics_address": None, "shutdown_grace_s": 1, "score_cache_mib": 0}
"""No scores are kept: a fault is to reach each call that it is meant for, also one that asks the same again."""

Served = AbstractAsyncContextManager[tuple[RerankClient, App]]
Serve = Callable[..., Served]


def pytest_collection_finish() -> None:
    """As the sidecar does once it is ready: a full collection of all that torch and the tests brought takes 0.2 s and
    more, and with that whole budgets of the calls that are tested."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """Libraries look for what has leaked when the process ends."""
    gc.unfreeze()


def settings(policy: Mapping[str, Any] | None = None, **changes: Any) -> Settings:
    """Settings of a test server: memory connector `main`, policy `default` on all indices."""
    base: dict[str, Any] = {
        "server": SERVER,
        "connectors": {"main": {"type": "memory", "indices": {"docs": "unused"}}},
        "policies": {
            "default": {
                "match": [{"index": "*"}],
                "text": {"fields": ["title", "body"]},
                "budget_ms": 2000,
                "fusion": {"method": "replace"},
                **(policy or {}),
            }
        },
        "default_policy": "default",
    }
    return Settings.model_validate({**base, **changes})


def loader(scorer: Scorer, cost: CostModel | None = None) -> Callable[[str, ModelSettings], LoadedModel]:
    """A model loader that always gives this scorer."""
    return lambda name, model: LoadedModel.of(name, scorer, cost or CostModel(overhead_s=1e-4), model)


@asynccontextmanager
async def _serve(
    scorer: Scorer | None = None,
    *,
    connector: Connector | None = None,
    configured: Settings | None = None,
    cost: CostModel | None = None,
    load: Callable[[str, ModelSettings], LoadedModel] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> AsyncIterator[tuple[RerankClient, App]]:
    connector = connector or MemoryConnector("main", {"docs": DOCUMENTS})
    app = App(
        configured or settings(),
        load=load or loader(scorer or WordOverlapScorer(), cost),
        connectors={"main": connector},
        clock=clock,
    )
    await app.start()
    if load is None:
        await app.ready()
    try:
        async with RerankClient(f"127.0.0.1:{app.port}") as client:
            yield client, app
    finally:
        await app.stop()


@pytest.fixture
def serve() -> Serve:
    """Start a sidecar: ``async with serve(scorer) as (client, app)``."""
    return _serve
