"""Every way in which an engine can fail, on both clients: the error's type, the time it took, and the calls it cost."""

import asyncio
import json
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from connectors import (
    Connector,
    ConnectorError,
    DocumentRef,
    EngineRefused,
    EngineTimeout,
    EngineUnavailable,
    IndexNotFound,
    InvalidQuery,
    Json,
    MalformedAnswer,
    NotAuthenticated,
    NotPermitted,
)
from connectors.elasticsearch import ElasticsearchConnector
from connectors.options import HttpOptions
from tests.connector_fixtures import (
    EMPTY_ANSWER,
    HTTP_KINDS,
    Asked,
    Server,
    always,
    closing,
    connect,
    error_answer,
    json_answer,
    one_by_one,
    serving,
    serving_bytes,
)

SLACK_S = 0.5
SECRET = "secretword"
BODY: Json = {"query": {"match": {"title": SECRET}}}
HTML = "<html><body>503 Service Unavailable</body></html>"

pytestmark = pytest.mark.parametrize("kind", HTTP_KINDS)


async def failure(connector: Connector, expected: type[ConnectorError], timeout_s: float = 5.0) -> ConnectorError:
    """Search, and give back the error; it has the type expected, came in time, and says nothing of the query."""
    started = time.monotonic()
    with pytest.raises(ConnectorError) as caught:
        await connector.search("books", BODY, timeout_s=timeout_s, params={"q": SECRET})
    assert time.monotonic() - started < timeout_s + SLACK_S
    assert type(caught.value) is expected
    assert str(caught.value).startswith("connector 'test': search on 'books': ")
    assert SECRET not in str(caught.value)
    return caught.value


def text(body: str, status: int = 200, media_type: str = "text/html") -> Callable[[], web.Response]:
    headers = {"Content-Type": media_type, "X-Elastic-Product": "Elasticsearch"}
    return lambda: web.Response(status=status, body=body.encode("latin-1"), headers=headers)


def fine() -> web.Response:
    return json_answer(EMPTY_ANSWER)


