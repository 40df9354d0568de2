"""What is deployed beside the code names what the code has: metrics, commands, settings, roles."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from sidecar import configuration
from sidecar.metrics import Metrics
from sidecar.watch import Watch

DOCKER = Path(__file__).parents[2] / "docker"
OPERATIONS = (DOCKER.parent / "docs" / "operations.md").read_text()
RULES = yaml.safe_load((DOCKER / "prometheus" / "alerts.yml").read_text())["groups"][0]["rules"]
DASHBOARD = json.loads((DOCKER / "grafana" / "dashboard.json").read_text())
_METRIC = re.compile(r"\bsidecar_[a-z0-9_]+")


def known() -> set[str]:
    """Every name that a sidecar shows, with the endings that Prometheus adds."""
    metrics = Metrics()
    Watch(["p"], metrics)
    found: set[str] = set()
    for family in metrics.registry.collect():
        ends = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}.get(family.type, [""])
        found |= {family.name + end for end in ends}
    return found


def expressions() -> dict[str, str]:
    panels = {
        f"panel {one['title']}": " ".join(target["expr"] for target in one["targets"]) for one in DASHBOARD["panels"]
    }
    return {**{f"alert {rule['alert']}": rule["expr"] for rule in RULES}, **panels}


@pytest.mark.parametrize("where", expressions())
def test_alerts_and_panels_ask_for_metrics_that_are_there(where: str) -> None:
    assert set(_METRIC.findall(expressions()[where])) <= known()


def test_every_metric_and_every_alert_is_told_of_in_the_operations_manual() -> None:
    bare = {re.sub(r"_(bucket|sum|count)$", "", name) for name in known()}
    assert [name for name in sorted(bare) if name not in OPERATIONS] == []
    assert [rule["alert"] for rule in RULES if rule["alert"] not in OPERATIONS] == []
    assert set(_METRIC.findall(OPERATIONS)) <= known() | bare


def test_alerts_say_how_bad_it_is_and_what_it_is() -> None:
    for rule in RULES:
        assert rule["labels"]["severity"] in ("critical", "warning", "info")
        assert rule["annotations"]["summary"]


@pytest.mark.parametrize(
    "command",
    [
        "promtool check rules prometheus/alerts.yml",
        "promtool test rules prometheus/alerts_test.yml",
        "helm lint --strict helm/rerank-sidecar",
        "helm template x helm/rerank-sidecar --set autoscaling.enabled=true,tlsSecret=t,secretEnv=s,insecure=false",
        "hadolint Dockerfile",
    ],
)
def test_what_the_tools_of_others_say(command: str) -> None:
    """Rules are valid and fire when they should, the chart can be rendered, the image is built as it should be."""
    program, *arguments = command.split()
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    run = subprocess.run([program, *arguments], cwd=DOCKER, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


def test_the_stacks_configuration_is_valid() -> None:
    settings = configuration.load(DOCKER / "stack-sidecar.yaml")
    stack = yaml.safe_load((DOCKER / "stack.yaml").read_text())
    port = settings.server.address.rpartition(":")[2]
    assert any(one.endswith(f":{port}") for one in stack["services"]["sidecar"]["ports"])
    scraped = yaml.safe_load((DOCKER / "prometheus" / "prometheus.yml").read_text())["scrape_configs"][0]
    assert scraped["static_configs"][0]["targets"] == [f"sidecar:{settings.server.metrics_address.rpartition(':')[2]}"]  # type: ignore[union-attr]


def test_the_charts_configuration_is_valid(tmp_path: Path) -> None:
    values: dict[str, Any] = yaml.safe_load((DOCKER / "helm" / "rerank-sidecar" / "values.yaml").read_text())
    file = tmp_path / "rerank-sidecar.yaml"
    file.write_text(values["config"])
    assert configuration.load(file).default_policy == "all"


def test_images_are_pinned_to_a_version_and_run_as_nobody() -> None:
    text = (DOCKER / "Dockerfile").read_text()
    assert re.search(r"^USER 10001$", text, re.MULTILINE)
    assert "HEALTHCHECK" in text
    stack = yaml.safe_load((DOCKER / "stack.yaml").read_text())
    images = [one["image"] for one in stack["services"].values() if "image" in one]
    assert all(re.search(r":v?\d+\.\d+", image) for image in images)
    assert stack["services"]["sidecar"]["read_only"] is True
