"""TLS, credentials, the end user's own rights, and what the engine is, on real nodes with security."""

import asyncio
import hashlib
import json
import socket
import ssl
import subprocess
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from typer.testing import CliRunner

from connectors import (
    ConnectorError,
    DocumentRef,
    EngineRefused,
    EngineUnavailable,
    IndexNotFound,
    InvalidQuery,
    NotAuthenticated,
    NotPermitted,
)
from sidecar.app import App
from sidecar.cli import app as command
from sidecar.client import RerankClient, error_details
from sidecar.scoring.fake import WordOverlapScorer
from sidecar.v1 import rerank_pb2 as pb
from tests.conftest import loader, settings
from tests.connector_fixtures import connect
from tests.engines.conftest import ConnectorOf, FreshNode
from tests.engines.engine import Engine, Indices

OTHER = {"elasticsearch": "opensearch", "opensearch": "elasticsearch"}
PRODUCT = {"elasticsearch": "Elasticsearch", "opensearch": "OpenSearch"}
USER_PASSWORD = "Quince-Orchard-42!"
ALL = {"query": {"match_all": {}}, "size": 50}


def basic(user: str, password: str = USER_PASSWORD) -> str:
    return f"Basic {b64encode(f'{user}:{password}'.encode()).decode()}"


def fingerprint(engine: Engine) -> str:
    certificate = ssl.PEM_cert_to_DER_cert(Path(str(engine.ca_certs)).read_text())
    return hashlib.sha256(certificate).hexdigest()


def add_user(engine: Engine, user: str, indices: str, *, owner: str = "") -> None:
    """A user who may read these indices; on OpenSearch only the documents of that owner."""
    if engine.kind == "elasticsearch":
        role: dict[str, Any] = {"indices": [{"names": [indices], "privileges": ["read"]}]}
        engine.call("PUT", f"/_security/role/{user}", role)
        engine.call("PUT", f"/_security/user/{user}", {"password": USER_PASSWORD, "roles": [user]})
        return
    level: dict[str, Any] = {"dls": json.dumps({"term": {"owner": owner}})} if owner else {}
    readable = {"index_patterns": [indices], "allowed_actions": ["read"], **level}
    api = "/_plugins/_security/api"
    role = {"cluster_permissions": ["cluster_composite_ops_ro"], "index_permissions": [readable]}
    engine.call("PUT", f"{api}/roles/{user}", role)
    person = {"password": USER_PASSWORD, "opendistro_security_roles": [user]}
    engine.call("PUT", f"{api}/internalusers/{user}", person)


@pytest.fixture
def shelf(secured_engine: Engine, index_name: Indices) -> tuple[str, dict[str, dict[str, Any]]]:
    """What ann and bob read by one expression, each only what is theirs, and every document by id.

    On OpenSearch both are in one index and document-level security tells them apart; a basic licence of Elasticsearch
    has none, so there each has an index of one's own.
    """
    documents = {
        f"{owner}-{number}": {"owner": owner, "title": f"winter apple {number} of {owner}"}
        for owner in ("ann", "bob")
        for number in range(8)
    }
    mapping = {"mappings": {"properties": {"owner": {"type": "keyword"}, "title": {"type": "text"}}}}
    if secured_engine.kind == "opensearch":
        index = index_name("shelf", mapping, documents)
        for owner in ("ann", "bob"):
            add_user(secured_engine, owner, index, owner=owner)
        return index, documents
    pattern = ""
    for owner in ("ann", "bob"):
        own = {key: document for key, document in documents.items() if document["owner"] == owner}
        index = index_name(f"shelf-{owner}", mapping, own)
        pattern = index.rsplit("-", 3)[0] + "-*"
        add_user(secured_engine, owner, index)
    return pattern, documents


def configured(engine: Engine, **connector: Any) -> dict[str, Any]:
    """The connector's section of a configuration file; None takes a key away."""
    section = {
        "type": engine.kind,
        "hosts": [engine.url],
        "search_timeout_ms": 20_000,
        "ca_certs": engine.ca_certs,
        "basic_auth": {"username": engine.user, "password": engine.password},
        **connector,
    }
    return {key: value for key, value in section.items() if value is not None}


