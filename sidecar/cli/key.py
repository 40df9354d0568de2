"""`rerank-sidecar key`."""

from pathlib import Path
from typing import Annotated

import typer

from sidecar.api_keys import KeyFault, made
from sidecar.cli.terminal import stop


def key(
    name: Annotated[str, typer.Argument(help="Whose key it is: it stands in the log.")],
    role: Annotated[str, typer.Argument(help="Role, a key of `server.auth.roles`.")],
    file: Annotated[Path | None, typer.Option(help="`keys_file` to add it to; default: the line is printed.")] = None,
) -> None:
    """Make an API key. It is shown once; what is kept is a salted hash. To revoke one, remove its line."""
    try:
        secret, kept = made(name, role)
        before = file.read_text(encoding="utf-8") if file and file.exists() else ""
        if any(line.split(":")[0] == name for line in before.splitlines()):
            stop(f"{file} holds a key of {name!r}: remove its line, or choose another name")
        if file:
            file.touch(0o600)
            file.chmod(0o600)
            with file.open("a", encoding="utf-8") as stream:
                stream.write(("" if before.endswith("\n") or not before else "\n") + kept.line + "\n")
    except (KeyFault, OSError) as error:
        stop(str(error))
    if not file:
        typer.echo(f"line for `keys_file`: {kept.line}")
    typer.echo(f"key, shown only now: {secret}")
