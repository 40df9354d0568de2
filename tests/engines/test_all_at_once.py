"""A live sidecar under load while all that can change or fail does: no call is lost, or late, and metrics tell it."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from sidecar import configuration
from sidecar.app import App
from sidecar.client import RerankClient, Tls
from sidecar.reloading import Reloader
from sidecar.scoring.fake import WordOverlapScorer
from tests.calls import PATIENCE_S, SLACK_S, until
from tests.conftest import DOCUMENTS, loader
from tests.engines.catalog import ENGINES
from tests.engines.conftest import TARGETS, FreshNode
from tests.engines.engine import Engine
from tests.engines.faulty import BODY, BUDGET_S, SEARCH_TIMEOUT_S
from tests.engines.test_outages import BACK_WITHIN_S, FAILED, End, call, stalls, working
from tests.pki import ca, issued

CALLERS = 8
REWRITES = 100
ROTATIONS = 6
OUTAGE_S = 60.0
"""An engine that is killed is back by then, on a busy machine too."""
WHEN_BROKEN = ["policies: {", "policies: {default: {budget_ms: soon}}", "connectors: {}\npolicies: {}"]


class Stage:
    """The files of a sidecar, and the sidecar itself."""

    def __init__(self, folder: Path, engine: Engine) -> None:
        self.folder = folder
        self.engine = engine
        self.file = folder / "sidecar.yaml"
        self.scorer = WordOverlapScorer()
        ca(folder, "ca")
        for name in ("first", "second"):
            issued(folder, name, "ca")
        self.install("first")
        self.write(self.tree(rank_window_size=10))
        self.app = App(configuration.load(self.file), load=loader(self.scorer), file=self.file)

    @property
    def reloader(self) -> Reloader:
        """What watches the configuration."""
        assert self.app._reloader
        return self.app._reloader

    def install(self, name: str) -> None:
        """Put a certificate and its key where the sidecar looks for them."""
        for kind in ("-key", ""):
            _replace(self.folder / f"server{kind}.pem", (self.folder / f"{name}{kind}.pem").read_text())

    def write(self, content: dict[str, Any] | str) -> None:
        """Replace the configuration file."""
        _replace(self.file, content if isinstance(content, str) else yaml.safe_dump(content))

    def tree(self, **policy: Any) -> dict[str, Any]:
        """A configuration."""
        search_timeout_ms = int(SEARCH_TIMEOUT_S * 1e3)
        return {
            "server": {
                "address": "127.0.0.1:0",
                "metrics_address": None,
                "shutdown_grace_s": 1,
                "score_cache_mib": 0,
                "tls": {"cert": "server.pem", "key": "server-key.pem"},
            },
            "connectors": {
                "main": {"type": self.engine.kind, "hosts": [self.engine.url], "search_timeout_ms": search_timeout_ms}
            },
            "policies": {
                "default": {"text": {"fields": ["title", "body"]}, "budget_ms": int(BUDGET_S * 1e3), **policy},
            },
            "default_policy": "default",
        }

    def metric(self, name: str, **labels: str) -> float:
        """A value of the sidecar's own metrics, 0 where it has none."""
        return self.app.metrics.registry.get_sample_value(f"sidecar_{name}", labels) or 0.0

    def fallbacks(self, reason: str) -> float:
        """How many searches got the engine's order, for this reason."""
        labels = {"method": "Search", "policy": "default", "outcome": "ORIGINAL_ORDER", "reason": reason}
        return self.metric("requests_total", **labels)

    def more_reloads(self, outcome: str, than: float) -> bool:
        """Whether there were more."""
        return self.metric("configuration_reloads_total", outcome=outcome) > than

    def has_rotated(self, times: int) -> bool:
        """Whether so many certificates were taken over."""
        return self.metric("file_changes_total", file="certificates", outcome="applied") >= times

    def client(self) -> RerankClient:
        """One that trusts the CA, on a connection of its own."""
        return RerankClient(f"localhost:{self.app.port}", Tls(self.folder / "ca.pem"))


def _replace(file: Path, text: str) -> None:
    fresh = file.with_suffix(".new")
    fresh.write_text(text)
    fresh.replace(file)


@asynccontextmanager
async def load(stage: Stage) -> AsyncIterator[list[End]]:
    """Callers who ask again and again, each twenty times on a connection; the list of how calls ended grows."""
    ends: list[End] = []

    async def keep_calling(_: int) -> None:
        while True:
            async with stage.client() as client:
                for _ in range(20):
                    ends.append(await call(client, "books", BODY))
                    await asyncio.sleep(0.02)

    async with working(keep_calling, CALLERS):
        yield ends


