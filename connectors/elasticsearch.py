"""Elasticsearch 8 and 9 through its official client."""

import asyncio
import logging
import ssl
from typing import Any

import elastic_transport
from elastic_transport import AiohttpHttpNode, ConnectionTimeout, Serializer, TransportError
from elasticsearch import ApiError, AsyncElasticsearch, UnsupportedProductError

from connectors.attempts import Call
from connectors.bad_option import BadOption
from connectors.errors import EngineRefused, MalformedAnswer
from connectors.http import Answer, HttpConnector, Request, json_of
from connectors.options import HttpOptions
from connectors.products import WRONG_PRODUCT
from connectors.sessions import TooLarge, open_session
from connectors.silence import no_answer, too_large, too_late

log = logging.getLogger(__name__)

UNKNOWN_MEDIA_TYPE = 406  # from a server that does not know the client's content type
MEDIA_TYPES = ("application/json", "application/vnd.elasticsearch+json", "application/*", "text/*")


class ElasticsearchConnector(HttpConnector):
    """An Elasticsearch cluster. Making one opens no connection and needs no running loop.

    ``options.aws`` is for OpenSearch alone (``ValueError``).

    Example:
        >>> ElasticsearchConnector("books", HttpOptions(["http://localhost:9200"])).name
        'books'
    """

    product = "elasticsearch"

    def __init__(self, name: str, options: HttpOptions) -> None:
        super().__init__(name, options)
        if options.aws is not None:
            raise BadOption("aws", "`aws` is for OpenSearch only; Elasticsearch does not accept such signatures")
        context = options.tls.context() if options.tls else None
        secured: dict[str, Any] = {"ssl_context": context} if context else {}
        self._client = AsyncElasticsearch(
            [node.url for node in options.nodes],
            node_class=_node_class(options, context),
            serializers={media_type: _AsBytes() for media_type in MEDIA_TYPES},
            max_retries=0,
            retry_on_timeout=False,
            **secured,
        )

    async def _send(self, call: Call, request: Request, timeout_s: float) -> Answer:
        client = self._client.options(request_timeout=timeout_s)
        try:
            response = await client.perform_request(
                request.method, request.target, headers=request.headers, body=request.body
            )
        except UnsupportedProductError as error:
            return _from_another_product(call, request, _answer(error))
        except ApiError as error:
            answer = _answer(error)
            return _from_another_product(call, request, answer) if answer.status == UNKNOWN_MEDIA_TYPE else answer
        except ConnectionTimeout as error:
            raise too_late(call, error, timeout_s, self._options) from error
        except elastic_transport.ConnectionError as error:
            raise no_answer(call, error) from error
        except TooLarge as error:
            raise too_large(call, self._options) from error
        except (TransportError, ValueError, RecursionError) as error:
            raise MalformedAnswer(call.sentence("the client could not read the engine's answer")) from error
        return _answer(response)

    async def _disconnect(self) -> None:
        await self._client.close()


class _AsBytes(Serializer):
    """Passes bodies through as bytes: they are decoded once the status is known, whatever their content type."""

    def loads(self, data: bytes) -> bytes:
        return data

    def dumps(self, data: bytes) -> bytes:
        return data


class _Node(AiohttpHttpNode):
    """Logs ``Warning`` headers, which the client would raise as Python warnings on every call."""

    async def perform_request(self, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        response = await super().perform_request(*args, **kwargs)
        if "warning" in response.meta.headers:
            log.debug("the engine warns: %s", response.meta.headers.pop("warning"))
        return response


def _node_class(options: HttpOptions, context: ssl.SSLContext | None) -> type[_Node]:
    """Return the class of node for the client, which creates its nodes itself and lets only the class be chosen."""

    class Node(_Node):
        def _create_aiohttp_session(self) -> None:
            self._loop = asyncio.get_running_loop()
            self.session = open_session(options, context)

    return Node


def _answer(response: Any) -> Answer:
    body = response.body if isinstance(response.body, bytes) else b""
    meta = response.meta
    return Answer(meta.status, meta.mimetype or "", body, meta.headers.get("retry-after", ""))


def _from_another_product(call: Call, request: Request, answer: Answer) -> Answer:
    """Return a JSON answer to ``GET /`` that the client does not accept as Elasticsearch's: it may name its product.

    Raises:
        EngineRefused: it is to another call, or the content type is not known (406).
        MalformedAnswer: the answer is not JSON.
        ConnectorError: the status is neither 2xx nor 406, see :func:`connectors.refusals.refusal`.
    """
    if answer.status != UNKNOWN_MEDIA_TYPE:
        json_of(call, answer)
        if request.target == "/":
            return answer
    cause = "the server is not Elasticsearch 8 or newer; if it is OpenSearch, use `type: opensearch`"
    raise EngineRefused(call.sentence(cause), status=answer.status, error_type=WRONG_PRODUCT, reason=cause)
