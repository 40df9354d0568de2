"""Connections on both clients: nodes that cannot be reached, whose rights a call has, what is kept between calls."""

import asyncio
import contextlib
import gzip
import hashlib
import json
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from connectors import DocumentRef, EngineRefused, EngineTimeout, EngineUnavailable, Json
from connectors.http import Request, compressed
from tests.connector_fixtures import (
    EMPTY_ANSWER,
    HTTP_KINDS,
    Asked,
    always,
    connect,
    error_answer,
    json_answer,
    one_by_one,
    serving,
)

pytestmark = pytest.mark.parametrize("kind", HTTP_KINDS)

INFO = {
    "elasticsearch": {"version": {"number": "9.5.3", "build_flavor": "default"}},
    "opensearch": {"version": {"number": "3.8.0", "distribution": "opensearch"}},
}
OTHER = {"elasticsearch": "opensearch", "opensearch": "elasticsearch"}
WRONG = {
    "elasticsearch": "this is OpenSearch 3.8.0; use `type: opensearch`",
    "opensearch": "this is Elasticsearch 9.5.3; use `type: elasticsearch`",
}


def fine() -> web.Response:
    return json_answer(EMPTY_ANSWER)


def header(asked: Asked, name: str) -> str | None:
    return {key.lower(): value for key, value in asked.headers.items()}.get(name)


@contextlib.contextmanager
def silent_port() -> Iterator[str]:
    """The URL of a port that takes no connection and refuses none: its queue of waiting ones is full."""
    with contextlib.ExitStack() as sockets:
        listener = sockets.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(8):
            waiting = sockets.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def refusing_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        return f"http://127.0.0.1:{closed.getsockname()[1]}"


class TestFailover:
    async def test_a_node_that_refuses_costs_no_call(self, kind: str) -> None:
        dead = refusing_port()
        async with serving(always(fine)) as server, connect(kind, dead, server.url) as connector:
            started = time.monotonic()
            for _ in range(20):
                await connector.search("books", {}, timeout_s=1)
            assert len(server.asked) == 20
            assert time.monotonic() - started < 2

    async def test_a_node_that_hangs_costs_no_call_and_a_part_of_one(self, kind: str) -> None:
        async with serving(always(fine)) as server:
            with silent_port() as dead:
                async with connect(kind, dead, server.url, connect_timeout_s=0.2) as connector:
                    took = []
                    for _ in range(12):
                        started = time.monotonic()
                        await connector.search("books", {}, timeout_s=2)
                        took.append(time.monotonic() - started)
            assert len(server.asked) == 12
            assert max(took) < 1
            assert sum(call > 0.19 for call in took) <= 2  # it is left alone after the first

    async def test_a_node_that_hangs_leaves_time_for_another_in_a_short_call(self, kind: str) -> None:
        async with serving(always(fine)) as server:
            with silent_port() as dead:
                async with connect(kind, dead, server.url, connect_timeout_s=60) as connector:
                    for _ in range(4):
                        await connector.search("books", {}, timeout_s=0.8)
            assert len(server.asked) == 4

    async def test_many_calls_at_once_survive_a_node_that_hangs(self, kind: str) -> None:
        async with serving(always(fine)) as server:
            with silent_port() as dead:
                async with connect(kind, dead, server.url, connect_timeout_s=0.2, max_attempts=3) as connector:
                    await asyncio.gather(*(connector.search("books", {}, timeout_s=3) for _ in range(30)))
            assert len(server.asked) == 30

    async def test_where_all_hang_the_call_is_unavailable_before_its_time_is_over(self, kind: str) -> None:
        with silent_port() as dead, silent_port() as other:
            async with connect(kind, dead, other, connect_timeout_s=0.1) as connector:
                with pytest.raises(EngineUnavailable, match=r"no connection was made within 0\.1 s"):
                    await connector.search("books", {}, timeout_s=5)

    async def test_a_single_node_has_all_of_the_time(self, kind: str) -> None:
        with silent_port() as dead:
            async with connect(kind, dead, connect_timeout_s=0.05) as connector:
                started = time.monotonic()
                with pytest.raises(EngineTimeout):
                    await connector.search("books", {}, timeout_s=0.4)
                assert time.monotonic() - started > 0.35


