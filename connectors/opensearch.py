"""OpenSearch 2 and 3 through its official client."""

import asyncio
import json
import logging
import ssl
from typing import Any

import aiohttp
import opensearchpy
from opensearchpy import AIOHttpConnection, AsyncOpenSearch, ConnectionTimeout, OpenSearchException, TransportError
from opensearchpy.exceptions import SerializationError
from opensearchpy.serializer import Serializer

from connectors.attempts import Call
from connectors.aws import NoCredentials, Signer, Unreachable
from connectors.bad_option import BadOption
from connectors.errors import EngineUnavailable, MalformedAnswer, NotAuthenticated
from connectors.hosts import Host
from connectors.http import JSON, Answer, HttpConnector, Request
from connectors.options import HttpOptions
from connectors.sessions import Response, TooLarge, open_session
from connectors.silence import no_answer, too_large, too_late

log = logging.getLogger(__name__)

SERVERLESS = json.dumps({"version": {"distribution": "opensearch", "number": "serverless"}}).encode()
"""Stands in for the answer to ``GET /``, which OpenSearch Serverless does not support."""


class OpenSearchConnector(HttpConnector):
    """An OpenSearch cluster. Making one opens no connection and needs no running loop.

    ``options.api_key`` is for Elasticsearch alone (``ValueError``); ``options.aws`` needs botocore (``ValueError``).

    Example:
        >>> OpenSearchConnector("books", HttpOptions(["http://localhost:9200"])).name
        'books'
    """

    product = "opensearch"

    def __init__(self, name: str, options: HttpOptions) -> None:
        super().__init__(name, options)
        if options.api_key is not None:
            raise BadOption(
                "api_key", "`api_key` is about Elasticsearch; give OpenSearch `basic_auth` or `bearer_token`"
            )
        self._client = AsyncOpenSearch(
            [_host(node) for node in options.nodes],
            connection_class=_connection_class(options),
            serializer=_AsBytes(),
            max_retries=0,
            retry_on_timeout=False,
        )

    async def _send(self, call: Call, request: Request, timeout_s: float) -> Answer:
        transport = self._client.transport
        try:
            answer = await transport.perform_request(
                request.method, request.target, body=request.body, timeout=timeout_s, headers=request.headers
            )
        except (_NotConnected, ConnectionTimeout) as error:  # both are a ConnectionError, so they come first
            raise too_late(call, error, timeout_s, self._options) from error
        except opensearchpy.ConnectionError as error:
            raise no_answer(call, error) from error
        except TransportError as error:
            return self._refusal(request, int(error.status_code), error.info)
        except TooLarge as error:
            raise too_large(call, self._options) from error
        except Unreachable as error:  # botocore has tried it several times
            raise EngineUnavailable(call.sentence(str(error)), transient=False, error_type="no_credentials") from error
        except NoCredentials as error:
            raise NotAuthenticated(call.sentence(str(error)), error_type="no_credentials") from error
        except SerializationError as error:
            raise MalformedAnswer(call.sentence(f"the engine's answer should be JSON ({error})")) from error
        except (OpenSearchException, ValueError, RecursionError) as error:
            raise MalformedAnswer(call.sentence("the client could not read the engine's answer")) from error
        return answer if isinstance(answer, Answer) else Answer(200, "text/plain" if answer else JSON, b"")

    def _refusal(self, request: Request, status: int, body: object) -> Answer:
        aws = self._options.aws
        if status == 404 and request.target == "/" and aws is not None and aws.service == "aoss":
            return Answer(200, JSON, SERVERLESS)
        return Answer(status, "", *((bytes(body), body.retry_after) if isinstance(body, _Body) else (b"",)))

    async def _disconnect(self) -> None:
        connections: list[Any] = self._client.transport.seed_connections  # all of them; the client forgets dead ones
        for connection in connections:
            await connection.close()


class _NotConnected(opensearchpy.ConnectionError):
    """No connection in time. Unlike its own ``ConnectionTimeout``, this makes the client mark the node as dead."""


class _Body(bytes):
    """The body of an answer, and its ``Retry-After`` header, which the client would drop."""

    retry_after: str


class _Response(Response):
    """An answer whose body stays bytes."""

    async def text(self, *_: Any, **__: Any) -> Any:
        body = _Body(await self.read())
        body.retry_after = self.headers.get("retry-after", "")
        return body


class _AsBytes(Serializer):
    """Passes bodies through as bytes, both ways."""

    mimetype = JSON

    def loads(self, s: Any) -> Answer:
        return Answer(200, self.mimetype, s)

    def dumps(self, data: bytes) -> bytes:
        return data


class _Connection(AIOHttpConnection):
    """The client's connection, changed to report only by exceptions and to leave an error's body undecoded.

    The original logs each failure with a traceback and the URL, raises ``Warning`` headers as Python warnings on every
    call, fails on an error body that is JSON but not an object, keeps using a node that accepts no connections, and
    marks a node as dead whose answer was too large.
    """

    def _raise_error(self, status_code: int, raw_data: str | bytes, *_: Any, **__: Any) -> None:
        raise TransportError(status_code, "", raw_data)

    def _raise_warnings(self, warning_headers: Any) -> None:
        for header in warning_headers:
            log.debug("the engine warns: %s", header)

    def log_request_fail(self, *args: Any, **kwargs: Any) -> None:
        """Log nothing: the caller gets the exception."""

    async def perform_request(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return await super().perform_request(*args, **kwargs)
        except ConnectionTimeout as error:
            if isinstance(error.info, aiohttp.ConnectionTimeoutError):
                raise _NotConnected("N/A", str(error.info), error.info) from error
            raise
        except opensearchpy.ConnectionError as error:
            if isinstance(error.info, TooLarge):
                raise error.info from None
            raise


def _connection_class(options: HttpOptions) -> type[_Connection]:
    """Return the class of connection for the client, which creates them itself and lets only the class be chosen."""
    context = options.tls.context() if options.tls else None

    class Connection(_Connection):
        def __init__(self, **more: Any) -> None:
            super().__init__(**more, ssl_context=context or ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))

        async def _create_aiohttp_session(self) -> None:
            self.loop = asyncio.get_running_loop()
            self.session = open_session(options, context, response_class=_Response)

    return _signing(Connection, Signer(options.aws)) if options.aws else Connection


def _signing(connection: type[_Connection], signer: Signer) -> type[_Connection]:
    """Return a class of connections that sign their requests."""

    class Signing(connection):  # type: ignore[valid-type,misc]
        async def perform_request(
            self,
            method: str,
            url: str,
            params: Any = None,
            body: bytes | None = None,
            *args: Any,
            headers: Any = None,
            **more: Any,
        ) -> Any:
            given = headers or {}
            to_sign = {"content-type": JSON}
            if "content-encoding" in given:
                to_sign["content-encoding"] = given["content-encoding"]
            signed = await signer.sign(method, f"{self.host}{self.url_prefix}{url}", body, to_sign)
            return await super().perform_request(method, url, params, body, *args, headers={**given, **signed}, **more)

    return Signing


def _host(node: Host) -> dict[str, Any]:
    return {"host": node.name, "port": node.port, "use_ssl": node.scheme == "https", "url_prefix": node.path}
