"""`rerank-sidecar check`."""

import asyncio
from typing import Annotated

import typer

from connectors.base import Connector
from connectors.errors import ConnectorError, NotAuthenticated, NotPermitted
from connectors.json_lines import read_documents
from connectors.products import untested_version
from sidecar.cli.terminal import ConfigurationFile, settings_of, stop
from sidecar.connector_settings import MemorySettings
from sidecar.settings import Settings

_ANSWER_WITHIN_S = 10.0


def check(
    file: ConfigurationFile,
    engines: Annotated[
        bool, typer.Option("--engines", help="Ask every engine for its version too; status 1 if one does not fit.")
    ] = False,
) -> None:
    """Validate a configuration file.

    Prints a summary, or on stderr every fault with its line (exit status 2).
    """
    from sidecar.advice import without_effect

    settings = settings_of(file)
    for name, connector in settings.connectors.items():
        if isinstance(connector, MemorySettings):
            _check_documents(name, connector)
    _check_access(settings)
    counts = (
        _count(len(settings.connectors), "connector"),
        _count(len(settings.loaded_models), "model"),
        _count(len(settings.policies), "policy", "policies"),
    )
    typer.echo(f"{file} is valid: {', '.join(counts)}")
    for advice in without_effect(settings):
        typer.echo(f"note: {advice}", err=True)
    if engines and not asyncio.run(_check_engines(settings)):
        raise typer.Exit(1)


def _check_access(settings: Settings) -> None:
    """End the command if keys, certificates or revocation lists would keep `serve` from starting."""
    from sidecar import extras
    from sidecar.certificates import Certificates
    from sidecar.metrics import Metrics

    metrics = Metrics()
    try:
        extras.authentication(settings.server.auth, metrics)
        extras.revoked(settings.server.tls, metrics)
        if settings.server.tls:
            Certificates(settings.server.tls, metrics)
    except extras.StartError as error:
        stop(str(error))
    except (ValueError, OSError) as error:
        stop(f"server.tls: {error}")


async def _check_engines(settings: Settings) -> bool:
    """Print one line for each engine, problems on stderr; return whether there were no problems."""
    from sidecar.metrics import Metrics
    from sidecar.wiring import WiringError, connectors_of

    try:
        connectors = connectors_of(settings, Metrics())
    except WiringError as error:
        stop(str(error))
    forwarding = {name for name, one in settings.connectors.items() if getattr(one, "forward_authorization", False)}
    asked = (_problem_of(one, asks_users=name in forwarding) for name, one in connectors.items())
    problems = await asyncio.gather(*asked)
    return not any(problems)


async def _problem_of(connector: Connector, *, asks_users: bool) -> str:
    """Print what the engine answers, and return the problem; empty if there is none.

    ``asks_users``: searches carry the end users' own credentials, so a refusal of the connector's is printed but
    is not a problem.
    """
    try:
        info = await connector.info(timeout_s=_ANSWER_WITHIN_S)
    except (NotAuthenticated, NotPermitted) as error:
        typer.echo(f"connectors.{connector.name}: {_cause(connector, error)}", err=True)
        return "" if asks_users else str(error)
    except ConnectorError as error:
        typer.echo(f"connectors.{connector.name}: {_cause(connector, error)}", err=True)
        return str(error)
    finally:
        await connector.close()
    advice = untested_version(info)
    typer.echo(f"connectors.{connector.name}: {advice or f'{info.engine} {info.version}'}")
    return ""


def _cause(connector: Connector, error: ConnectorError) -> str:
    """Return the error without the connector's name, with which the line begins already."""
    return str(error).removeprefix(f"connector {connector.name!r}: ")


def _check_documents(name: str, connector: MemorySettings) -> None:
    for index, path in connector.indices.items():
        try:
            read_documents(path)
        except ValueError as error:
            stop(f"connectors.{name}.indices.{index}: {error}")


def _count(number: int, one: str, many: str | None = None) -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"