class TestRetryAfter:
    @pytest.mark.parametrize("status", [429, 503])
    async def test_is_waited_for_where_it_fits(self, kind: str, status: int) -> None:
        times: list[float] = []

        async def busy_once(_: Asked) -> web.StreamResponse:
            times.append(time.monotonic())
            if len(times) > 1:
                return fine()
            answer = error_answer(status, "es_rejected_execution_exception")
            answer.headers["Retry-After"] = "1"
            return answer

        async with serving(busy_once) as server, connect(kind, server.url) as connector:
            await connector.search("books", {}, timeout_s=5)
        assert 0.99 <= times[1] - times[0] < 3

    async def test_no_useless_try_where_it_does_not(self, kind: str) -> None:
        def busy() -> web.Response:
            answer = error_answer(429, "circuit_breaking_exception")
            answer.headers["Retry-After"] = "30"
            return answer

        async with serving(always(busy)) as server, connect(kind, server.url, max_attempts=5) as connector:
            started = time.monotonic()
            with pytest.raises(EngineUnavailable) as caught:
                await connector.search("books", {}, timeout_s=2)
            assert time.monotonic() - started < 0.5
            assert len(server.asked) == 1
        assert (caught.value.retry_after_s, caught.value.error_type) == (30.0, "circuit_breaking_exception")
        assert (caught.value.status, caught.value.transient) == (429, True)


class TestActingAs:
    async def test_calls_carry_the_users_header_and_never_the_own_credential(self, kind: str) -> None:
        own = ("sidecar", "own-password")
        answer = always(lambda: json_answer({**EMPTY_ANSWER, "docs": []}))
        async with serving(answer) as server, connect(kind, server.url, basic_auth=own) as connector:
            ann = connector.acting_as("Bearer ann")
            await ann.search("books", {}, timeout_s=1)
            await ann.fetch([DocumentRef("books", "1")], ["title"], timeout_s=1)
            await ann.acting_as("Bearer bob").search("books", {}, timeout_s=1)
            await connector.search("books", {}, timeout_s=1)
        sent = [header(asked, "authorization") for asked in server.asked]
        assert sent[:3] == ["Bearer ann", "Bearer ann", "Bearer bob"]
        assert str(sent[3]).startswith("Basic ")
        assert len([name for name in server.asked[0].headers if name.lower() == "authorization"]) == 1

    async def test_identity_is_a_digest(self, kind: str) -> None:
        async with connect(kind, "http://localhost:9200") as connector:
            ann = connector.acting_as("Bearer ann")
            assert (connector.identity, ann.identity) == ("", hashlib.sha256(b"Bearer ann").hexdigest())
            assert ann.acting_as("Bearer bob").identity == connector.acting_as("Bearer bob").identity
            assert ann.name == connector.name

    @pytest.mark.parametrize(
        "bad", ["", "  ", "Bearer a\r\nx: y", "Bearer \x00", "Bearer \x7f", "Bearer ü", "x" * 16385]
    )
    async def test_a_header_that_cannot_be_sent_is_refused_unseen(self, kind: str, bad: str) -> None:
        async with connect(kind, "http://localhost:9200") as connector:
            with pytest.raises(ValueError, match="the authorization to forward") as caught:
                connector.acting_as(bad)
        assert "Bearer" not in str(caught.value)

    async def test_two_users_never_mix_over_the_same_connections(self, kind: str) -> None:
        async def who(asked: Asked) -> web.StreamResponse:
            await asyncio.sleep(0.001)
            user = header(asked, "authorization")
            hit = {"_index": "books", "_id": str(user), "_score": 1.0}
            answer = json_answer({**EMPTY_ANSWER, "hits": {"hits": [hit]}})
            answer.set_cookie("session", str(user))
            return answer

        async with serving(who) as server, connect(kind, server.url, connections=4) as connector:

            async def one(number: int) -> None:
                user = f"Bearer user-{number % 7}"
                found = await connector.acting_as(user).search("books", {"size": number}, timeout_s=10)
                assert [hit.ref.id for hit in found.hits] == [user]

            await asyncio.gather(*map(one, range(200)))
        assert len(server.asked) == 200
        assert [asked for asked in server.asked if header(asked, "cookie")] == []

    async def test_closing_a_view_closes_nothing_and_closing_the_connector_closes_all(self, kind: str) -> None:
        async with serving(always(fine)) as server, connect(kind, server.url) as connector:
            ann = connector.acting_as("Bearer ann")
            await ann.close()
            await ann.search("books", {}, timeout_s=1)
            await connector.close()
            with pytest.raises(EngineUnavailable, match="closed"):
                await ann.search("books", {}, timeout_s=1)


