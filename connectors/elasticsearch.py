"""Elasticsearch 8 and 9 through its official client."""

import logging
import re
from typing import Any

import elastic_transport
from elastic_transport import AiohttpHttpNode, ConnectionTimeout, Serializer, TransportError
from elasticsearch import ApiError, AsyncElasticsearch, UnsupportedProductError

from connectors.attempts import Call
from connectors.errors import EngineRefused, EngineTimeout, MalformedAnswer
from connectors.http import Answer, HttpConnector, Request, json_of, no_answer, stay_on_host
from connectors.options import HttpOptions
from connectors.wire import decode

log = logging.getLogger(__name__)

HEADERS = {"accept": "application/json", "content-type": "application/json"}
UNKNOWN_MEDIA_TYPE = 406  # what a server says that does not know the client's content type
MEDIA_TYPES = ("application/json", "application/vnd.elasticsearch+json", "application/*", "text/*")


class ElasticsearchConnector(HttpConnector):
    """An Elasticsearch cluster. Making one opens no connection and needs no running loop.

    ``api_key`` is in its encoded form and excludes ``options.basic_auth`` (``ValueError``).

    Example:
        >>> ElasticsearchConnector("books", HttpOptions(["http://localhost:9200"])).name
        'books'
    """

    def __init__(self, name: str, options: HttpOptions, *, api_key: str | None = None) -> None:
        super().__init__(name, options)
        if api_key is not None and options.basic_auth is not None:
            raise ValueError("give `api_key` or `basic_auth`, not both")
        if api_key is not None and not re.fullmatch(r"[!-~]+", api_key):
            raise ValueError("`api_key` is empty or holds a space, a line break or a letter that is not ASCII")
        self._client = AsyncElasticsearch(
            [node.url for node in options.nodes],
            headers=options.headers,
            api_key=api_key,
            node_class=_Node,
            serializers={media_type: _AsBytes() for media_type in MEDIA_TYPES},
            connections_per_node=options.connections,
            max_retries=0,
            retry_on_timeout=False,
            **_tls(options),
        )

    async def _send(self, call: Call, request: Request, timeout_s: float) -> Answer:
        client = self._client.options(request_timeout=timeout_s)
        headers = HEADERS if request.body is not None else {"accept": HEADERS["accept"]}
        try:
            response = await client.perform_request(request.method, request.target, headers=headers, body=request.body)
        except UnsupportedProductError as error:
            raise _wrong_product(call, _answer(error)) from error
        except ApiError as error:
            if error.meta.status == UNKNOWN_MEDIA_TYPE:
                raise _wrong_product(call, _answer(error)) from error
            return _answer(error)
        except ConnectionTimeout as error:
            raise EngineTimeout(call.sentence(f"no complete answer within {timeout_s:.3g} s")) from error
        except elastic_transport.ConnectionError as error:
            raise no_answer(call, error) from error
        except (TransportError, ValueError, RecursionError) as error:
            raise MalformedAnswer(call.sentence("the client could not read the engine's answer")) from error
        return _answer(response)

    async def _disconnect(self) -> None:
        await self._client.close()


class _AsBytes(Serializer):
    """Leaves bodies as they are: they are read once their status is known, whatever their content type."""

    def loads(self, data: bytes) -> bytes:
        return data

    def dumps(self, data: bytes) -> bytes:
        return data


class _Node(AiohttpHttpNode):
    """Follows no redirect, and logs ``Warning`` headers, which the client would make Python warnings on every call."""

    def _create_aiohttp_session(self) -> None:
        super()._create_aiohttp_session()
        assert self.session is not None
        stay_on_host(self.session)

    async def perform_request(self, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        response = await super().perform_request(*args, **kwargs)
        if "warning" in response.meta.headers:
            log.debug("the engine warns: %s", response.meta.headers.pop("warning"))
        return response


def _tls(options: HttpOptions) -> dict[str, Any]:
    if not options.tls:
        return {}
    ca_certs = None if options.ca_certs is None else str(options.ca_certs)
    return {"verify_certs": options.verify_certs, "ssl_show_warn": False} | ({"ca_certs": ca_certs} if ca_certs else {})


def _answer(response: Any) -> Answer:
    body = response.body if isinstance(response.body, bytes) else b""
    return Answer(response.meta.status, response.meta.mimetype or "", body)


def _wrong_product(call: Call, answer: Answer) -> EngineRefused:
    """Raises ``MalformedAnswer`` instead when a good answer is not even JSON."""
    if answer.status != UNKNOWN_MEDIA_TYPE:
        decode(call, json_of(call, answer))
    cause = "the server is not Elasticsearch 8 or newer; if it is OpenSearch, use `type: opensearch`"
    return EngineRefused(call.sentence(cause), status=answer.status, error_type="unsupported_product", reason=cause)
