"""Which engines a run of the tests is about, and what it says where they cannot be had. Nothing here starts a node."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.engines.catalog import ENGINES, EngineError, Missing, Spec, spec_of
from tests.engines.jdk import find_jdk
from tests.engines.targets import Targets, read_targets

ROOT = Path(__file__).parents[2]
PLAIN = ("opensearch-3", "opensearch-2", "elasticsearch-9", "elasticsearch-8")
SECURED = ("opensearch-3-secured", "elasticsearch-9-secured", "elasticsearch-8-secured")
AS_ADMIN = {"OS_USER": "admin", "OS_PASSWORD": "x"}


@pytest.mark.parametrize(
    ("environment", "targets"),
    [
        ({}, Targets(PLAIN, SECURED, required=False)),
        ({"ENGINES": ""}, Targets(PLAIN, SECURED, required=False)),
        ({"ENGINES": "required"}, Targets(PLAIN, SECURED, required=True)),
        ({"ENGINES": "opensearch-3, elasticsearch-9"}, Targets((PLAIN[0], PLAIN[2]), (), required=False)),
        ({"ENGINES": "elasticsearch-9-secured,required"}, Targets((), (SECURED[1],), required=True)),
        ({"ES_URL": "http://here:9200"}, Targets(("ES_URL", *PLAIN[:2]), SECURED[:1], required=False)),
        ({"ES_URL": "http://here:9200", "OS_URL": "http://there"}, Targets(("ES_URL", "OS_URL"), (), required=False)),
        ({"ES_URL": "http://here:9200", "ENGINES": "ES_URL"}, Targets(("ES_URL",), (), required=False)),
        ({"OS_URL": "https://there", **AS_ADMIN, "ENGINES": "OS_URL"}, Targets(("OS_URL",), ("OS_URL",), False)),
    ],
)
def test_the_environment_says_which(environment: dict[str, str], targets: Targets) -> None:
    assert read_targets(environment) == targets


def test_a_word_that_is_no_engine_is_refused() -> None:
    with pytest.raises(EngineError, match=r"'opensearch'.*opensearch-3"):
        read_targets({"ENGINES": "opensearch"})
    with pytest.raises(EngineError, match=r"'opensearch-1'.*opensearch-3"):
        spec_of("opensearch-1")


def test_a_jdk_too_old_is_named() -> None:
    with pytest.raises(Missing, match=r"future needs a JDK .* of version 999 or newer"):
        find_jdk(Spec("future", "opensearch", "opensearch-3", 999))


@pytest.mark.parametrize(("engines", "status", "outcome"), [("", 0, "skipped"), ("required", 1, "error")])
def test_what_is_missing_is_a_reason_to_skip_or_to_fail(
    tmp_path: Path, engines: str, status: int, outcome: str
) -> None:
    environment = {**os.environ, "ENGINES": engines, "ENGINES_CACHE": str(tmp_path), "PATH": "", "JAVA_HOME": ""}
    command = [sys.executable, "-m", "pytest", "-q", "tests/engines/test_nodes.py", "-k", "with_the_version"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == status, done.stdout
    assert re.search(rf"\b4 {outcome}", done.stdout), done.stdout
    assert re.search(r"opensearch-3 needs (mvn|a JDK)", done.stdout), done.stdout


def test_the_containers_are_the_same_engines() -> None:
    compose = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text())
    services = compose["services"]
    assert set(services) == set(PLAIN)
    for name, service in services.items():
        image, _, tag = service["image"].rpartition(":")
        assert (image.rpartition("/")[2], tag) == (ENGINES[name].kind, ENGINES[name].version)
        assert service["healthcheck"]["test"][0] == "CMD"
        assert service["mem_limit"]
    ports = [port for service in services.values() for port in service["ports"]]
    assert len(set(ports)) == len(PLAIN)
    assert all(re.fullmatch(r"127\.0\.0\.1:\d+:9200", port) for port in ports), "only on this machine's own address"


def test_the_documentation_names_each_engine_and_version() -> None:
    text = (ROOT / "docs" / "engines.md").read_text()
    for spec in ENGINES.values():
        assert re.search(rf"`{spec.name}` \| {re.escape(spec.version)} \|", text), f"{spec.name} {spec.version}"
