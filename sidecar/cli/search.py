"""`rerank-sidecar search`."""

from typing import Annotated, Any

import typer

from sidecar.cli.target import Target, TlsCa, TlsCert, TlsKey, TlsName, TlsOn, client_of, engine_authorization, in_words
from sidecar.cli.terminal import multi_match, stop
from sidecar.errors import InvalidRequest
from sidecar.json_text import json_object


def search(
    query: Annotated[str, typer.Argument(help="What to search for.")],
    index: Annotated[str, typer.Option(help="Index, alias or pattern.")],
    target: Target = "127.0.0.1:50051",
    tls: TlsOn = False,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    tls_name: TlsName = None,
    connector: Annotated[str, typer.Option(help="Connector; not needed when there is only one.")] = "",
    policy: Annotated[str, typer.Option(help="Policy; default: the one that the index matches.")] = "",
    field: Annotated[list[str] | None, typer.Option(help="Field to match, repeatable; default: all.")] = None,
    body: Annotated[str, typer.Option(help="The whole search body as JSON, instead of --field.")] = "",
    size: Annotated[int, typer.Option(min=1, max=100, help="Hits shown; a `size` in --body wins.")] = 10,
    budget_ms: Annotated[int | None, typer.Option(min=1, max=600_000, help="Budget of this call in ms.")] = None,
) -> None:
    """Search through a running sidecar and show the engine's order and the new one side by side."""
    if not query.isprintable():
        stop("the query holds bytes that are no UTF-8 text, or control characters")

    import grpc

    from sidecar.comparison import show
    from sidecar.v1 import rerank_pb2 as pb

    request = {"size": size, **(_body(body) if body else multi_match(query, field or ["*"]))}
    options = pb.Options(policy=policy, budget_ms=budget_ms)
    with client_of(target, tls=tls, ca=tls_ca, cert=tls_cert, key=tls_key, name=tls_name) as client:
        try:
            found = client.search_progressive(
                index, query, request, connector=connector, options=options, authorization=engine_authorization()
            )
            pages = list(found)
        except grpc.RpcError as error:
            stop(in_words(error))
    show(query, pages[0], pages[-1])


def _body(text: str) -> dict[str, Any]:
    try:
        return json_object(text, "--body")
    except InvalidRequest as error:
        stop(str(error))
