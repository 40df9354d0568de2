"""Who is asking, and that nobody else learns how."""

import asyncio
import io
import json
import logging
from base64 import b64decode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import structlog
from prometheus_client import generate_latest
from pydantic import ValidationError
from typer.testing import CliRunner

from connectors import Connector, ConnectorError
from connectors.credentials import api_key, basic, bearer, identity_of
from connectors.hosts import cloud_url, host_of
from connectors.options import HttpOptions
from sidecar.cli import app as command
from sidecar.configuration import ConfigurationError, load
from sidecar.connector_settings import MemorySettings
from sidecar.error_details import details_of
from sidecar.greeting import greet
from sidecar.metrics import Metrics
from sidecar.settings import Settings
from sidecar.wiring import connectors_of
from tests.connector_fixtures import always, error_answer, serving

SECRET = "hunter2secretword"
KINDS: dict[str, dict[str, Any]] = {
    "basic": {"type": "opensearch", "basic_auth": {"username": "ann", "password": SECRET}},
    "basic of elasticsearch": {"type": "elasticsearch", "basic_auth": {"username": "ann", "password": SECRET}},
    "api key": {"type": "elasticsearch", "api_key": SECRET},
    "bearer": {"type": "opensearch", "bearer_token": SECRET},
    "bearer of elasticsearch": {"type": "elasticsearch", "bearer_token": SECRET},
    "from the environment": {"type": "opensearch", "bearer_token": {"env": "SIDECAR_TEST_SECRET"}},
}


def test_headers() -> None:
    assert b64decode(basic("ann", "pä:ss").removeprefix("Basic ")).decode() == "ann:pä:ss"
    assert (api_key("abc="), bearer("a.b.c")) == ("ApiKey abc=", "Bearer a.b.c")


@pytest.mark.parametrize("make", [api_key, bearer])
@pytest.mark.parametrize("value", ["", "se cret", "secret\n", "sécret", "secret\x00"])
def test_a_token_is_one_word_of_ascii(make: Callable[[str], str], value: str) -> None:
    with pytest.raises(ValueError, match="is empty or holds") as caught:
        make(value)
    assert "cret" not in str(caught.value)


def test_identities_differ_and_say_nothing() -> None:
    assert identity_of("Bearer a") != identity_of("Bearer b")
    assert "Bearer" not in identity_of("Bearer a")


@pytest.mark.parametrize(
    ("cloud_id", "url"),
    [
        ("shop:ZXUuY2xvdWQuZXhhbXBsZSRhYmMkZGVm", "https://abc.eu.cloud.example:443"),
        ("a:b:ZXUuY2xvdWQuZXhhbXBsZSRhYmMkZGVm", "https://abc.eu.cloud.example:443"),
        ("ZXUuY2xvdWQuZXhhbXBsZSRhYmMkZGVm", "https://abc.eu.cloud.example:443"),
        ("shop:ZXUuY2xvdWQuZXhhbXBsZTo5MjQzJGFiYyRkZWY=", "https://abc.eu.cloud.example:9243"),
        ("shop:ZXUuY2xvdWQuZXhhbXBsZTo5MjQzJGFiYzo5MjAwJGRlZg==", "https://abc.eu.cloud.example:9200"),
        ("shop:ZXUuY2xvdWQuZXhhbXBsZSRhYmM=", "https://abc.eu.cloud.example:443"),
    ],
)
def test_a_cloud_id_is_a_url(cloud_id: str, url: str) -> None:
    assert cloud_url(cloud_id) == url
    assert host_of(url).url == url


@pytest.mark.parametrize(
    "cloud_id", ["", "shop:", "shop:???", "shop:YWJj", "shop:JGFiYw==", "shop:ZXZpbC5leGFtcGxlL3gkYWJjJGRlZg==", "ü:ü"]
)
def test_what_is_no_cloud_id_is_refused(cloud_id: str) -> None:
    with pytest.raises(ValueError, match="`cloud_id` cannot be read"):
        cloud_url(cloud_id)


