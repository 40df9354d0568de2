"""`rerank-sidecar doctor`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from sidecar.cli.target import Target, TlsCa, TlsCert, TlsKey, TlsName, TlsOn, client_of, engine_authorization, in_words
from sidecar.cli.terminal import multi_match, stop

if TYPE_CHECKING:
    from sidecar.client import BlockingRerankClient
    from sidecar.diagnosis import Asked

FOUND = 1
"""Exit status when something is wrong."""
_TIMEOUT_S = 30.0


def doctor(
    index: Annotated[str, typer.Option(help="Index, alias or pattern.")],
    query: Annotated[list[str] | None, typer.Option(help="A real query of that index, repeatable.")] = None,
    queries: Annotated[Path | None, typer.Option(help="File with a query a line.")] = None,
    target: Target = "127.0.0.1:50051",
    tls: TlsOn = False,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    tls_name: TlsName = None,
    connector: Annotated[str, typer.Option(help="Connector; not needed when there is only one.")] = "",
    policy: Annotated[str, typer.Option(help="Policy; default: the one that the index matches.")] = "",
    field: Annotated[list[str] | None, typer.Option(help="Field to match, repeatable; default: all.")] = None,
    size: Annotated[int, typer.Option(min=1, max=1000, help="Hits of a page, as your app asks for them.")] = 10,
) -> None:
    """Ask a running sidecar real queries, and say in words what is wrong with its reranking.

    Ends with status 1 if anything is.
    """
    asking = [*(query or []), *(_lines(queries) if queries else [])]
    if not asking:
        stop("name real queries of the index by --query or --queries")
    import grpc

    from sidecar.diagnosis import problems
    from sidecar.v1 import rerank_pb2 as pb

    console = Console(highlight=False, markup=False, emoji=False)
    with client_of(target, tls=tls, ca=tls_ca, cert=tls_cert, key=tls_key, name=tls_name) as client:
        try:
            explained = client.policies.Explain(
                pb.ExplainRequest(connector=connector, index=index, options=pb.Options(policy=policy)),
                timeout=_TIMEOUT_S,
                metadata=client.metadata(engine_authorization()),
            )
            console.print(f"policy: {explained.policy.name or 'none'} ({explained.why})")
            asked = [_asked(client, index, one, field or ["*"], size, connector, policy) for one in asking]
            status = (
                client.policies.Status(
                    pb.StatusRequest(policy=explained.policy.name), timeout=_TIMEOUT_S, metadata=client.metadata()
                ).policies
                if explained.policy.name
                else []
            )
        except grpc.RpcError as error:
            stop(in_words(error))
    settings: dict[str, Any] = json.loads(explained.policy.settings) if explained.policy.name else {}
    found = list(problems(asked, settings, explained.rank_window_size))
    found += [f"of the last {one.replies} replies: {sentence}" for one in status for sentence in one.findings]
    for sentence in found:
        console.print(f"- {sentence}")
    if found:
        raise typer.Exit(FOUND)
    console.print(f"nothing is wrong: {len(asked)} queries reranked")


def _asked(
    client: "BlockingRerankClient", index: str, query: str, fields: list[str], size: int, connector: str, policy: str
) -> "Asked":
    from sidecar.diagnosis import Asked
    from sidecar.v1 import rerank_pb2 as pb

    body = {**multi_match(query, fields), "size": size}
    options = pb.Options(policy=policy)
    original, final = client.search_progressive(
        index,
        query,
        body,
        connector=connector,
        options=options,
        timeout_s=_TIMEOUT_S,
        authorization=engine_authorization(),
    )
    return Asked(original, final, size)


def _lines(file: Path) -> list[str]:
    try:
        return [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        stop(f"{file} cannot be read: {error}")