async def rewrite(stage: Stage) -> None:
    """A third of the files is broken; of each the watching task is told, as by SIGHUP."""
    rng, reloader = random.Random(0), stage.reloader

    async def watched(_: int) -> None:
        await reloader.watch()

    async with working(watched, 1):
        for number in range(REWRITES):
            outcome = "refused" if number % 3 == 2 else "applied"
            before = stage.metric("configuration_reloads_total", outcome=outcome)
            tree = stage.tree(rank_window_size=2 + number % 5)
            stage.write(rng.choice(WHEN_BROKEN) if outcome == "refused" else tree)
            reloader.ask()
            await until(partial(stage.more_reloads, outcome, before))
            await asyncio.sleep(0.05)


async def rotate(stage: Stage) -> None:
    """Another certificate, again and again, as slowly as changes are seen."""
    for number in range(ROTATIONS):
        stage.install(("second", "first")[number % 2])
        await until(partial(stage.has_rotated, number + 1))


async def fail_scoring(stage: Stage) -> None:
    """Until the sidecar and its callers have noticed: while the engine is away no call gets so far."""

    def fault(*_: object) -> None:
        raise RuntimeError("CUDA error: misaligned address")

    await asyncio.sleep(1)
    stage.scorer.fault = fault
    await until(
        lambda: "default" in stage.app.scheduler.failing and stage.fallbacks("CIRCUIT_OPEN") > 0,
        OUTAGE_S + PATIENCE_S,
    )
    stage.scorer.fault = None
    await until(lambda: not stage.app.scheduler.failing)


@dataclass
class Away:
    """From when until when the engine was not there."""

    since: float = 0.0
    until: float = 0.0

    def during(self, end: End) -> bool:
        """For a part of a call, or just before it."""
        return self.since <= end.began + end.took_s and end.began <= self.until + BACK_WITHIN_S


async def outage(stage: Stage, away: Away) -> None:
    """The engine is killed and started again, and the sidecar notices both."""
    await asyncio.sleep(2)
    away.since = time.monotonic()
    await asyncio.to_thread(stage.engine.kill)
    await until(lambda: stage.metric("connector_open", connector="main") == 1)
    await asyncio.to_thread(stage.engine.restart)
    away.until = time.monotonic()


@pytest.mark.parametrize("name", [name for name in TARGETS.plain if name in ENGINES])
async def test_all_at_once(fresh_node: FreshNode, name: str, tmp_path: Path) -> None:
    engine = await asyncio.to_thread(fresh_node, name)
    engine.bulk("books", DOCUMENTS)
    stage, away = Stage(tmp_path, engine), Away()
    await stage.app.start()
    await stage.app.ready()
    changes: list[Callable[[Stage], Awaitable[None]]] = [rewrite, rotate, fail_scoring]
    try:
        with stalls() as stalled:
            async with load(stage) as ends:
                await until(lambda: len(ends) > 50)
                await asyncio.gather(*(change(stage) for change in changes), outage(stage, away))
                known = len(ends)
                await until(lambda: len(ends) > known + 100)
    finally:
        await stage.app.stop()
    assert {end.end for end in ends if away.during(end)} <= {"RERANKED", "ORIGINAL_ORDER", *FAILED}
    assert {end.end for end in ends if not away.during(end)} <= {"RERANKED", "ORIGINAL_ORDER"}, "while it was there"
    assert {end.end for end in ends[-50:]} == {"RERANKED"}
    assert max(end.took_s - stalled.during(end) for end in ends) < max(BUDGET_S, SEARCH_TIMEOUT_S) + SLACK_S
    refused = REWRITES // 3
    assert stage.metric("configuration_reloads_total", outcome="refused") == refused
    assert stage.metric("configuration_reloads_total", outcome="applied") == REWRITES - refused
    assert stage.metric("file_changes_total", file="certificates", outcome="applied") == ROTATIONS
    assert stage.metric("file_changes_total", file="certificates", outcome="refused") == 0
    assert stage.metric("connector_open", connector="main") == 0
    assert stage.metric("failed_passes_total", model="default") > 0
    assert stage.fallbacks("MODEL_ERROR") > 0
    assert stage.fallbacks("CIRCUIT_OPEN") > 0
