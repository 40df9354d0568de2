"""`rerank-sidecar export`."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from sidecar.cli.terminal import stop
from sidecar.settings import ModelSettings

if TYPE_CHECKING:
    from sidecar.evaluation.quality import Quality

FIGURES = "model_int8.json"
"""Name of the file with the printed figures."""
TITLE = "Differences of scores, and orders of 44 queries over the demo's documents, from float32"


def export(
    checkpoint: Annotated[
        str, typer.Argument(help="`bundled`, a folder, or a hub id of a sequence-classification model.")
    ],
    folder: Annotated[Path, typer.Argument(help="Folder to write: new, or empty.")],
    revision: Annotated[str, typer.Option(help="Branch, tag or commit of a hub id.")] = "",
    label: Annotated[
        int | None, typer.Option(min=0, max=1, help="For a model with two labels: which one means relevant, 0 or 1.")
    ] = None,
    max_length: Annotated[
        int | None, typer.Option(min=16, max=32_768, help="Tokens of a pair at most in what is measured.")
    ] = None,
) -> None:
    """Write a checkpoint with an int8 graph for ONNX Runtime beside its weights, and print what that loses and gains.

    Needs `pip install rerank-sidecar[onnx]`. Then set `checkpoint` to the folder; `backend` chooses what runs.
    """
    settings = _settings(checkpoint, revision or None, label, max_length)

    from sidecar.scoring import export as exporting
    from sidecar.scoring.checkpoint import CheckpointError

    console = Console(highlight=False, emoji=False, markup=False)
    try:
        with exporting.finished(folder) as made, Progress(console=Console(stderr=True), transient=True) as progress:
            writing = progress.add_task("tracing the model, quantising its weights", total=None)
            exporting.write(settings, made)
            progress.update(writing, total=1, completed=1)
            compared = _compared(settings, made, progress)
            (made / FIGURES).write_text(json.dumps({name: asdict(one) for name, one in compared.items()}, indent=2))
    except CheckpointError as error:
        stop(str(error))
    console.print(_table(compared))
    console.print(_sizes(folder))
    console.print(f"wrote {folder}; next: set `checkpoint: {folder}` under `models`")


def _settings(checkpoint: str, revision: str | None, label: int | None, max_length: int | None) -> ModelSettings:
    try:
        return ModelSettings.model_validate(
            {"checkpoint": checkpoint, "revision": revision, "label": label, "max_length": max_length, "device": "cpu"}
        )
    except ValidationError as error:
        fault = error.errors()[0]
        stop(f"{fault['loc'][0]} is {fault['input']!r}: {fault['msg']}")


def _compared(settings: ModelSettings, made: Path, progress: Progress) -> "dict[str, Quality]":
    """Return the quality of the exact model and of the other ways to run it on this CPU, by name."""
    from sidecar.evaluation import quality
    from sidecar.scoring.export import backends

    scorers, queries = backends(settings, made), quality.sample()
    task = progress.add_task("scoring the sample", total=quality.steps(queries, len(scorers)))
    return quality.compare(scorers, queries, lambda: progress.advance(task))


def _table(compared: "Mapping[str, Quality]") -> Table:
    table = Table(title=TITLE, title_justify="left")
    for heading in ("", "largest", "mean", "Spearman", "top 10 kept", "nDCG@10", "ms / 100 pairs"):
        table.add_column(heading, justify="right" if heading else "left")
    for name, one in compared.items():
        ndcg = "-" if one.ndcg_at_10 is None else f"{one.ndcg_at_10:.3f}"
        differences = f"{one.largest_difference:.3f}", f"{one.mean_difference:.3f}"
        orders = f"{one.rank_correlation:.4f}", f"{one.top_10_kept:.3f}", ndcg
        table.add_row(name, *differences, *orders, f"{one.seconds_per_100_pairs * 1e3:.0f}")
    return table


def _sizes(made: Path) -> str:
    files = {"weights": ("*.safetensors", "*.bin"), "int8 graph": ("*.onnx",)}
    bytes_of = {
        name: sum(file.stat().st_size for one in patterns for file in made.glob(one))
        for name, patterns in files.items()
    }
    return ", ".join(f"{name} {size / 1e6:.0f} MB" for name, size in bytes_of.items())
