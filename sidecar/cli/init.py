"""`rerank-sidecar init`."""

from importlib import resources
from pathlib import Path
from typing import Annotated

import typer

from sidecar.cli.terminal import stop


def init(
    path: Annotated[Path, typer.Argument(help="File to write.")] = Path("rerank-sidecar.yaml"),
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file if it exists.")] = False,
) -> None:
    """Write a commented configuration file to start from."""
    starter = resources.files("sidecar").joinpath("starter.yaml").read_text(encoding="utf-8")
    try:
        with path.open("w" if force else "x", encoding="utf-8") as file:
            file.write(starter)
    except FileExistsError:
        stop(f"{path} exists; --force overwrites it")
    except OSError as error:
        stop(f"{path} cannot be written: {error.strerror}")
    typer.echo(f"wrote {path}; next: rerank-sidecar check {path}, then rerank-sidecar serve {path}")