def tree(**connector: Any) -> dict[str, Any]:
    section = {"hosts": ["http://localhost:9"], **connector}
    return {"connectors": {"main": section}, "policies": {"p": {"text": {"fields": ["title"]}}}}


@pytest.fixture
def debug_log() -> Any:
    """Everything that anything logs, clients included."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    root = logging.getLogger()
    level, root.level = root.level, logging.DEBUG
    root.addHandler(handler)
    yield stream
    root.removeHandler(handler)
    root.level = level


@pytest.mark.parametrize("section", KINDS.values(), ids=KINDS)
async def test_no_secret_is_ever_shown(
    section: dict[str, Any], monkeypatch: pytest.MonkeyPatch, debug_log: io.StringIO
) -> None:
    monkeypatch.setenv("SIDECAR_TEST_SECRET", SECRET)
    refused = always(lambda: error_answer(401, "security_exception", "missing credentials"))
    async with serving(refused) as server:
        settings = Settings.model_validate(tree(**{**section, "hosts": [server.url]}))
        metrics = Metrics()
        [connector] = connectors_of(settings, metrics).values()
        shown: list[object] = [settings, settings.model_dump(), settings.model_dump_json(), vars(settings)]
        shown += [settings.connectors["main"], connector]
        shown += [vars(connector), vars(vars(connector)["_connector"])]
        with structlog.testing.capture_logs() as logs:
            await greet(connector)
        shown.append(logs)
        for call in (_search(connector), _search(connector.acting_as(f"Bearer {SECRET}-2"))):
            with pytest.raises(ConnectorError) as caught:
                await call
            shown += [caught.value, vars(caught.value), details_of(caught.value), caught.value.__cause__]
        await connector.close()
        sent = ["authorization" in (name.lower() for name in asked.headers) for asked in server.asked]
        assert (len(sent), all(sent)) == (3, True)
    text = "\n".join(f"{one!r} {one!s}" for one in shown) + generate_latest(metrics.registry).decode()
    text += debug_log.getvalue()
    assert "security_exception" in text  # it does say what happened
    assert SECRET not in text
    assert basic("ann", SECRET).removeprefix("Basic ") not in text


async def _search(connector: Connector) -> None:
    await connector.search("books", {}, timeout_s=1)


@pytest.mark.parametrize(
    "wrong",
    [
        {"type": "elasticsearch", "api_key": SECRET, "bearer_token": SECRET},
        {"type": "elasticsearch", "basic_auth": {"username": "ann", "password": SECRET}, "api_key": SECRET},
        {"type": "opensearch", "bearer_token": f"{SECRET} {SECRET}"},
        {"type": "opensearch", "api_key": SECRET},
        {"type": "opensearch", "basic_auth": {"username": "a:b", "password": SECRET}},
        {"type": "opensearch", "hosts": [f"https://ann:{SECRET}@localhost"]},
        {"type": "opensearch", "bearer_token": [SECRET]},
    ],
)
def test_no_mistake_shows_a_secret(wrong: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "conf.yaml"
    file.write_text(json.dumps(tree(**wrong)))
    with pytest.raises(ConfigurationError) as caught:
        load(file)
    assert SECRET not in str(caught.value)
    result = CliRunner().invoke(command, ["check", str(file)])
    assert (result.exit_code, SECRET in result.output) == (2, False)


def test_two_ways_are_named(tmp_path: Path) -> None:
    aws = {"region": "eu-central-1"}
    with pytest.raises(ValidationError, match="give `bearer_token` or `aws`, not both"):
        Settings.model_validate(tree(type="opensearch", bearer_token=SECRET, aws=aws))
    with pytest.raises(ValidationError, match="cannot be true with `aws`"):
        Settings.model_validate(tree(type="opensearch", forward_authorization=True, aws=aws))


def test_options_show_no_secret() -> None:
    for options in (HttpOptions(["http://a"], api_key=SECRET), HttpOptions(["http://a"], bearer_token=SECRET)):
        assert SECRET not in repr(options)
    locked = HttpOptions(["https://localhost"], client_cert=__file__, client_key_password=SECRET)
    assert SECRET not in f"{locked!r}{locked.tls!r}"


class TestCheckEngines:
    """`rerank-sidecar check FILE --engines`; the engines' own answers are in tests/engines."""

    def test_an_engine_that_is_away_is_status_1(self, tmp_path: Path) -> None:
        file = tmp_path / "conf.yaml"
        file.write_text(json.dumps(tree(type="opensearch")))
        assert CliRunner().invoke(command, ["check", str(file)]).exit_code == 0
        result = CliRunner().invoke(command, ["check", str(file), "--engines"])
        assert result.exit_code == 1
        assert "connectors.main: asking for the version: cannot connect to localhost:9 " in result.stderr

    def test_one_that_answers_is_status_0(self, tmp_path: Path) -> None:
        (tmp_path / "docs.jsonl").write_text('{"_id": "1", "title": "apple"}\n')
        section = {"type": "memory", "indices": {"docs": "docs.jsonl"}}
        file = tmp_path / "conf.yaml"
        file.write_text(json.dumps({**tree(), "connectors": {"main": section}}))
        result = CliRunner().invoke(command, ["check", str(file), "--engines"])
        assert result.exit_code == 0
        assert "connectors.main: memory " in result.stdout

    @pytest.mark.parametrize(("asks_users", "status"), [(False, 1), (True, 0)])
    async def test_credentials_may_be_missing_only_where_users_bring_theirs(
        self, tmp_path: Path, asks_users: bool, status: int
    ) -> None:
        file = tmp_path / "conf.yaml"
        async with serving(always(lambda: error_answer(401, "security_exception"))) as server:
            options = {"hosts": [server.url], "forward_authorization": asks_users}
            file.write_text(json.dumps(tree(type="opensearch", **options)))
            result = await asyncio.to_thread(CliRunner().invoke, command, ["check", str(file), "--engines"])
        assert result.exit_code == status, result.output
        assert "connectors.main: asking for the version" in result.stderr

    def test_what_cannot_be_built_is_status_2(self, tmp_path: Path) -> None:
        (tmp_path / "ca.pem").write_text("no certificate")
        file = tmp_path / "conf.yaml"
        file.write_text(json.dumps(tree(type="opensearch", hosts=["https://localhost:9"], ca_certs="ca.pem")))
        result = CliRunner().invoke(command, ["check", str(file), "--engines"])
        assert result.exit_code == 2
        assert "connectors.main: `ca_certs` names" in result.stderr


