"""The Helm chart, and the pod without Helm: what they render to, and that their configurations are valid."""

import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from sidecar import configuration
from sidecar.settings import Settings
from tests.tools import needs

DOCKER = Path(__file__).parents[2] / "docker"
CHART = DOCKER / "helm" / "rerank-sidecar"
VALUES: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
LOOPBACK = VALUES["config"].replace("address: 0.0.0.0:50051", "address: 127.0.0.1:50051")
TLS = VALUES["config"].replace("server:", "server:\n  tls: {cert: tls.crt, key: tls.key}", 1)
IDLE_MIB = 1.4e9 / 2**20
"""docs/operations.md: what the process takes without calls and caches."""
OPEN = ["python", "-c", "import socket; socket.create_connection(('127.0.0.1', 50051), 2)"]

PARENT = """
apiVersion: v1
kind: Pod
metadata: {name: app}
spec:
  {{- $sidecar := index .Subcharts "rerank-sidecar" }}
  containers:
    - {name: app, image: app}
    - {{- include "rerank-sidecar.container" $sidecar | nindent 6 }}
  volumes: {{- include "rerank-sidecar.volumes" $sidecar | nindent 4 }}
"""


def helm(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    needs("helm")
    return subprocess.run(["helm", *map(str, arguments)], capture_output=True, text=True, check=False)


def rendered(chart: Path, folder: Path, values: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What a chart makes of values, by kind."""
    file = folder / "own-values.yaml"
    file.write_text(yaml.safe_dump(dict(values)))
    run = helm("template", "search", chart, "--values", file)
    assert run.returncode == 0, run.stderr
    return {one["kind"]: one for one in yaml.safe_load_all(run.stdout) if one}


def container(pod: Mapping[str, Any]) -> dict[str, Any]:
    (found,) = [one for one in pod["spec"]["containers"] if one["name"] == "rerank-sidecar"]
    return dict(found)


def checked(text: str, folder: Path) -> Settings:
    file = folder / "rerank-sidecar.yaml"
    file.write_text(text)
    return configuration.load(file)


def pod() -> tuple[str, dict[str, Any]]:
    """The configuration and the pod of ``docker/pod.yaml``."""
    configured, found = yaml.safe_load_all((DOCKER / "pod.yaml").read_text())
    return configured["data"]["rerank-sidecar.yaml"], found


def test_calls_and_answers_stay_below_the_memory_limit(tmp_path: Path) -> None:
    (sidecar,) = pod()[1]["spec"]["initContainers"]
    for text, limits in ((VALUES["config"], VALUES["resources"]["limits"]), (pod()[0], sidecar["resources"]["limits"])):
        settings = checked(text, tmp_path)
        server, engine = settings.server, settings.connectors["main"]
        calls = server.max_concurrent_calls * (server.max_message_mib + engine.max_answer_mib)  # type: ignore[union-attr]
        (gib,) = re.findall(r"^(\d+)Gi$", limits["memory"])
        assert IDLE_MIB + 4 * 64 + calls + server.max_unread_mib < int(gib) * 1024


def test_a_pod_without_helm_asks_on_loopback_by_commands(tmp_path: Path) -> None:
    text, found = pod()
    assert checked(text, tmp_path).server.address == "127.0.0.1:50051"
    (sidecar,) = found["spec"]["initContainers"]
    assert sidecar["restartPolicy"] == "Always"
    probes = {name: probe for name, probe in sidecar.items() if name.endswith("Probe")}
    assert {name: probe["exec"]["command"] for name, probe in probes.items()} == {
        "startupProbe": OPEN,
        "livenessProbe": OPEN,
    }
    mounted = {one["name"] for one in sidecar["volumeMounts"]}
    assert mounted == {one["name"] for one in found["spec"]["volumes"]}


@pytest.mark.parametrize("values", ["", "autoscaling.enabled=true,serviceMonitor.enabled=true,secretEnv=s"])
def test_the_chart_is_as_helm_wants_it(values: str) -> None:
    run = helm("lint", "--strict", CHART, "--set", values)
    assert run.returncode == 0, run.stdout + run.stderr


def test_a_deployment_is_asked_by_grpc_and_paused_before_it_stops(tmp_path: Path) -> None:
    found = rendered(CHART, tmp_path, {})
    assert set(found) == {"ConfigMap", "Deployment", "NetworkPolicy", "PodDisruptionBudget", "Service"}
    template = found["Deployment"]["spec"]["template"]
    sidecar = container(template)
    assert sidecar["readinessProbe"]["grpc"] == {"port": 50051}
    assert sidecar["livenessProbe"]["tcpSocket"] == sidecar["startupProbe"]["tcpSocket"] == {"port": 50051}
    (pause,) = sidecar["lifecycle"]["preStop"]["exec"]["command"][1:]
    grace_s = template["spec"]["terminationGracePeriodSeconds"]
    assert int(pause) + checked(VALUES["config"], tmp_path).server.shutdown_grace_s < grace_s
    ports = {one["name"]: one["targetPort"] for one in found["Service"]["spec"]["ports"]}
    assert set(ports.values()) == {one["name"] for one in sidecar["ports"]}
    assert found["ConfigMap"]["data"]["rerank-sidecar.yaml"].strip() == VALUES["config"].strip()


def test_with_tls_a_pod_is_ready_once_its_models_are(tmp_path: Path) -> None:
    options = ["--tls-ca", "/etc/rerank-sidecar/tls/ca.crt", "--tls-name", "search"]
    values = {"config": TLS, "tlsSecret": "t", "insecure": False, "health": {"options": options}}
    sidecar = container(rendered(CHART, tmp_path, values)["Deployment"]["spec"]["template"])
    assert sidecar["readinessProbe"]["exec"]["command"] == ["rerank-sidecar", "health", *options]
    assert sidecar["args"] == ["serve", "/etc/rerank-sidecar/config/rerank-sidecar.yaml"]
    assert "/etc/rerank-sidecar/tls" in [one["mountPath"] for one in sidecar["volumeMounts"]]


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"config": TLS}, "server.tls is set in config: set health.options"),
        ({"insecure": False}, "insecure is false: set server.tls in config"),
        ({"config": LOOPBACK}, "server.address in config is 127.0.0.1"),
        ({"mode": "beside"}, "beside an app: listen on 127.0.0.1:50051"),
        ({"mode": "pod"}, 'mode is "pod"; allowed: deployment, beside'),
    ],
)
def test_values_that_do_not_go_together_are_refused(values: dict[str, Any], told: str, tmp_path: Path) -> None:
    file = tmp_path / "own-values.yaml"
    file.write_text(yaml.safe_dump(values))
    chart = parent(tmp_path) if values.get("mode") == "beside" else CHART
    if chart != CHART:
        file.write_text(yaml.safe_dump({"rerank-sidecar": values}))
    run = helm("template", "search", chart, "--values", file)
    assert (run.returncode, told in run.stderr) == (1, True), run.stderr


def test_what_a_pod_needs_of_its_own_can_be_given(tmp_path: Path) -> None:
    values = {
        "extraVolumes": [{"name": "engine-ca", "secret": {"secretName": "engine-ca"}}],
        "extraVolumeMounts": [{"name": "engine-ca", "mountPath": "/etc/engine-ca", "readOnly": True}],
        "extraEnv": [{"name": "ENGINE_PASSWORD", "value": "x"}],
        "extraLimits": {"nvidia.com/gpu": 1},
        "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        "autoscaling": {"enabled": True},
        "networkPolicy": {"enabled": False},
    }
    found = rendered(CHART, tmp_path, values)
    template = found["Deployment"]["spec"]["template"]
    sidecar = container(template)
    assert values["extraVolumes"][0] in template["spec"]["volumes"]  # type: ignore[index]
    assert values["extraVolumeMounts"][0] in sidecar["volumeMounts"]  # type: ignore[index]
    assert (sidecar["env"], sidecar["resources"]["limits"]["nvidia.com/gpu"]) == (values["extraEnv"], 1)
    assert set(found) & {"NetworkPolicy", "HorizontalPodAutoscaler"} == {"HorizontalPodAutoscaler"}
    assert found["ServiceMonitor"]["metadata"]["labels"]["release"] == "prometheus"
    assert found["ServiceMonitor"]["spec"]["endpoints"] == [{"port": "metrics", "interval": "10s"}]
    assert re.fullmatch(r".*rerank-sidecar.*", found["Service"]["metadata"]["name"]), "the job, as the alerts want it"


def parent(folder: Path) -> Path:
    """A chart of an app, with this one below it."""
    chart = folder / "app"
    shutil.copytree(CHART, chart / "charts" / "rerank-sidecar")
    (chart / "templates").mkdir()
    dependency = {"name": "rerank-sidecar", "version": "0.1.0"}
    about = {"apiVersion": "v2", "name": "app", "version": "0.1.0", "dependencies": [dependency]}
    (chart / "Chart.yaml").write_text(yaml.safe_dump(about))
    (chart / "templates" / "pod.yaml").write_text(PARENT)
    return chart


def test_another_chart_takes_the_container_beside_its_app(tmp_path: Path) -> None:
    values = {"mode": "beside", "insecure": False, "config": LOOPBACK}
    found = rendered(parent(tmp_path), tmp_path, {"rerank-sidecar": values})
    assert set(found) == {"ConfigMap", "Pod"}
    sidecar = container(found["Pod"])
    assert sidecar["startupProbe"]["exec"]["command"] == sidecar["livenessProbe"]["exec"]["command"] == OPEN
    assert sidecar["readinessProbe"]["exec"]["command"] == ["rerank-sidecar", "health"]
    assert sidecar["args"][-1] != "--insecure"
    volumes = {one["name"]: one for one in found["Pod"]["spec"]["volumes"]}
    assert set(volumes) == {one["name"] for one in sidecar["volumeMounts"]}
    assert volumes["rerank-sidecar-config"]["configMap"]["name"] == found["ConfigMap"]["metadata"]["name"]