class TestWhatTravels:
    async def test_connections_are_kept_alive_and_limited(self, kind: str) -> None:
        peers: list[tuple[Any, ...]] = []

        async def handle(request: web.BaseRequest) -> web.StreamResponse:
            assert request.transport is not None
            peers.append(request.transport.get_extra_info("peername"))
            await asyncio.sleep(0.01)
            return fine()

        runner = web.ServerRunner(web.Server(handle))
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        async with connect(kind, f"http://127.0.0.1:{runner.addresses[0][1]}", connections=3) as connector:
            await asyncio.gather(*(connector.search("books", {}, timeout_s=5) for _ in range(12)))
            for _ in range(3):
                await connector.search("books", {}, timeout_s=5)
        await runner.cleanup()
        assert len(peers) == 15
        assert len(set(peers)) == 3

    @pytest.mark.parametrize("compress", [True, False])
    async def test_compression_is_for_both_ways_or_none(self, kind: str, compress: bool) -> None:
        def packed() -> web.Response:
            answer = fine()
            if compress:
                answer.enable_compression(web.ContentCoding.gzip)
            return answer

        body: Json = {"query": {"match": {"title": "long " * 100}}}
        async with serving(always(packed)) as server, connect(kind, server.url, compress=compress) as connector:
            assert (await connector.search("books", body, timeout_s=1)).hits == ()
        [asked] = server.asked
        assert header(asked, "content-encoding") == ("gzip" if compress else None)
        assert ("gzip" in (header(asked, "accept-encoding") or "")) == compress
        assert json.loads(gzip.decompress(asked.body) if compress else asked.body) == body

    async def test_a_large_body_is_compressed_while_others_are_served(self, kind: str) -> None:
        body: Json = {"query": {"terms": {"title": [f"{number * 7919 % 10**6}" for number in range(150_000)]}}}
        turns = 0

        async def others() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        served = asyncio.create_task(others())
        whole = json.dumps(body).encode()
        packed = await compressed(Request("POST", "/", whole))
        served.cancel()
        assert turns > 10
        assert gzip.decompress(packed.body or b"") == whole
        async with serving(always(fine)) as server, connect(kind, server.url, compress=True) as connector:
            await connector.search("books", body, timeout_s=30)
        [asked] = server.asked
        assert json.loads(gzip.decompress(asked.body)) == body

    async def test_a_bearer_token(self, kind: str) -> None:
        async with serving(always(fine)) as server, connect(kind, server.url, bearer_token="abc.def") as connector:
            await connector.search("books", {}, timeout_s=1)
        assert header(server.asked[0], "authorization") == "Bearer abc.def"


class TestProduct:
    async def test_the_wrong_one_is_named_and_refused_from_then_on(self, kind: str) -> None:
        other = OTHER[kind]

        def about() -> web.Response:
            answer = json_answer(INFO[other])
            if other == "opensearch":
                del answer.headers["X-Elastic-Product"]
            return answer

        async with serving(always(about)) as server, connect(kind, server.url) as connector:
            with pytest.raises(EngineRefused) as caught:
                await connector.info(timeout_s=1)
            assert str(caught.value) == f"connector 'test': asking for the version: {WRONG[kind]}"
            for one in (connector, connector.acting_as("Bearer ann")):
                with pytest.raises(EngineRefused, match="use `type") as again:
                    await one.search("books", {}, timeout_s=1)
                assert (again.value.error_type, again.value.reason) == ("unsupported_product", WRONG[kind])
            assert len(server.asked) == 1

    async def test_a_right_answer_later_opens_the_way(self, kind: str) -> None:
        def wrong() -> web.Response:
            return json_answer(INFO[OTHER[kind]])

        answers = one_by_one(wrong, lambda: json_answer(INFO[kind]), fine)
        async with serving(answers) as server, connect(kind, server.url) as connector:
            with pytest.raises(EngineRefused):
                await connector.info(timeout_s=1)
            assert (await connector.info(timeout_s=1)).engine == kind
            assert (await connector.search("books", {}, timeout_s=1)).hits == ()


