"""`rerank-sidecar check`."""

import typer

from connectors.json_lines import read_documents
from sidecar.cli.terminal import ConfigurationFile, settings_of, stop
from sidecar.settings import MemorySettings


def check(file: ConfigurationFile) -> None:
    """Validate a configuration file.

    Prints a summary, or on stderr every fault with its line (exit status 2).
    """
    settings = settings_of(file)
    for name, connector in settings.connectors.items():
        if isinstance(connector, MemorySettings):
            _check_documents(name, connector)
    counts = (
        _count(len(settings.connectors), "connector"),
        _count(len(settings.models), "model"),
        _count(len(settings.policies), "policy", "policies"),
    )
    typer.echo(f"{file} is valid: {', '.join(counts)}")


def _check_documents(name: str, connector: MemorySettings) -> None:
    for index, path in connector.indices.items():
        try:
            read_documents(path)
        except ValueError as error:
            stop(f"connectors.{name}.indices.{index}: {error}")


def _count(number: int, one: str, many: str | None = None) -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"
