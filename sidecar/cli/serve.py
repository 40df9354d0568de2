"""`rerank-sidecar serve`."""

import asyncio
import ipaddress
import os
import signal
import sys
from functools import partial
from typing import Annotated

import typer
from pydantic import ValidationError

from sidecar.cli.terminal import ConfigurationFile, settings_of, stop
from sidecar.file_stamp import stamp_of
from sidecar.settings import ServerSettings, Settings


def serve(
    file: ConfigurationFile,
    address: Annotated[str, typer.Option(help="Listen here instead of `server.address`.")] = "",
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Serve in plain text on an address that others can reach.")
    ] = False,
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "info",
) -> None:
    """Serve until SIGTERM or Ctrl-C. Logs are JSON lines on stderr, coloured text in a terminal."""
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until the handler that reloads is set
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # anyone who connects could fill the log with its lines
    adjust, seen = partial(_listening_on, address=address), stamp_of(file)
    settings = adjust(settings_of(file))
    if not (insecure or settings.server.tls or is_loopback(settings.server.address)):
        stop(
            f"{settings.server.address} can be reached from other machines, and there is no `server.tls`: queries and "
            "texts would travel in plain text, and anyone could search. Listen on 127.0.0.1, set `server.tls`, or say "
            "--insecure"
        )

    from sidecar import logs
    from sidecar.app import App
    from sidecar.extras import StartError
    from sidecar.wiring import WiringError

    if log_level not in ("debug", "info", "warning", "error"):
        stop(f"--log-level is {log_level!r}; allowed: debug, info, warning, error")
    logs.configure(log_level, pretty=sys.stderr.isatty())

    async def run() -> None:
        await App(settings, file=file, seen=seen, adjust=adjust).run()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)  # a forward pass that hangs in its thread must not keep the process

    try:
        asyncio.run(run())
    except (StartError, WiringError) as error:
        stop(str(error))


def is_loopback(address: str) -> bool:
    """Whether only this machine can reach a `host:port`."""
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or address.startswith("unix:")


def _listening_on(settings: Settings, address: str) -> Settings:
    """Return the settings with the address of the command line, if it is not empty."""
    if not address:
        return settings
    try:
        server = ServerSettings.model_validate({**settings.server.model_dump(), "address": address})
    except ValidationError as error:
        stop(f"--address is {address!r}: {error.errors()[0]['msg'].removeprefix('Value error, ')}")
    return settings.model_copy(update={"server": server})
