"""`rerank-sidecar diff`."""

from pathlib import Path
from typing import Annotated

import typer

from sidecar.changes import Changes, differences
from sidecar.cli.terminal import settings_of
from sidecar.policy import version_of
from sidecar.resolution import Resolver


def diff(
    old: Annotated[Path, typer.Argument(help="The configuration as it is served.")],
    new: Annotated[Path, typer.Argument(help="The one to come.")],
    index: Annotated[list[str] | None, typer.Option(help="An index to tell of, repeatable.")] = None,
) -> None:
    """Show what would change if a running sidecar took another configuration over: values, and policies by index."""
    before, after = settings_of(old), settings_of(new)
    lines = list(differences(before, after))
    for line in lines or ["nothing differs"]:
        typer.echo(line)
    changes = Changes.of(before, after)
    for what, names in (
        ("loads model", changes.load),
        ("drops model", changes.drop),
        ("connects anew", changes.build),
        ("closes", changes.close),
        ("needs a restart", changes.needs_restart),
    ):
        for name in names:
            typer.echo(f"{what}: {name}")
    patterns = {match.index for one in (before, after) for policy in one.policies.values() for match in policy.match}
    for name in dict.fromkeys([*(index or []), *sorted(pattern for pattern in patterns if "*" not in pattern)]):
        ends = []
        for settings in (before, after):
            chosen = Resolver(settings).resolve(None, name, None).policy_name
            ends.append(f"{chosen} ({version_of(settings, chosen)})" if chosen else "not reranked")
        if ends[0] != ends[1] or name in (index or []):
            typer.echo(f"index {name}: {ends[0]} -> {ends[1]}")