@asynccontextmanager
async def whole_sidecar(engine: Engine, **connector: Any) -> AsyncIterator[RerankClient]:
    """A sidecar made from settings alone, with the project's own connector to the engine."""
    patient = {"budget_ms": 20_000, "limits": {"budget_ms": 20_000}}  # passwords are hashed slowly, on purpose
    tree = settings({"text": {"fields": ["title"]}, **patient}, connectors={"main": configured(engine, **connector)})
    app = App(tree, load=loader(WordOverlapScorer()))
    await app.start()
    await app.ready()
    try:
        async with RerankClient(f"127.0.0.1:{app.port}") as client:
            yield client
    finally:
        await app.stop()


async def refused(client: RerankClient, index: str, **more: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client.search(index, "winter apple", more.pop("body", ALL), **more)
    return caught.value


@pytest.fixture
def other_ca(tmp_path: Path) -> Path:
    """The certificate of an authority that has signed nothing."""
    cert = tmp_path / "other.pem"
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=other"]
    line = [*made, "-keyout", str(tmp_path / "key.pem"), "-out", str(cert)]
    subprocess.run(line, check=True, capture_output=True)
    return cert


class TestTrust:
    async def test_a_ca_file(self, secured_engine: Engine) -> None:
        own = (str(secured_engine.user), str(secured_engine.password))
        for host in ("127.0.0.1", "localhost"):
            url = secured_engine.url.replace("127.0.0.1", host)
            trust = str(secured_engine.ca_certs)
            async with connect(secured_engine.kind, url, basic_auth=own, ca_certs=trust) as connector:
                info = await connector.info(timeout_s=10)
                assert (info.engine, info.version) == (secured_engine.kind, secured_engine.version)

    async def test_a_fingerprint(self, secured_engine: Engine, connector_of: ConnectorOf) -> None:
        pins = ["0" * 64, fingerprint(secured_engine)]
        async with connector_of(secured_engine, ca_certs=None, certificate_fingerprints=pins) as connector:
            assert (await connector.info(timeout_s=10)).version == secured_engine.version

    @pytest.mark.parametrize(
        ("trust", "sentence"),
        [
            ({}, "TLS failed: self-signed certificate"),
            ({"certificate_fingerprints": ["0" * 64]}, "TLS failed: the node's certificate has the fingerprint "),
        ],
    )
    async def test_a_certificate_that_is_not_trusted(
        self, secured_engine: Engine, connector_of: ConnectorOf, trust: dict[str, Any], sentence: str
    ) -> None:
        async with connector_of(secured_engine, ca_certs=None, **trust) as connector:
            with pytest.raises(EngineUnavailable) as caught:
                await connector.info(timeout_s=10)
        assert sentence in str(caught.value)
        assert not caught.value.transient

    async def test_another_ca(self, secured_engine: Engine, connector_of: ConnectorOf, other_ca: Path) -> None:
        async with connector_of(secured_engine, ca_certs=other_ca) as connector:
            with pytest.raises(EngineUnavailable, match=r"TLS failed: .*certificate"):
                await connector.info(timeout_s=10)

    async def test_a_client_certificate_says_who_is_asking(self, fresh_node: FreshNode, tmp_path: Path) -> None:
        """OpenSearch takes the subject of this one for an administrator; without it, and with no user, it says 401."""
        node = fresh_node("opensearch-3-secured", settings=["plugins.security.authcz.admin_dn=[CN=sidecar]"])
        assert node.node is not None
        cert = _signed_by(node.node.home / "config", tmp_path)
        trust: dict[str, Any] = {"ca_certs": node.ca_certs}
        shown: dict[str, Any] = {"client_cert": cert, "client_key": tmp_path / "key.pem"}
        async with connect("opensearch", node.url, **trust, **shown) as connector:
            assert (await connector.search(".opendistro_security", {}, timeout_s=10)).hits
        async with connect("opensearch", node.url, **trust) as connector:
            with pytest.raises(NotAuthenticated):
                await connector.search(".opendistro_security", {}, timeout_s=10)


def _signed_by(authority: Path, folder: Path) -> Path:
    """A certificate for CN=sidecar that a node trusts, since the node's own signed it."""
    request, cert = folder / "request.pem", folder / "cert.pem"
    asked = ["openssl", "req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=sidecar", "-keyout"]
    signed = ["openssl", "x509", "-req", "-days", "2", "-in", str(request), "-CAcreateserial", "-CA"]
    for line in (
        [*asked, str(folder / "key.pem"), "-out", str(request)],
        [*signed, str(authority / "cert.pem"), "-CAkey", str(authority / "key.pem"), "-out", str(cert)],
    ):
        subprocess.run(line, check=True, capture_output=True)
    return cert


class TestWhoAsks:
    async def test_basic_also_with_letters_beyond_ascii(
        self, secured_engine: Engine, connector_of: ConnectorOf
    ) -> None:
        async with connector_of(secured_engine) as connector:
            assert (await connector.info(timeout_s=10)).engine == secured_engine.kind
        for wrong in (("admin", "wrong"), ("nobody-ü", "pässword")):
            async with connector_of(secured_engine, basic_auth=wrong) as connector:
                with pytest.raises(NotAuthenticated) as caught:
                    await connector.info(timeout_s=10)
            assert wrong[1] not in str(caught.value)

    async def test_an_api_key(self, secured_engine: Engine) -> None:
        if secured_engine.kind == "opensearch":
            pytest.skip("API keys are Elasticsearch's")
        body = {"name": "test", "role_descriptors": {"r": {"cluster": ["monitor"]}}}
        made = secured_engine.call("POST", "/_security/api_key", body)
        trust: dict[str, Any] = {"ca_certs": secured_engine.ca_certs}
        async with connect("elasticsearch", secured_engine.url, api_key=made["encoded"], **trust) as connector:
            assert (await connector.info(timeout_s=10)).version == secured_engine.version
            with pytest.raises(NotPermitted):
                await connector.search("some-index", {}, timeout_s=10)
        async with connect("elasticsearch", secured_engine.url, api_key="d3Jvbmc6d3Jvbmc=", **trust) as connector:
            with pytest.raises(NotAuthenticated):
                await connector.info(timeout_s=10)

    async def test_a_bearer_token(self, secured_engine: Engine) -> None:
        """A service account's token, which Elasticsearch knows under a basic licence."""
        trust: dict[str, Any] = {"ca_certs": secured_engine.ca_certs}
        if secured_engine.kind == "elasticsearch":
            path = f"/_security/service/elastic/fleet-server/credential/token/t{secured_engine.major}"
            token = secured_engine.call("POST", path)["token"]["value"]
            async with connect("elasticsearch", secured_engine.url, bearer_token=token, **trust) as connector:
                assert (await connector.info(timeout_s=10)).version == secured_engine.version
        async with connect(secured_engine.kind, secured_engine.url, bearer_token="not.a.token", **trust) as connector:
            with pytest.raises(NotAuthenticated):
                await connector.info(timeout_s=10)

    @pytest.mark.parametrize(
        "index", ["_bad", "_all", "eu:books", "*", "a,b", "Books", "a b", "<books>", "-a", "no-such"]
    )
    async def test_a_reference_that_nobody_can_fetch_costs_no_other(
        self, secured_engine: Engine, index_name: Indices, connector_of: ConnectorOf, index: str
    ) -> None:
        good = DocumentRef(index_name("books", {}, {"1": {"title": "pear"}}), "1")
        async with connector_of(secured_engine) as connector:
            found = await connector.fetch([DocumentRef(index, "1"), good], ["title"], timeout_s=10)
        assert found == {good: {"title": "pear"}}

    async def test_through_the_whole_sidecar(self, secured_engine: Engine, index_name: Indices) -> None:
        books = {"1": {"title": "pear"}, "2": {"title": "apple"}}
        seen, hidden = (index_name(label, {}, books) for label in ("seen", "hidden"))
        add_user(secured_engine, "reader", seen)
        reader = {"username": "reader", "password": USER_PASSWORD}
        async with whole_sidecar(secured_engine, basic_auth=reader, compress=True) as client:
            page = await client.search(seen, "apple", ALL)
            assert (page.outcome, page.reason, [hit["_id"] for hit in page.hits]) == (
                "RERANKED",
                "UNSPECIFIED",
                ["2", "1"],
            )
            error = await refused(client, hidden)
            assert error.code() is grpc.StatusCode.PERMISSION_DENIED
            why = error_details(error)
            assert why is not None
            assert (why.reason, why.domain) == ("security_exception", secured_engine.kind)
            assert (why.metadata["connector"], why.metadata["http_status"]) == ("main", "403")
        wrong = {"username": "reader", "password": "not-the-password"}
        async with whole_sidecar(secured_engine, basic_auth=wrong) as client:
            error = await refused(client, seen)
            assert error.code() is grpc.StatusCode.UNAUTHENTICATED
            assert "not-the-password" not in f"{error}{error_details(error)}"


Shelf = tuple[str, dict[str, dict[str, Any]]]


class TestForwarding:
    async def test_hits_and_texts_are_those_of_the_user(
        self, secured_engine: Engine, connector_of: ConnectorOf, shelf: Shelf
    ) -> None:
        index, documents = shelf
        async with connector_of(secured_engine) as connector:
            everything = await connector.search(index, ALL, timeout_s=10)
            assert len(everything.hits) == 16
            refs = [hit.ref for hit in everything.hits]
            for owner in ("ann", "bob"):
                view = connector.acting_as(basic(owner))
                own = {key for key in documents if key.startswith(owner)}
                assert {hit.ref.id for hit in (await view.search(index, ALL, timeout_s=10)).hits} == own
                found = await view.fetch(refs, ["title"], timeout_s=10)
                assert {ref.id for ref in found} == own
                assert all(found[ref]["title"] == documents[ref.id]["title"] for ref in found)
            assert len((await connector.search(index, ALL, timeout_s=10)).hits) == 16

    async def test_two_users_at_once_never_mix(
        self, secured_engine: Engine, connector_of: ConnectorOf, shelf: Shelf
    ) -> None:
        index, documents = shelf
        async with connector_of(secured_engine, connections=4) as connector:
            refs = [hit.ref for hit in (await connector.search(index, ALL, timeout_s=10)).hits]

            async def ask(owner: str) -> set[str]:
                view = connector.acting_as(basic(owner))
                hits = {hit.ref.id for hit in (await view.search(index, ALL, timeout_s=30)).hits}
                texts = {ref.id for ref in await view.fetch(refs, ["title"], timeout_s=30)}
                assert hits == texts
                return hits

            owners = ["ann", "bob"] * 30
            for owner, seen in zip(owners, await asyncio.gather(*map(ask, owners)), strict=True):
                assert seen == {key for key in documents if key.startswith(owner)}

    async def test_the_whole_sidecar_shows_each_user_what_is_theirs(self, secured_engine: Engine, shelf: Shelf) -> None:
        index, documents = shelf
        body = {**ALL, "_source": False}  # so that texts are fetched
        async with whole_sidecar(secured_engine, forward_authorization=True) as client:

            async def ask(owner: str) -> None:
                page = await client.search(index, "winter apple 3", body, authorization=basic(owner))
                assert {hit["_id"] for hit in page.hits} == {key for key in documents if key.startswith(owner)}
                assert page.outcome == "RERANKED"
                assert page.hits[0]["_id"] == f"{owner}-3"

            await asyncio.gather(*map(ask, ["ann", "bob"] * 10))
            error = await refused(client, index)
            assert error.code() is grpc.StatusCode.UNAUTHENTICATED
            error = await refused(client, index, authorization=basic("ann", "wrong"))
            assert error.code() is grpc.StatusCode.UNAUTHENTICATED

    async def test_a_text_that_the_user_may_not_read_is_not_fetched_for_a_rerank(
        self, secured_engine: Engine, connector_of: ConnectorOf, shelf: Shelf
    ) -> None:
        index, _ = shelf
        async with connector_of(secured_engine) as connector:
            refs = {hit.ref.id: hit.ref for hit in (await connector.search(index, ALL, timeout_s=10)).hits}
        ids = ["bob-1", "ann-2", "bob-3", "ann-4"]
        candidates = [pb.Candidate(index=refs[key].index, id=key) for key in ids]
        async with whole_sidecar(secured_engine, forward_authorization=True) as client:
            answer = await client.rerank("winter apple 4", candidates, connector="main", authorization=basic("ann"))
            scored = {result.id for result in answer.results if result.HasField("relevance_score")}
            assert scored == {"ann-2", "ann-4"}

    async def test_without_credentials_of_its_own_the_sidecar_starts_and_forwards(
        self, secured_engine: Engine, shelf: Shelf
    ) -> None:
        index, _ = shelf
        async with whole_sidecar(secured_engine, forward_authorization=True, basic_auth=None) as client:
            page = await client.search(index, "winter apple", ALL, authorization=basic("ann"))
            assert len(page.hits) == 8


class TestErrors:
    async def test_the_engines_own_errors_come_through(self, any_engine: Engine, index_name: Indices) -> None:
        index = index_name("books", {}, {"1": {"title": "apple"}})
        async with whole_sidecar_on(any_engine) as client:
            error = await refused(client, f"{index}-missing")
            why = error_details(error)
            assert error.code() is grpc.StatusCode.NOT_FOUND
            assert why is not None
            assert f"{index}-missing" in str(error.details())
            assert (why.reason, why.domain) == ("index_not_found_exception", any_engine.kind)
            expected = {"connector": "main", "index": f"{index}-missing", "http_status": "404"}
            assert dict(why.metadata) == expected
            error = await refused(client, index, body={"query": {"no_such_query": {}}})
            why = error_details(error)
            assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert why is not None
            assert why.reason == "parsing_exception"
            assert why.metadata["line"] == "1"
            assert int(why.metadata["col"]) > 1
            assert "no_such_query" in str(error.details())
            error = await refused(client, index, body={"query": {"match": {"title": {"query": "a", "wrong": 1}}}})
            assert error.code() is grpc.StatusCode.INVALID_ARGUMENT

    async def test_a_closed_index(self, any_engine: Engine, index_name: Indices) -> None:
        index = index_name("closed", {}, {"1": {"title": "apple"}})
        any_engine.call("POST", f"/{index}/_close")
        async with whole_sidecar_on(any_engine) as client:
            error = await refused(client, index)
        why = error_details(error)
        assert why is not None
        assert (error.code(), why.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "index_closed_exception")
        assert why.metadata["index"] == index

    async def test_all_shards_failed_and_the_root_cause_decides(
        self, any_engine: Engine, connector_of: ConnectorOf, index_name: Indices
    ) -> None:
        index = index_name("books", {"mappings": {"properties": {"n": {"type": "integer"}}}}, {"1": {"n": 1}})
        async with connector_of(any_engine) as connector:
            with pytest.raises(InvalidQuery) as caught:
                await connector.search(index, {"query": {"range": {"n": {"gte": "many"}}}}, timeout_s=10)
            assert (caught.value.error_type, caught.value.index) in (
                ("query_shard_exception", index),
                ("number_format_exception", ""),
            )
            with pytest.raises(IndexNotFound):
                await connector.search(f"{index}-missing", {}, timeout_s=10)

    async def test_a_circuit_breaker(self, any_engine: Engine, index_name: Indices) -> None:
        """The breaker of single requests is set so low that an aggregation trips it."""
        any_engine.needs_own_node()
        index = index_name("books", {}, {str(number): {"title": f"t{number}"} for number in range(50)})
        limit = "indices.breaker.request.limit"
        body = {"size": 1, "aggs": {"t": {"terms": {"field": "title.keyword", "size": 10_000}}}}
        any_engine.call("PUT", "/_cluster/settings", {"persistent": {limit: "1b"}})
        try:
            async with whole_sidecar_on(any_engine) as client:
                error = await refused(client, index, body=body)
        finally:
            any_engine.call("PUT", "/_cluster/settings", {"persistent": {limit: None}})
        why = error_details(error)
        assert why is not None
        assert (error.code(), why.reason) == (grpc.StatusCode.UNAVAILABLE, "circuit_breaking_exception")
        assert why.retry_after_s == 1.0
        assert "Data too large" in str(error.details())


@asynccontextmanager
async def whole_sidecar_on(engine: Engine) -> AsyncIterator[RerankClient]:
    """The same for engines of either sort."""
    secured: dict[str, Any] = {} if engine.secured else {"basic_auth": None, "ca_certs": None}
    async with whole_sidecar(engine, **secured) as client:
        yield client


class TestFailover:
    async def test_a_dead_node_beside_a_real_one_costs_no_call(self, any_engine: Engine, index_name: Indices) -> None:
        index = index_name("books", {}, {"1": {"title": "apple"}})
        with socket.create_server(("127.0.0.1", 0)) as closed:
            dead = f"{any_engine.url.partition(':')[0]}://127.0.0.1:{closed.getsockname()[1]}"
        options: dict[str, Any] = {"ca_certs": any_engine.ca_certs} if any_engine.ca_certs else {}
        if any_engine.user:
            options["basic_auth"] = (any_engine.user, any_engine.password)
        async with connect(any_engine.kind, dead, any_engine.url, compress=True, **options) as connector:
            for _ in range(10):
                assert len((await connector.search(index, {}, timeout_s=20)).hits) == 1


class TestProduct:
    async def test_the_wrong_type_is_refused_by_name(self, any_engine: Engine, tmp_path: Path) -> None:
        wrong = OTHER[any_engine.kind]
        sentence = f"this is {PRODUCT[any_engine.kind]} {any_engine.version}; use `type: {any_engine.kind}`"
        options: dict[str, Any] = {"ca_certs": any_engine.ca_certs} if any_engine.ca_certs else {}
        if any_engine.user:
            options["basic_auth"] = (any_engine.user, any_engine.password)
        async with connect(wrong, any_engine.url, **options) as connector:
            for _ in range(2):
                with pytest.raises(EngineRefused) as caught:
                    await connector.info(timeout_s=10)
                assert str(caught.value).endswith(sentence)
            with pytest.raises(ConnectorError, match="use `type"):
                await connector.search("any", {}, timeout_s=10)
            with pytest.raises(ConnectorError, match="use `type"):
                await connector.fetch([DocumentRef("any", "1")], ["title"], timeout_s=10)

    @pytest.mark.parametrize("right", [True, False])
    def test_the_command_says_what_answers(self, any_engine: Engine, tmp_path: Path, right: bool) -> None:
        secured: dict[str, Any] = {} if any_engine.secured else {"basic_auth": None, "ca_certs": None}
        section = configured(any_engine, **secured, **({} if right else {"type": OTHER[any_engine.kind]}))
        tree = {"connectors": {"main": section}, "policies": {"p": {"text": {"fields": ["title"]}}}}
        file = tmp_path / "conf.yaml"
        file.write_text(json.dumps(tree))
        result = CliRunner().invoke(command, ["check", str(file), "--engines"])
        if right:
            assert result.exit_code == 0
            assert f"connectors.main: {any_engine.kind} {any_engine.version}\n" in result.stdout
        else:
            assert result.exit_code == 1
            sentence = f"this is {PRODUCT[any_engine.kind]} {any_engine.version}; use `type: {any_engine.kind}`"
            assert f"connectors.main: asking for the version: {sentence}\n" in result.stderr
