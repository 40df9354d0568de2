"""`rerank-sidecar check`."""

import typer

from sidecar.cli.terminal import ConfigurationFile, settings_of


def check(file: ConfigurationFile) -> None:
    """Validate a configuration file.

    Prints a summary, or on stderr every fault with its line (exit status 2).
    """
    settings = settings_of(file)
    counts = (
        _count(len(settings.connectors), "connector"),
        _count(len(settings.models), "model"),
        _count(len(settings.policies), "policy", "policies"),
    )
    typer.echo(f"{file} is valid: {', '.join(counts)}")


def _count(number: int, one: str, many: str | None = None) -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"
