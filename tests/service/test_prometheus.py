"""A real Prometheus scrapes a running sidecar, loads the alerts that ship, and one fires when the scorer fails."""

import asyncio
import json
import shutil
import socket
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml

from sidecar.scoring.fake import WordOverlapScorer
from tests.conftest import SERVER, Serve, settings

DOCKER = Path(__file__).parents[2] / "docker" / "prometheus"
PATIENCE_S = 60.0
BODY = {"query": {"match": {"body": "apple"}}}

pytestmark = pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not installed")


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def quick_rules() -> dict[str, Any]:
    """The rules that ship, with minutes made seconds."""
    rules: dict[str, Any] = yaml.safe_load(
        (DOCKER / "alerts.yml").read_text().replace("[5m]", "[10s]").replace("[10m]", "[10s]")
    )
    for rule in rules["groups"][0]["rules"]:
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


@pytest.mark.timeout(180)
async def test_an_alert_fires_when_the_scorer_fails(serve: Serve, tmp_path: Path) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("CUDA error")

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
                while not {"RerankFallbacks", "RerankPassesFail"} <= seen and time.monotonic() < deadline:
                    await client.search("docs", "apple", BODY)
                    await asyncio.sleep(0.1)
                    seen = await asyncio.to_thread(firing, web)
                    if scorer.fault is None and scorer.calls > 50:
                        assert not seen & {"RerankFallbacks", "RerankPassesFail"}, "nothing is wrong yet"
                        scorer.fault = broken
                assert {"RerankFallbacks", "RerankPassesFail"} <= seen
                targets = await asyncio.to_thread(asked, web, "targets")
                assert [one["health"] for one in targets["activeTargets"]] == ["up"]
            finally:
                prometheus.kill()