class TestNoAnswer:
    async def test_slow(self, kind: str) -> None:
        async def sleep(_: Asked) -> web.Response:
            await asyncio.sleep(30)
            return fine()

        async with serving(sleep) as server, connect(kind, server.url) as connector:
            await failure(connector, EngineTimeout, timeout_s=0.2)
            assert len(server.asked) == 1
            await asyncio.wait_for(server.disconnected.wait(), 2)

    async def test_slow_body(self, kind: str) -> None:
        slow = [b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{"]
        async with hanging(slow) as server, connect(kind, server.url) as connector:
            await failure(connector, EngineTimeout, timeout_s=0.2)
            assert len(server.asked) == 1

    async def test_refused(self, kind: str) -> None:
        async with serving(always(fine)) as server:
            url = server.url
        async with connect(kind, url) as connector:
            error = await failure(connector, EngineUnavailable)
            assert "Connection refused" in str(error)

    async def test_what_the_caller_was_handling_is_not_taken_for_the_cause(self, kind: str) -> None:
        async with serving_bytes([b""]) as server, connect(kind, server.url) as connector:
            try:
                b"\xff".decode()
            except UnicodeError:
                await failure(connector, EngineUnavailable)

    async def test_no_such_host(self, kind: str) -> None:
        async with connect(kind, "http://no-such-host.invalid:9200") as connector:
            with pytest.raises(EngineUnavailable, match=r"no host has the name 'no-such-host\.invalid'"):
                await connector.info(timeout_s=5)

    @pytest.mark.parametrize("reset", [False, True])
    async def test_hangs_up_at_once(self, kind: str, reset: bool) -> None:
        async with serving_bytes([b""], reset=reset) as server, connect(kind, server.url) as connector:
            await failure(connector, EngineUnavailable)
            assert len(server.asked) == 2

    @pytest.mark.parametrize("reset", [False, True])
    async def test_hangs_up_in_the_middle(self, kind: str, reset: bool) -> None:
        half = b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{"hits"'
        async with serving_bytes([half], reset=reset) as server, connect(kind, server.url) as connector:
            await failure(connector, EngineUnavailable)
            assert len(server.asked) == 2

    async def test_a_connection_gone_stale_is_replaced(self, kind: str) -> None:
        whole = json.dumps(EMPTY_ANSWER).encode()
        head = b"HTTP/1.1 200 OK\r\nx-elastic-product: Elasticsearch\r\ncontent-type: application/json\r\n"
        answer = head + b"content-length: %d\r\n\r\n" % len(whole) + whole
        async with serving_bytes([answer]) as server, connect(kind, server.url) as connector:
            for _ in range(3):
                assert (await connector.search("books", BODY, timeout_s=5)).hits == ()


class TestTriedAgain:
    @pytest.mark.parametrize("status", [429, 502, 503, 504])
    async def test_once_then_fine(self, kind: str, status: int) -> None:
        handler = one_by_one(lambda: error_answer(status, "unavailable"), fine)
        async with serving(handler) as server, connect(kind, server.url) as connector:
            assert (await connector.search("books", BODY, timeout_s=5)).hits == ()
            assert len(server.asked) == 2
            assert server.asked[0].body == server.asked[1].body

    @pytest.mark.parametrize("status", [429, 502, 503, 504])
    @pytest.mark.parametrize("max_attempts", [1, 2, 4])
    async def test_always(self, kind: str, status: int, max_attempts: int) -> None:
        handler = always(lambda: error_answer(status, "unavailable"))
        async with serving(handler) as server, connect(kind, server.url, max_attempts=max_attempts) as connector:
            error = await failure(connector, EngineUnavailable, timeout_s=2)
            assert isinstance(error, EngineUnavailable)
            assert error.status == status
            assert len(server.asked) == max_attempts

    @pytest.mark.parametrize("answer", [text(HTML, 503), text("", 503), text("[1", 503, "application/json")])
    async def test_a_proxy_that_says_503(self, kind: str, answer: Callable[[], web.Response]) -> None:
        async with serving(one_by_one(answer, fine)) as server, connect(kind, server.url) as connector:
            assert (await connector.search("books", BODY, timeout_s=5)).hits == ()
            assert len(server.asked) == 2

    async def test_a_wait_beyond_the_time_limit_is_not_begun(self, kind: str) -> None:
        async def late(_: Asked) -> web.Response:
            await asyncio.sleep(0.1)
            return error_answer(503, "unavailable")

        async with serving(late) as server, connect(kind, server.url, max_attempts=5) as connector:
            started = time.monotonic()
            with pytest.raises((EngineUnavailable, EngineTimeout)):
                await connector.search("books", BODY, timeout_s=0.35)
            assert time.monotonic() - started < 0.35 + SLACK_S
            assert len(server.asked) <= 4

    async def test_another_node_answers_for_a_dead_one(self, kind: str) -> None:
        async with serving(always(fine)) as dead:
            dead_url = dead.url
        async with serving(always(fine)) as server, connect(kind, dead_url, server.url) as connector:
            for _ in range(6):
                assert (await connector.search("books", BODY, timeout_s=5)).hits == ()

    async def test_a_500_is_not_tried_again(self, kind: str) -> None:
        handler = always(lambda: error_answer(500, "null_pointer_exception"))
        async with serving(handler) as server, connect(kind, server.url) as connector:
            error = await failure(connector, EngineUnavailable)
            assert isinstance(error, EngineUnavailable)
            assert (error.status, error.transient, len(server.asked)) == (500, False, 1)


class TestMalformed:
    @pytest.mark.parametrize(
        "answer",
        [
            text(HTML),
            text('{"hits": {"hits": []}}', media_type="text/plain"),
            text("hits", media_type="image/png"),
            text('{"hits": {"hits": [', media_type="application/json"),
            text("", media_type="application/json"),
            text("[]", media_type="application/json"),
            text('{"hits": {"hits": "\xff"}}', media_type="application/json"),
            text("[" * 200_000, media_type="application/json"),
            text('{"a": ' * 100_000, media_type="application/json"),
            lambda: json_answer({"took": 1}),
            lambda: json_answer({"hits": []}),
            lambda: json_answer({"hits": {"hits": None}}),
            lambda: json_answer({"hits": {"hits": [1]}}),
            lambda: json_answer({"hits": {"hits": [{"_id": "1"}]}}),
            lambda: json_answer({"hits": {"hits": [{"_index": "a", "_id": "1", "_score": "high"}]}}),
            lambda: json_answer({"hits": {"hits": [{"_index": "a", "_id": "1", "_score": 10**400}]}}),
            text(HTML, 400),
            text(HTML, 404),
            text("[]", 400, "application/json"),
            text('"busy"', 418, "application/json"),
            lambda: web.Response(status=304),
        ],
    )
    async def test_answers(self, kind: str, answer: Callable[[], web.Response]) -> None:
        async with serving(always(answer)) as server, connect(kind, server.url) as connector:
            await failure(connector, MalformedAnswer)
            assert len(server.asked) == 1

    async def test_garbage(self, kind: str) -> None:
        garbage = [b"\x00\x01\x02 garbage \xff\r\n\r\n"]
        async with serving_bytes(garbage) as server, connect(kind, server.url) as connector:
            await failure(connector, MalformedAnswer)
            assert len(server.asked) == 1

    async def test_fetch_without_docs(self, kind: str) -> None:
        async with serving(always(lambda: json_answer({}))) as server, connect(kind, server.url) as connector:
            with pytest.raises(MalformedAnswer, match="fetch of 1 documents"):
                await connector.fetch([DocumentRef("books", "1")], ["title"], timeout_s=5)

    async def test_info_without_version(self, kind: str) -> None:
        async with serving(always(lambda: json_answer({}))) as server, connect(kind, server.url) as connector:
            with pytest.raises(MalformedAnswer, match="version"):
                await connector.info(timeout_s=5)


class TestRefused:
    @pytest.mark.parametrize(
        ("status", "error_type", "expected"),
        [
            (401, "security_exception", NotAuthenticated),
            (403, "security_exception", NotPermitted),
            (404, "index_not_found_exception", IndexNotFound),
            (404, "search_context_missing_exception", EngineRefused),
            (400, "parsing_exception", InvalidQuery),
            (400, "media_type_header_exception", EngineRefused),
            (409, "version_conflict_engine_exception", EngineRefused),
            (413, "content_too_long_exception", EngineRefused),
        ],
    )
    async def test_statuses(self, kind: str, status: int, error_type: str, expected: type[ConnectorError]) -> None:
        handler = always(lambda: error_answer(status, error_type, f"what of\n{SECRET}?", line=1, col=7))
        async with serving(handler) as server, connect(kind, server.url) as connector:
            error = await failure(connector, expected)
            assert isinstance(error, EngineRefused)
            assert (error.status, error.error_type) == (status, error_type)
            assert error.reason == f"what of {SECRET}? (line 1, column 7)"
            assert len(server.asked) == 1

    @pytest.mark.parametrize("status", [301, 302, 307, 308])
    async def test_a_redirect_is_not_followed(self, kind: str, status: int) -> None:
        """No answer of an engine may send a query, or credentials, to a host that nobody configured."""
        async with serving(always(lambda: json_answer(EMPTY_ANSWER))) as elsewhere:
            redirect = always(lambda: web.Response(status=status, headers={"location": f"{elsewhere.url}/x"}))
            async with serving(redirect) as server, connect(kind, server.url) as connector:
                await failure(connector, MalformedAnswer)
            assert elsewhere.asked == []

    @pytest.mark.parametrize(("status", "expected"), [(401, NotAuthenticated), (403, NotPermitted)])
    @pytest.mark.parametrize("body", ["", HTML])
    async def test_a_gate_that_speaks_no_json(
        self, kind: str, status: int, body: str, expected: type[ConnectorError]
    ) -> None:
        async with serving(always(text(body, status))) as server, connect(kind, server.url) as connector:
            await failure(connector, expected)


class TestFetch:
    @pytest.mark.parametrize("shown", [True, False])
    async def test_half_of_the_documents_missing(self, kind: str, shown: bool) -> None:
        async def half(asked: Asked) -> web.Response:
            rows = [row | {"found": int(row["_id"]) % 2 == 0} for row in json.loads(asked.body)["docs"]]
            found = [row | {"_source": {"title": row["_id"]}} if row["found"] else row for row in rows]
            return json_answer({"docs": [row for row in found if shown or row["found"]]})

        refs = [DocumentRef("books", str(number)) for number in range(10)]
        async with serving(half) as server, connect(kind, server.url) as connector:
            found = await connector.fetch(refs, ["title"], timeout_s=5)
            assert found == {ref: {"title": ref.id} for ref in refs[::2]}
            assert len(server.asked) == 1

    async def test_odd_rows_are_left_out(self, kind: str) -> None:
        rows: list[object] = [
            None,
            {"_id": "1", "found": True},
            {"_id": "2", "found": "yes", "_source": {}},
            {"_id": "3", "error": {"type": "index_not_found_exception"}},
            {"_id": "other", "found": True, "_source": {}},
            {"_id": "5", "found": True, "_source": {"title": "five"}},
        ]
        refs = [DocumentRef("books", str(number)) for number in range(6)]
        answer = always(lambda: json_answer({"docs": rows}))
        async with serving(answer) as server, connect(kind, server.url) as connector:
            found = await connector.fetch(refs, ["title"], timeout_s=5)
            assert found == {refs[5]: {"title": "five"}}


class TestCancelled:
    async def test_passes_and_closes_the_connection(self, kind: str) -> None:
        arrived = asyncio.Event()

        async def sleep(_: Asked) -> web.Response:
            arrived.set()
            await asyncio.sleep(30)
            return fine()

        async with serving(sleep) as server, connect(kind, server.url) as connector:
            task = asyncio.create_task(connector.search("books", BODY, timeout_s=20))
            await arrived.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await asyncio.wait_for(server.disconnected.wait(), 2)
            assert len(server.asked) == 1


class TestTls:
    async def test_a_certificate_nobody_vouches_for(self, kind: str, tmp_path: Path) -> None:
        async with secured(tmp_path) as url, connect(kind, url) as connector:
            error = await failure(connector, EngineUnavailable)
            assert "TLS failed: self" in str(error)
            assert isinstance(error, EngineUnavailable)
            assert not error.transient

    @pytest.mark.parametrize("verified", [True, False])
    async def test_trusted_or_unchecked(self, kind: str, verified: bool, tmp_path: Path) -> None:
        async with secured(tmp_path) as url:
            trust = {"ca_certs": tmp_path / "cert.pem"} if verified else {"verify_certs": False}
            async with connect(kind, url, **trust) as connector:
                assert (await connector.search("books", BODY, timeout_s=5)).hits == ()

    async def test_http_to_an_https_port(self, kind: str, tmp_path: Path) -> None:
        async with secured(tmp_path) as url, connect(kind, url.replace("https", "http")) as connector:
            with pytest.raises(ConnectorError):
                await connector.search("books", BODY, timeout_s=5)

    async def test_https_to_an_http_port(self, kind: str) -> None:
        async with serving(always(fine)) as server:
            url = server.url.replace("http", "https")
            async with connect(kind, url) as connector:
                await failure(connector, EngineUnavailable)


@asynccontextmanager
async def hanging(chunks: list[bytes]) -> AsyncIterator[Server]:
    """A server that sends its chunks and then nothing more, without hanging up."""
    server, writers = Server(""), []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        await reader.readuntil(b"\r\n\r\n")
        server.asked.append(Asked("", "", {}, b""))
        for chunk in chunks:
            writer.write(chunk)

    listener = await asyncio.start_server(answer, "127.0.0.1", 0)
    server.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    try:
        yield server
    finally:
        for writer in writers:
            writer.close()
        listener.close()


@asynccontextmanager
async def secured(folder: Path) -> AsyncIterator[str]:
    """The URL of an https server with a certificate of its own making, left as ``cert.pem`` in the folder."""
    key, cert = folder / "key.pem", folder / "cert.pem"
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    names = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", str(key), "-out", str(cert)]
    await asyncio.to_thread(subprocess.run, made + names, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    async with serving(always(fine), context) as server:
        yield server.url


class TestWrongProduct:
    async def test_the_elasticsearch_client_says_what_to_use(self, kind: str) -> None:
        for status in (200, 406):
            answer = lambda code=status: web.json_response({"error": "no"}, status=code)  # noqa: E731
            async with serving(always(answer)) as server:
                connector = ElasticsearchConnector("test", HttpOptions([server.url]))
                async with closing(connector):
                    error = await failure(connector, EngineRefused)
                    assert "use `type: opensearch`" in str(error)
