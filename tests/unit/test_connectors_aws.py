"""SigV4: what arrives at the server is signed as AWS signs it, worked out again from the request alone."""

import asyncio
import gzip
import hashlib
import hmac
import sys
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import botocore.session
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials, RefreshableCredentials
from botocore.exceptions import ClientError, EndpointConnectionError, PartialCredentialsError, ReadTimeoutError

from connectors import Connector, ConnectorError, DocumentRef, EngineTimeout, EngineUnavailable, NotAuthenticated
from connectors.aws import MISSING, Signer
from connectors.elasticsearch import ElasticsearchConnector
from connectors.opensearch import OpenSearchConnector
from connectors.options import Aws, HttpOptions
from tests.connector_fixtures import (
    EMPTY_ANSWER,
    Asked,
    Server,
    always,
    closing,
    error_answer,
    json_answer,
    one_by_one,
    serving,
)

KEY, SECRET_KEY, TOKEN = "AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG", "a-session-token"
REGION = "eu-central-1"


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """The standard chain finds these in the environment, and nothing else."""
    for name, value in (("ACCESS_KEY_ID", KEY), ("SECRET_ACCESS_KEY", SECRET_KEY), ("SESSION_TOKEN", TOKEN)):
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@asynccontextmanager
async def signing(server: Server, service: str = "es", path: str = "", **options: Any) -> AsyncIterator[Connector]:
    aws = Aws(REGION, service)
    async with closing(OpenSearchConnector("test", HttpOptions([server.url + path], aws=aws, **options))) as connector:
        yield connector


def lower(asked: Asked) -> dict[str, str]:
    return {name.lower(): value for name, value in asked.headers.items()}


def signed_names(asked: Asked) -> list[str]:
    return lower(asked)["authorization"].partition("SignedHeaders=")[2].partition(",")[0].split(";")


def signature_by_hand(asked: Asked, secret: str, service: str) -> str:
    """The signature of the specification, from nothing but what arrived and the secret."""
    headers = lower(asked)
    path, _, query = asked.target.partition("?")
    canonical = "\n".join(
        [
            asked.method,
            quote(path, safe="/~"),  # each segment is encoded twice for every service but S3
            "&".join(sorted(query.split("&"))) if query else "",
            *(f"{name}:{' '.join(headers[name].split())}" for name in signed_names(asked)),
            "",
            ";".join(signed_names(asked)),
            hashlib.sha256(asked.body).hexdigest(),
        ]
    )
    moment = headers["x-amz-date"]
    scope = [moment[:8], REGION, service, "aws4_request"]
    text = "\n".join(["AWS4-HMAC-SHA256", moment, "/".join(scope), hashlib.sha256(canonical.encode()).hexdigest()])
    key = b"AWS4" + secret.encode()
    for part in (*scope, text):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return key.hex()


def signature_by_botocore(asked: Asked, service: str) -> str:
    headers = lower(asked)
    request = AWSRequest(
        method=asked.method,
        url=f"http://{headers['host']}{asked.target}",
        data=asked.body,
        headers={name: headers[name] for name in signed_names(asked)},
    )
    request.context["timestamp"] = headers["x-amz-date"]
    auth = SigV4Auth(Credentials(KEY, SECRET_KEY, TOKEN), service, REGION)
    return str(auth.signature(auth.string_to_sign(request, auth.canonical_request(request)), request))


