"""What a running sidecar tells Prometheus, and a real one that loads the alerts that ship: they fire when the scorer
fails."""

import asyncio
import json
import re
import socket
import subprocess
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from sidecar.scoring.base import Pair
from sidecar.scoring.fake import WordOverlapScorer
from tests.conftest import SERVER, Serve, settings
from tests.tools import needs

DOCKER = Path(__file__).parents[2] / "docker" / "prometheus"
PATIENCE_S = 60.0
BODY = {"query": {"match": {"body": "apple"}}}


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def quick_rules() -> dict[str, Any]:
    """The rules that ship, with minutes made seconds."""
    rules: dict[str, Any] = yaml.safe_load(re.sub(r"\[(1|5|10)m\]", "[10s]", (DOCKER / "alerts.yml").read_text()))
    for rule in rules["groups"][0]["rules"]:
        if "alert" in rule:
            rule["for"] = "0s"
    return {"groups": [{**rules["groups"][0], "interval": "1s"}]}


def configure(folder: Path, metrics: int) -> Path:
    own = yaml.safe_load((DOCKER / "prometheus.yml").read_text())
    own["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    own["scrape_configs"][0]["static_configs"][0]["targets"] = [f"127.0.0.1:{metrics}"]
    (folder / "alerts.yml").write_text(yaml.safe_dump(quick_rules()))
    file = folder / "prometheus.yml"
    file.write_text(yaml.safe_dump(own))
    return file


def asked(port: int, path: str) -> Any:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/{path}", timeout=2) as answer:
        return json.load(answer)["data"]


def firing(port: int) -> set[str]:
    try:
        alerts = asked(port, "alerts")["alerts"]
    except OSError:
        return set()
    return {one["labels"]["alertname"] for one in alerts if one["state"] == "firing"}


async def test_time_over_the_budget_and_constant_scores_are_counted_by_policy(serve: Serve) -> None:
    def constant(_: int, pairs: Sequence[Pair]) -> np.ndarray:
        return np.full(len(pairs), 0.5, np.float32)

    scorer = WordOverlapScorer()
    async with serve(scorer, configured=settings({"budget_ms": 1500})) as (client, app):

        def told(name: str, **labels: str) -> float | None:
            return app.metrics.registry.get_sample_value(f"sidecar_{name}", {"policy": "default", **labels})

        page = await client.search("docs", "apple winter storage", BODY)
        assert (told("budget_used_ratio_count"), told("constant_scores_total")) == (1, 0)
        assert told("budget_used_ratio_sum") == pytest.approx(page.message.meta.timings.total_ms / 1500)
        scorer.fault = constant
        await client.search("docs", "winter apple", BODY)
        assert told("constant_scores_total") == 1
        assert told("budget_used_ratio_count") == 2
        await client.search("docs", "apple", {**BODY, "size": 0})
        assert told("budget_used_ratio_count") == 2, "what is left alone has no budget"


@pytest.mark.timeout(180)
async def test_an_alert_fires_when_the_scorer_fails(serve: Serve, tmp_path: Path) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("CUDA error")

    needs("prometheus")

    expected = {"RerankStopped", "RerankFallbacks", "RerankPassesFail"}
    metrics, web = free_port(), free_port()
    scorer = WordOverlapScorer()
    configured = settings(server={**SERVER, "metrics_address": f"127.0.0.1:{metrics}"})
    command = ["prometheus", f"--config.file={configure(tmp_path, metrics)}", f"--web.listen-address=127.0.0.1:{web}"]
    async with serve(scorer, configured=configured) as (client, _):
        with subprocess.Popen(  # noqa: ASYNC220
            [*command, f"--storage.tsdb.path={tmp_path / 'data'}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as prometheus:
            try:
                seen: set[str] = set()
                deadline = time.monotonic() + PATIENCE_S
                while not expected <= seen and time.monotonic() < deadline:
                    await client.search("docs", "apple", BODY)
                    await asyncio.sleep(0.1)
                    seen = await asyncio.to_thread(firing, web)
                    if scorer.fault is None and scorer.calls > 50:
                        assert not seen & expected, "nothing is wrong yet"
                        scorer.fault = broken
                assert expected <= seen
                targets = await asyncio.to_thread(asked, web, "targets")
                assert [one["health"] for one in targets["activeTargets"]] == ["up"]
            finally:
                prometheus.kill()
