"""What the commands share: reading the file, and saying what is wrong."""

from pathlib import Path
from typing import Annotated, NoReturn

import typer

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


def stop(message: str) -> NoReturn:
    """End the command because of the user's mistake."""
    typer.echo(message, err=True)
    raise typer.Exit(MISTAKE)