def check(asked: Asked, service: str = "es") -> None:
    headers = lower(asked)
    assert headers["authorization"].startswith(
        f"AWS4-HMAC-SHA256 Credential={KEY}/{headers['x-amz-date'][:8]}/{REGION}"
    )
    assert {"host", "x-amz-date", "x-amz-security-token", "x-amz-content-sha256"} <= set(signed_names(asked))
    assert headers["x-amz-security-token"] == TOKEN
    assert headers["x-amz-content-sha256"] == hashlib.sha256(asked.body).hexdigest()
    moment = datetime.strptime(headers["x-amz-date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    assert abs(datetime.now(UTC) - moment) < timedelta(minutes=1)
    signature = headers["authorization"].partition("Signature=")[2]
    assert signature == signature_by_hand(asked, SECRET_KEY, service)
    assert signature == signature_by_botocore(asked, service)
    assert signature != signature_by_hand(asked, SECRET_KEY + "x", service)


@pytest.mark.parametrize("service", ["es", "aoss"])
@pytest.mark.parametrize("index", ["books", "bücher-ü", "a,b-*", "<logs-{now/d}>", "a b+c%20", "remote:books", "本"])
async def test_what_is_sent_is_what_was_signed(service: str, index: str) -> None:
    params = {"preference": "_local", "q": "a b&c=d+e/ü~*", "ignore_unavailable": "true", "filter_path": ""}
    async with serving(always(lambda: json_answer(EMPTY_ANSWER))) as server, signing(server, service) as connector:
        await connector.search(index, {"query": {"match": {"title": "Käse"}}}, timeout_s=5, params=params)
        await connector.search(index, {}, timeout_s=5)
    assert len(server.asked) == 2
    for asked in server.asked:
        check(asked, service)


async def test_fetches_paths_and_calls_without_a_body_are_signed_too() -> None:
    info = {"version": {"distribution": "opensearch", "number": "3.8.0"}}
    answers = one_by_one(lambda: json_answer({"docs": []}), lambda: json_answer(info))
    async with serving(answers) as server, signing(server, path="/behind/a%20proxy") as connector:
        await connector.fetch([DocumentRef("books", "1", "é")], ["title"], timeout_s=5)
        assert (await connector.info(timeout_s=5)).version == "3.8.0"
    assert [asked.target for asked in server.asked] == ["/behind/a%20proxy/_mget", "/behind/a%20proxy/"]
    for asked in server.asked:
        check(asked)


async def test_a_compressed_body_is_signed_as_it_is_sent() -> None:
    answers = always(lambda: json_answer(EMPTY_ANSWER))
    async with serving(answers) as server, signing(server, compress=True) as connector:
        await connector.search("books", {"query": {"match_all": {}}}, timeout_s=5)
    [asked] = server.asked
    assert lower(asked)["accept-encoding"] == "gzip"
    assert lower(asked)["content-encoding"] == "gzip"
    assert gzip.decompress(asked.body) == b'{"query":{"match_all":{}}}'
    check(asked)


async def test_credentials_are_refreshed_before_they_run_out() -> None:
    made = 0

    def refresh() -> dict[str, str]:
        nonlocal made
        made += 1
        expiry = (datetime.now(UTC) + timedelta(seconds=5 if made == 1 else 3600)).isoformat()
        return {"access_key": f"key-{made}", "secret_key": "s", "token": "t", "expiry_time": expiry}

    class Chain:
        def get_credentials(self) -> RefreshableCredentials:
            return RefreshableCredentials.create_from_metadata(refresh(), refresh, "test")

    signer = Signer(Aws(REGION), Chain())
    signed = [await signer.sign("GET", "http://localhost/", None, {}) for _ in range(3)]
    assert ["Credential=key-2/" in headers["Authorization"] for headers in signed] == [True, True, True]
    assert made == 2


class Failing:
    """A session whose credentials could not be obtained."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def get_credentials(self) -> None:
        raise self.error


def denied(code: str, status: int) -> ClientError:
    answer: Any = {"Error": {"Code": code, "Message": "arn:aws:iam::1"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(answer, "AssumeRole")


@pytest.mark.parametrize(
    ("error", "expected", "said"),
    [
        (denied("AccessDenied", 403), NotAuthenticated, "ClientError AccessDenied"),
        (denied("ExpiredToken", 400), NotAuthenticated, "ClientError ExpiredToken"),
        (PartialCredentialsError(provider="env", cred_var="x"), NotAuthenticated, "PartialCredentialsError"),
        (denied("Throttling", 400), EngineUnavailable, "ClientError Throttling"),
        (denied("InternalFailure", 500), EngineUnavailable, "ClientError InternalFailure"),
        (EndpointConnectionError(endpoint_url="https://sts"), EngineUnavailable, "EndpointConnectionError"),
        (ReadTimeoutError(endpoint_url="https://sts"), EngineUnavailable, "ReadTimeoutError"),
    ],
)
async def test_credentials_that_cannot_be_had_are_an_error_of_ours(
    monkeypatch: pytest.MonkeyPatch, error: Exception, expected: type[ConnectorError], said: str
) -> None:
    monkeypatch.setattr(botocore.session, "Session", lambda: Failing(error))
    async with serving(always(lambda: json_answer(EMPTY_ANSWER))) as server, signing(server) as connector:
        with pytest.raises(ConnectorError, match=f"could not be obtained \\({said}\\)") as caught:
            await connector.search("books", {}, timeout_s=5)
    assert type(caught.value) is expected
    assert caught.value.error_type == "no_credentials"
    assert not getattr(caught.value, "transient", False)
    assert "arn:" not in str(caught.value)
    assert server.asked == []


async def test_a_slow_lookup_costs_a_call_its_time_and_never_more_than_one_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done, lookups = threading.Event(), 0

    class Slow:
        def get_credentials(self) -> Credentials:
            nonlocal lookups
            lookups += 1
            done.wait(30)
            return Credentials(KEY, SECRET_KEY, TOKEN)

    monkeypatch.setattr(botocore.session, "Session", Slow)
    async with serving(always(lambda: json_answer(EMPTY_ANSWER))) as server, signing(server) as connector:
        started = time.monotonic()
        asked = (connector.search("books", {}, timeout_s=0.2) for _ in range(20))
        ended = await asyncio.gather(*asked, return_exceptions=True)
        assert {type(error) for error in ended} == {EngineTimeout}
        assert time.monotonic() - started < 2
        done.set()
        await connector.search("books", {}, timeout_s=5)
    assert lookups == 1
    check(server.asked[0])


async def test_each_try_is_signed_anew() -> None:
    answers = one_by_one(lambda: error_answer(503, "busy"), lambda: json_answer(EMPTY_ANSWER))
    async with serving(answers) as server, signing(server) as connector:
        await connector.search("books", {}, timeout_s=5)
    assert len(server.asked) == 2
    for asked in server.asked:
        check(asked)


async def test_without_credentials_the_call_is_refused_and_nothing_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN"):
        monkeypatch.delenv(f"AWS_{name}")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    async with serving(always(lambda: json_answer(EMPTY_ANSWER))) as server, signing(server) as connector:
        with pytest.raises(NotAuthenticated, match="no AWS credentials were found"):
            await connector.search("books", {}, timeout_s=5)
    assert server.asked == []


async def test_serverless_does_not_say_its_version_and_is_taken_for_opensearch() -> None:
    missing = always(lambda: error_answer(404, "resource_not_found"))
    async with serving(missing) as server, signing(server, "aoss") as connector:
        info = await connector.info(timeout_s=5)
    assert (info.engine, info.version) == ("opensearch", "serverless")


def test_a_missing_library_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "botocore.session", None)
    with pytest.raises(ValueError, match=r"install `rerank-sidecar\[aws\]`") as caught:
        OpenSearchConnector("test", HttpOptions(["http://localhost"], aws=Aws(REGION)))
    assert str(caught.value) == MISSING


def test_a_signing_connector_acts_for_nobody() -> None:
    connector = OpenSearchConnector("test", HttpOptions(["http://localhost"], aws=Aws(REGION)))
    with pytest.raises(ValueError, match="signs its requests"):
        connector.acting_as("Bearer x")


def test_elasticsearch_reads_no_such_signature() -> None:
    with pytest.raises(ValueError, match="for OpenSearch only"):
        ElasticsearchConnector("test", HttpOptions(["http://localhost"], aws=Aws(REGION)))


@pytest.mark.parametrize(("region", "service"), [("", "es"), (REGION, "s3")])
def test_a_region_and_a_known_service_are_needed(region: str, service: str) -> None:
    with pytest.raises(ValueError, match="`aws`"):
        Aws(region, service)
