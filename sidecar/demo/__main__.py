"""`make demo`, or `python -m sidecar.demo [--query "..."]`."""

import statistics
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import grpc
import ir_measures
import typer
from rich.console import Console
from rich.progress import Progress

from sidecar.client import BlockingRerankClient, Page
from sidecar.comparison import show
from sidecar.demo import corpus, stack
from sidecar.v1 import rerank_pb2 as pb

SHOWN = ("q01", "q15", "q24", "q36")
"""Ambiguity, paraphrase, negation, and a plain query that BM25 already answers well."""
_SIZE = 10
_ROWS = 6
"""Rows shown of each page, to be read at a glance; the whole page is measured."""

console = Console()


def demo(query: Annotated[str, typer.Option(help="Ask this instead of the demo's own queries.")] = "") -> None:
    """Search a small corpus through a real engine and a real sidecar, and compare both orders."""
    data = corpus.load()
    try:
        with _running(data) as client:
            if query:
                show(query, *_both(client, query), console)
                return
            for query_id in SHOWN:
                show(data.queries[query_id], *_both(client, data.queries[query_id]), console, _ROWS)
                console.print()
            _evaluate(client, data)
            _show_fallback(client, data.queries[SHOWN[0]])
    except (stack.DemoError, grpc.RpcError) as error:
        sys.exit(f"demo: {error}")


@contextmanager
def _running(data: corpus.Corpus) -> Iterator[BlockingRerankClient]:
    with Progress(console=console, transient=True) as progress:
        indexing = progress.add_task("indexing the corpus", total=len(data.documents))
        with stack.engine(data, lambda: progress.advance(indexing)) as url:
            starting = progress.add_task("starting the sidecar, loading the model", total=None)
            with stack.sidecar(url) as address, BlockingRerankClient(address) as client:
                progress.update(starting, total=1, completed=1)
                progress.stop()
                console.print(f"{len(data.documents)} documents in an OpenSearch-compatible engine at {url}")
                console.print(f"sidecar with the bundled model at {address}\n")
                yield client


def _both(client: BlockingRerankClient, query: str, budget_ms: int | None = None) -> tuple[Page, Page]:
    """Return the engine's page and the final one."""
    match = {"multi_match": {"query": query, "fields": ["title", "text"]}}
    body = {"query": match, "size": _SIZE}
    original, final = client.search_progressive(stack.INDEX, query, body, options=pb.Options(budget_ms=budget_ms))
    return original, final


def _evaluate(client: BlockingRerankClient, data: corpus.Corpus) -> None:
    """Print nDCG@10 and times of both orders over all queries, and the outcomes, so that fallbacks are not hidden."""
    runs: tuple[dict[str, dict[str, float]], dict[str, dict[str, float]]] = {}, {}
    times: list[pb.Timings] = []
    outcomes: Counter[str] = Counter()
    with Progress(console=console, transient=True) as progress:
        for query_id, query in progress.track(data.queries.items(), description="all queries"):
            pages = _both(client, query)
            outcomes[pages[1].outcome] += 1
            times.append(pages[1].message.meta.timings)
            for run, page in zip(runs, pages, strict=True):
                run[query_id] = {hit["_id"]: float(_SIZE - place) for place, hit in enumerate(page.hits)}
    measure = ir_measures.nDCG @ 10
    original, final = (ir_measures.calc_aggregate([measure], data.judgments, run)[measure] for run in runs)
    told = ", ".join(f"{count} {outcome}" for outcome, count in outcomes.items())
    console.print(f"nDCG@10 over {len(data.queries)} queries ({told}):", highlight=False)
    searches, totals = _quantiles([one.search_ms for one in times]), _quantiles([one.total_ms for one in times])
    console.print(
        f"  engine's order   {original:.3f}   {searches}\n  sidecar's order  {final:.3f}   {totals}\n", highlight=False
    )


def _quantiles(milliseconds: list[float]) -> str:
    cuts = statistics.quantiles(milliseconds, n=20, method="inclusive")
    return f"p50 {cuts[9]:5.1f} ms, p95 {cuts[18]:5.1f} ms"


def _show_fallback(client: BlockingRerankClient, query: str) -> None:
    console.print("The same query with a budget of 1 ms: late, so exactly the engine's order, and the reply says so.")
    show(query, *_both(client, query, budget_ms=1), console, _ROWS)


if __name__ == "__main__":
    typer.run(demo)
