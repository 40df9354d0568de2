"""What the commands share: reading the file, and saying what is wrong."""

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
"""Exit status of a mistake in the command line or the file, as of every wrong option."""

ConfigurationFile = Annotated[Path, typer.Argument(metavar="FILE", help="Configuration file (YAML).")]


def settings_of(file: Path) -> Settings:
    """The settings in the file; ends the command, with every fault on stderr, if there are any."""
    try:
        return load(file)
    except ConfigurationError as error:
        stop(str(error))


def connector_of(settings: Settings, name: str | None) -> str | None:
    """The connector a request means, None where it must say; ends the command if it is not configured."""
    names = list(settings.connectors)
    if name is not None and name not in names:
        stop(f"there is no connector {name!r}; the connectors are: {', '.join(names) or 'none'}")
    return names[0] if name is None and len(names) == 1 else name


def multi_match(query: str, fields: Sequence[str]) -> dict[str, Any]:
    """A search body that matches a query in these fields, best field first."""
    return {"query": {"multi_match": {"query": query, "fields": list(fields)}}}


@contextmanager
def progress_bar(name: str, steps: int) -> Iterator[Callable[[], None]]:
    """A progress bar on stderr, gone when it is done; yields what advances it by one step."""
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(name, total=steps)
        yield lambda: progress.advance(task)


def stop(message: str) -> NoReturn:
    """End the command because of the user's mistake."""
    typer.echo(message, err=True)
    raise typer.Exit(MISTAKE)