def _certificate(folder: Path, name: str, *more: str) -> tuple[Path, Path]:
    cert, key = folder / f"{name}.pem", folder / f"{name}-key.pem"
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-days", "2", "-subj", f"/CN={name}"]
    names = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", str(key), "-out", str(cert)]
    subprocess.run([*made, *names, *(more or ("-nodes",))], check=True, capture_output=True)
    return cert, key


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """A server's certificate, a client's, and a client's with an encrypted key."""
    folder = tmp_path_factory.mktemp("certificates")
    made = {name: _certificate(folder, name) for name in ("server", "client", "stranger")}
    return {**made, "locked": _certificate(folder, "locked", "-passout", "pass:opensesame")}


def fingerprint(certificate: Path) -> str:
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(certificate.read_text())).hexdigest()


def server_context(certificates: dict[str, tuple[Path, Path]], *trusted: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificates["server"])
    for name in trusted:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(certificates[name][0])
    return context


Certificates = dict[str, tuple[Path, Path]]


class TestTls:
    async def test_a_fingerprint_is_enough_and_any_of_several_does(self, kind: str, certificates: Certificates) -> None:
        right = fingerprint(certificates["server"][0])
        written = ":".join(right[place : place + 2] for place in range(0, 64, 2)).upper()
        for pins in ([right], ["0" * 64, written]):
            async with serving(always(fine), server_context(certificates)) as server:
                url = server.url.replace("127.0.0.1", "localhost")
                async with connect(kind, url, certificate_fingerprints=pins) as connector:
                    assert (await connector.search("books", {}, timeout_s=2)).hits == ()

    async def test_another_certificate_gets_no_request(self, kind: str, certificates: Certificates) -> None:
        pins = [fingerprint(certificates["client"][0])]
        own = ("sidecar", "own-password")
        async with serving(always(fine), server_context(certificates)) as server:
            async with connect(kind, server.url, certificate_fingerprints=pins, basic_auth=own) as connector:
                with pytest.raises(EngineUnavailable) as caught:
                    await connector.search("books", {}, timeout_s=2)
            assert server.asked == []
        seen = fingerprint(certificates["server"][0])
        assert f"TLS failed: the node's certificate has the fingerprint {seen}, which is none" in str(caught.value)
        assert not caught.value.transient

    @pytest.mark.parametrize("pinned", [True, False])
    async def test_a_client_certificate_is_shown(self, kind: str, pinned: bool, certificates: Certificates) -> None:
        trust: dict[str, Any] = {"ca_certs": certificates["server"][0]}
        if pinned:
            trust = {"certificate_fingerprints": [fingerprint(certificates["server"][0])]}
        async with serving(always(fine), server_context(certificates, "client", "locked")) as server:
            for name, password in (("client", None), ("locked", "opensesame")):
                cert, key = certificates[name]
                shown: dict[str, Any] = {"client_cert": cert, "client_key": key, "client_key_password": password}
                async with connect(kind, server.url, **trust, **shown) as connector:
                    await connector.search("books", {}, timeout_s=2)
            assert len(server.asked) == 2
            cert, key = certificates["stranger"]
            stranger: dict[str, Any] = {"client_cert": cert, "client_key": key}
            for nothing_useful in ({}, stranger):
                async with connect(kind, server.url, **trust, **nothing_useful) as connector:
                    with pytest.raises(EngineUnavailable):
                        await connector.search("books", {}, timeout_s=2)
            assert len(server.asked) == 2

    async def test_files_that_do_not_fit_are_named_when_the_connector_is_made(
        self, kind: str, certificates: Certificates
    ) -> None:
        locked, stranger = certificates["locked"], certificates["stranger"]
        shown: dict[str, Any]
        for shown in (
            {"client_cert": locked[0], "client_key": locked[1], "client_key_password": "wrong"},
            {"client_cert": locked[0], "client_key": locked[1]},
            {"client_cert": locked[0], "client_key": stranger[1]},
            {"client_cert": stranger[1]},
        ):
            with pytest.raises(ValueError, match="`client_cert` and `client_key` hold no certificate and key"):
                connect(kind, "https://localhost:9200", **shown)
        with pytest.raises(ValueError, match=r"`ca_certs` names .* which holds no certificate"):
            connect(kind, "https://localhost:9200", ca_certs=stranger[1])
