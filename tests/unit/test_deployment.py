"""What is deployed beside the code names what the code has: metrics, commands, settings, roles."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from sidecar import configuration
from sidecar.metrics import Metrics
from sidecar.watch import Watch
from tests.tools import needs

DOCKER = Path(__file__).parents[2] / "docker"
OPERATIONS = (DOCKER.parent / "docs" / "operations.md").read_text()
RULES = yaml.safe_load((DOCKER / "prometheus" / "alerts.yml").read_text())["groups"][0]["rules"]
ALERTS = [rule for rule in RULES if "alert" in rule]
COMPOSED = ("compose.yaml", "stack.yaml")
DASHBOARD = json.loads((DOCKER / "grafana" / "dashboard.json").read_text())
_METRIC = re.compile(r"\bsidecar_[a-z0-9_]+")


_KEYS = {
    *("build", "cap_drop", "command", "depends_on", "environment", "healthcheck", "image", "mem_limit", "ports"),
    *("profiles", "read_only", "restart", "security_opt", "tmpfs", "ulimits", "volumes"),
}
"""Of a service, as far as they are used; one that is misspelt would be refused by Docker Compose."""


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
    return {**{f"rule {rule.get('alert') or rule['record']}": rule["expr"] for rule in RULES}, **panels}


@pytest.mark.parametrize("where", expressions())
def test_alerts_and_panels_ask_for_metrics_that_are_there(where: str) -> None:
    assert set(_METRIC.findall(expressions()[where])) <= known()


def test_every_metric_and_every_alert_is_told_of_in_the_operations_manual() -> None:
    bare = {re.sub(r"_(bucket|sum|count)$", "", name) for name in known()}
    assert [name for name in sorted(bare) if name not in OPERATIONS] == []
    assert [rule["alert"] for rule in ALERTS if f"| {rule['alert']} |" not in OPERATIONS] == []
    assert set(_METRIC.findall(OPERATIONS)) <= known() | bare
    assert set(re.findall(r"^\| (Rerank\w+) \|", OPERATIONS, re.MULTILINE)) == {rule["alert"] for rule in ALERTS}


def test_alerts_say_how_bad_it_is_and_what_it_is() -> None:
    for rule in ALERTS:
        assert rule["labels"]["severity"] in ("critical", "warning", "info")
        assert rule["annotations"]["summary"]


@pytest.mark.parametrize("alert", [rule["alert"] for rule in ALERTS])
def test_every_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not(alert: str) -> None:
    cases = yaml.safe_load((DOCKER / "prometheus" / "alerts_test.yml").read_text())["tests"]
    own = [one for case in cases for one in case["alert_rule_test"] if one["alertname"] == alert]
    assert {bool(one["exp_alerts"]) for one in own} == {True, False}


def test_rules_are_looked_at_often_enough_to_fire_within_a_minute() -> None:
    group = yaml.safe_load((DOCKER / "prometheus" / "alerts.yml").read_text())["groups"][0]
    assert group["interval"] == "10s"
    own = yaml.safe_load((DOCKER / "prometheus" / "prometheus.yml").read_text())
    assert own["global"] == {"scrape_interval": "10s", "evaluation_interval": "10s"}
    assert own["scrape_configs"][0]["job_name"] == "rerank-sidecar"


@pytest.mark.parametrize(
    "command",
    [
        "promtool check config prometheus/prometheus.yml",
        "promtool test rules prometheus/alerts_test.yml",
        "promtool test rules prometheus/alerts_day_test.yml",
        "hadolint Dockerfile",
    ],
)
def test_what_the_tools_of_others_say(command: str) -> None:
    """Rules are valid and fire when they should, the image is built as it should be."""
    program, *arguments = command.split()
    needs(program)
    run = subprocess.run([program, *arguments], cwd=DOCKER, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize(
    ("required", "outcome"), [("other", pytest.skip.Exception), ("a no-tool", pytest.fail.Exception)]
)
def test_a_tool_that_is_required_is_not_skipped(
    required: str, outcome: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUIRED_TOOLS", required)
    with pytest.raises(outcome, match="no-tool is not installed"):
        needs("no-tool")


def test_continuous_integration_requires_the_tools_that_it_installs() -> None:
    (named,) = re.findall(r'REQUIRED_TOOLS="(.*)"', (DOCKER.parent / ".ci" / "run").read_text())
    assert set(named.split()) == {"prometheus", "promtool"}


def test_the_stacks_configuration_is_valid() -> None:
    settings = configuration.load(DOCKER / "stack-sidecar.yaml")
    stack = yaml.safe_load((DOCKER / "stack.yaml").read_text())
    port = settings.server.address.rpartition(":")[2]
    assert any(one.endswith(f":{port}") for one in stack["services"]["sidecar"]["ports"])
    scraped = yaml.safe_load((DOCKER / "prometheus" / "prometheus.yml").read_text())["scrape_configs"][0]
    assert scraped["static_configs"][0]["targets"] == [f"sidecar:{settings.server.metrics_address.rpartition(':')[2]}"]  # type: ignore[union-attr]


@pytest.mark.parametrize("name", COMPOSED)
def test_what_is_composed_is_whole(name: str) -> None:
    """As far as it can be told without Docker: every service has one origin, and what it names is there."""
    composed = yaml.safe_load((DOCKER / name).read_text())
    services: dict[str, dict[str, Any]] = composed["services"]
    assert set(composed) - {key for key in composed if key.startswith("x-")} == {"name", "services"}
    published = [port for one in services.values() for port in one.get("ports", [])]
    assert all(re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port) for port in published), "only on this machine's own address"
    assert len({port.split(":")[1] for port in published}) == len(published)
    for service, one in services.items():
        assert set(one) <= _KEYS, f"{name}: {service}: {set(one) - _KEYS}"
        assert ("image" in one) != ("build" in one)
        for other, how in (one.get("depends_on") or {}).items() if isinstance(one.get("depends_on"), dict) else ():
            assert how == {"condition": "service_healthy"}
            assert "healthcheck" in services[other]
        assert set(one.get("depends_on", ())) <= set(services)
        for volume in one.get("volumes", ()):
            source, target, mode = volume.split(":")
            assert (DOCKER / source).exists(), f"{name}: {service}: {source}"
            assert (target[0], mode) == ("/", "ro")
        if "healthcheck" in one:
            assert set(one["healthcheck"]) == {"test", "interval", "timeout", "retries"}
            assert one["healthcheck"]["test"][0] == "CMD"


def test_what_the_stack_builds_is_there() -> None:
    build = yaml.safe_load((DOCKER / "stack.yaml").read_text())["services"]["sidecar"]["build"]
    file = DOCKER / build["context"] / build["dockerfile"]
    assert set(build["args"]) <= set(re.findall(r"^ARG (\w+)", file.read_text(), re.MULTILINE))
    copied = re.findall(r"^COPY (?!--from)(.*) \S+$", file.read_text(), re.MULTILINE)
    assert [one for line in copied for one in line.split() if not (DOCKER / build["context"] / one).exists()] == []


def test_each_engine_of_the_stack_has_a_connector(tmp_path: Path) -> None:
    """Those of a profile one to take in: an engine that is not there would be complained of for ever."""
    services = yaml.safe_load((DOCKER / "stack.yaml").read_text())["services"]
    engines = {name: f"http://{name}:9200" for name, one in services.items() if name in one.get("image", "")}
    text = (DOCKER / "stack-sidecar.yaml").read_text()
    whole = tmp_path / "whole.yaml"
    whole.write_text(re.sub(r"^  # ( *\w+:)", r"  \1", text, flags=re.MULTILINE))
    started = [name for name in engines if name in ("opensearch", "elasticsearch") and "profiles" not in services[name]]
    assert list(configuration.load(DOCKER / "stack-sidecar.yaml").connectors) == started
    connectors = configuration.load(whole).connectors
    assert {name: one.hosts[0] for name, one in connectors.items()} == {  # type: ignore[union-attr]
        name: host for name, host in engines.items() if name in ("opensearch", "elasticsearch")
    }


def test_images_are_pinned_to_a_version_and_run_as_nobody() -> None:
    text = (DOCKER / "Dockerfile").read_text()
    assert re.search(r"^USER 10001$", text, re.MULTILINE)
    (image,) = re.findall(r"^ARG PYTHON_IMAGE=(.*)$", text, re.MULTILINE)
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+", image), "a patch version"
    assert set(re.findall(r"^FROM (\S+)", text, re.MULTILINE)) == {"${PYTHON_IMAGE}"}
    stack = yaml.safe_load((DOCKER / "stack.yaml").read_text())
    images = [one["image"] for one in stack["services"].values() if "image" in one]
    assert all(re.search(r":v?\d+\.\d+", image) for image in images)
    assert stack["services"]["sidecar"]["read_only"] is True
