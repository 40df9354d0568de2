"""Both orders of a search side by side in a terminal."""

from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sidecar.client import Page
from sidecar.v1 import rerank_pb2 as pb

_TITLE_FIELDS = ("title", "name", "headline", "subject")
_WIDTH = 110
"""Most columns used, however wide the terminal is."""


def show(query: str, original: Page, final: Page, console: Console | None = None, rows: int | None = None) -> None:
    """Print the engine's order beside the final one, with moves, scores and timings; ``rows`` at most (None: all)."""
    console = console or Console()
    title = Text(f"“{query}”", style="bold")
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, expand=True, padding=0)
    table.add_column("#", justify="right", min_width=1)
    table.add_column("engine's order", ratio=1, no_wrap=True)
    table.add_column("score", justify="right", min_width=5)
    table.add_column("sidecar's order", ratio=1, no_wrap=True)
    table.add_column("was", justify="right", min_width=3)
    table.add_column("move", justify="right", min_width=4)
    table.add_column("model", justify="right", min_width=5)
    table.add_column("cos", justify="right", min_width=3)
    for place in range(max(len(original.hits), len(final.hits)))[:rows]:
        table.add_row(str(place), *_original(original, place), *_final(final, place))
    console.print(table, width=min(_WIDTH, console.width))
    console.print(verdict(final.message), highlight=False, markup=False)


def verdict(message: pb.SearchResponse) -> str:
    """Outcome, reason and timings in a line or two."""
    outcome = pb.Outcome.Name(message.outcome).removeprefix("OUTCOME_")
    reason = pb.Reason.Name(message.reason).removeprefix("REASON_")
    times = message.meta.timings
    head = outcome if message.outcome == pb.OUTCOME_RERANKED else f"{outcome} ({reason}: {message.meta.detail})"
    stages = ", ".join(
        f"{name} {getattr(times, f'{name}_ms'):.1f}"
        for name in ("search", "fetch", "tokenize", "queue", "score", "cosine", "total")
    )
    return f"{head}; {message.meta.scored} of {message.meta.candidates} candidates scored; ms: {stages}"


def title_of(hit: dict[str, Any]) -> str:
    """A short name of a hit for people: its title where it has one, else the start of its text, else its id."""
    source = hit.get("_source") or {}
    texts = [source.get(name) for name in _TITLE_FIELDS] + [
        value for value in source.values() if isinstance(value, str)
    ]
    return next((str(text) for text in texts if text), str(hit["_id"]))


def _original(page: Page, place: int) -> tuple[str, str]:
    if place >= len(page.hits):
        return "", ""
    result = page.results[place]
    return title_of(page.hits[place]), f"{result.original_score:.2f}" if result.HasField("original_score") else "-"


def _final(page: Page, place: int) -> tuple[str | Text, str, Text, str, str]:
    if place >= len(page.hits):
        return "", "", Text(), "", ""
    result = page.results[place]
    score = f"{result.relevance_score:+.2f}" if result.HasField("relevance_score") else "-"
    cosine = f"{result.cosine:.2f}" if result.HasField("cosine") else "-"
    return title_of(page.hits[place]), str(result.original_rank), move(result.original_rank - place), score, cosine


def move(places: int) -> Text:
    """How many places a hit moved: up in green, down in red."""
    if places == 0:
        return Text("=", style="dim")
    return Text(f"▲{places}", style="green") if places > 0 else Text(f"▼{-places}", style="red")