@pytest.mark.parametrize(
    ("section", "url"),
    [
        ({"hosts": ["https://es.example.com"]}, "https://es.example.com:443"),
        ({"hosts": ["http://es.example.com/a/"]}, "http://es.example.com:80/a"),
        ({"hosts": ["http://[::1]:9200"]}, "http://[::1]:9200"),
        ({"hosts": [], "cloud_id": "shop:ZXUuY2xvdWQuZXhhbXBsZSRhYmMkZGVm"}, "https://abc.eu.cloud.example:443"),
    ],
)
def test_a_port_left_out_is_that_of_the_scheme(section: dict[str, Any], url: str) -> None:
    settings = Settings.model_validate(tree(type="elasticsearch", **section))
    connector = settings.connectors["main"]
    assert not isinstance(connector, MemorySettings)
    assert [node.url for node in connector.options().nodes] == [url]


def test_settings_reach_the_connector() -> None:
    section = {"connect_timeout_ms": 250, "compress": True, "connections": 3, "max_attempts": 4, "max_answer_mib": 5}
    connector = Settings.model_validate(tree(type="opensearch", **section)).connectors["main"]
    assert not isinstance(connector, MemorySettings)
    options = connector.options()
    assert (options.connect_timeout_s, options.compress, options.connections) == (0.25, True, 3)
    assert (options.max_attempts, options.max_answer_mib) == (4, 5)
