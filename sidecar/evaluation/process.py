"""A sidecar in a process of its own, for as long as an evaluation takes."""

import asyncio
import multiprocessing
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

from sidecar.settings import Settings

if TYPE_CHECKING:
    from sidecar.app import App

START_S = 300.0
_STOP_S = 15.0
_LOG_LINES = 5


class NotServing(Exception):
    """The sidecar did not come up; the message says why, with the end of its log."""


@contextmanager
def running(settings: Settings, log: Path) -> Iterator[str]:
    """Run a sidecar that logs to a file, and yield its ``host:port`` once all its models are warm.

    Settings are passed to its process as they are, secrets included, and never written to a file.

    Raises:
        NotServing: it ended, a model failed, or it took longer than :data:`START_S`.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_serve, args=(settings, log, theirs), daemon=True)
    process.start()
    theirs.close()
    try:
        yield f"127.0.0.1:{_port(ours, log)}"
    finally:
        process.terminate()
        process.join(_STOP_S)
        process.kill()
        process.join()


def _port(pipe: Connection, log: Path) -> int:
    try:
        told = pipe.recv() if pipe.poll(START_S) else f"it was not ready after {START_S:.0f} s"
    except EOFError:
        told = "it ended"
    if isinstance(told, int):
        return told
    end = "\n".join(log.read_text(errors="replace").splitlines()[-_LOG_LINES:]) if log.exists() else ""
    raise NotServing(f"the sidecar did not become ready: {told}; the end of its log:\n{end}")


def _serve(settings: Settings, log: Path, pipe: Connection) -> None:
    """Serve until SIGTERM; send the port through the pipe when all models are ready, or a text on what went wrong."""
    from sidecar import logs

    with log.open("a") as sys.stderr:
        os.dup2(sys.stderr.fileno(), 2)  # libraries in C write there as well
        logs.configure()
        try:
            asyncio.run(_run(settings, pipe))
        except Exception as error:  # noqa: BLE001 - reported in words to the process that waits
            pipe.send(f"{type(error).__name__}: {error}")


async def _run(settings: Settings, pipe: Connection) -> None:
    from sidecar.app import App

    app = App(settings)
    await app.run(lambda: pipe.send(_told(app, settings)))


def _told(app: "App", settings: Settings) -> int | str:
    failed = [name for name in settings.loaded_models if not app.models.is_ready(name)]
    return f"model {failed[0]!r} could not be loaded" if failed else app.port
