"""What the commands share: reading the configuration file, and ending with a message."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.progress import Progress

from sidecar.configuration import ConfigurationError, load
from sidecar.settings import Settings

MISTAKE = 2
"""Exit status of a mistake in the command line or the file, the same as typer's for wrong options."""

ConfigurationFile = Annotated[Path, typer.Argument(metavar="FILE", help="Configuration file (YAML).")]


def settings_of(file: Path) -> Settings:
    """Return the settings in the file; if it has faults, ends the command with all of them on stderr."""
    try:
        return load(file)
    except ConfigurationError as error:
        stop(str(error))


def connector_of(settings: Settings, name: str | None) -> str | None:
    """Return ``name``, else the only connector, else None; ends the command if ``name`` is not configured."""
    names = list(settings.connectors)
    if name is not None and name not in names:
        stop(f"there is no connector {name!r}; the connectors are: {', '.join(names) or 'none'}")
    return names[0] if name is None and len(names) == 1 else name


def multi_match(query: str, fields: Sequence[str]) -> dict[str, Any]:
    """Return a search body that matches a query in these fields; the best field scores a hit."""
    return {"query": {"multi_match": {"query": query, "fields": list(fields)}}}


@contextmanager
def progress_bar(name: str, steps: int) -> Iterator[Callable[[], None]]:
    """Show a progress bar on stderr, and remove it at the end; yields a function that advances it by one step."""
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(name, total=steps)
        yield lambda: progress.advance(task)


def stop(message: str) -> NoReturn:
    """End the command with a message on stderr and the status :data:`MISTAKE`."""
    typer.echo(message, err=True)
    raise typer.Exit(MISTAKE)
