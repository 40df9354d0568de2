"""OpenSearch 2 and 3 through its official client."""

import logging
import warnings
from typing import Any

import opensearchpy
from opensearchpy import AIOHttpConnection, AsyncOpenSearch, ConnectionTimeout, OpenSearchException, TransportError
from opensearchpy.exceptions import SerializationError
from opensearchpy.serializer import Serializer

from connectors.attempts import Call
from connectors.errors import EngineTimeout, MalformedAnswer
from connectors.http import Answer, HttpConnector, Request, no_answer, stay_on_host
from connectors.options import Host, HttpOptions

log = logging.getLogger(__name__)


class OpenSearchConnector(HttpConnector):
    """An OpenSearch cluster. Making one opens no connection and needs no running loop.

    Example:
        >>> OpenSearchConnector("books", HttpOptions(["http://localhost:9200"])).name
        'books'
    """

    def __init__(self, name: str, options: HttpOptions) -> None:
        super().__init__(name, options)
        self._client = AsyncOpenSearch(
            [_host(node) for node in options.nodes],
            headers=options.headers,
            connection_class=_Connection,
            serializer=_AsText(),
            pool_maxsize=options.connections,
            max_retries=0,
            retry_on_timeout=False,
            **_tls(options),
        )

    async def _send(self, call: Call, request: Request, timeout_s: float) -> Answer:
        transport = self._client.transport
        try:
            answer = await transport.perform_request(
                request.method, request.target, body=request.body, timeout=timeout_s
            )
        except ConnectionTimeout as error:  # a ConnectionError, so it comes first
            raise EngineTimeout(call.sentence(f"no complete answer within {timeout_s:.3g} s")) from error
        except opensearchpy.ConnectionError as error:
            raise no_answer(call, error) from error
        except TransportError as error:
            return Answer(int(error.status_code), "", _bytes(error.info))
        except SerializationError as error:
            raise MalformedAnswer(call.sentence(f"the engine's answer should be JSON ({error})")) from error
        except (OpenSearchException, ValueError, RecursionError) as error:
            raise MalformedAnswer(call.sentence("the client could not read the engine's answer")) from error
        return answer if isinstance(answer, Answer) else Answer(200, "text/plain" if answer else _AsText.mimetype, b"")

    async def _disconnect(self) -> None:
        connections: list[Any] = self._client.transport.seed_connections  # all of them; the client forgets dead ones
        for connection in connections:
            await connection.close()


class _AsText(Serializer):
    """Leaves bodies as they are, in and out."""

    mimetype = "application/json"

    def loads(self, s: str) -> Answer:
        return Answer(200, self.mimetype, _bytes(s))

    def dumps(self, data: bytes) -> bytes:
        return data


class _Connection(AIOHttpConnection):
    """The client's connection, which reports by exceptions alone and leaves an error's body unread.

    By itself it follows redirects to other hosts, logs each failure with a traceback and the URL, raises ``Warning``
    headers as Python warnings on every call, and fails on an error body that is JSON but no object.
    """

    def _raise_error(self, status_code: int, raw_data: str | bytes, *_: Any, **__: Any) -> None:
        raise TransportError(status_code, "", raw_data)

    def _raise_warnings(self, warning_headers: Any) -> None:
        for header in warning_headers:
            log.debug("the engine warns: %s", header)

    def log_request_fail(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: the caller gets the exception."""

    async def _create_aiohttp_session(self) -> None:
        with warnings.catch_warnings():  # it uses an option of aiohttp that newer Pythons make obsolete
            warnings.simplefilter("ignore", DeprecationWarning)
            await super()._create_aiohttp_session()
        stay_on_host(self.session)


def _host(node: Host) -> dict[str, Any]:
    return {"host": node.name, "port": node.port, "use_ssl": node.scheme == "https", "url_prefix": node.path}


def _tls(options: HttpOptions) -> dict[str, Any]:
    if not options.tls:
        return {}
    ca_certs = None if options.ca_certs is None else str(options.ca_certs)
    return {"verify_certs": options.verify_certs, "ssl_show_warn": False, "ca_certs": ca_certs}


def _bytes(text: object) -> bytes:
    return text.encode("utf-8", "surrogatepass") if isinstance(text, str) else b""
