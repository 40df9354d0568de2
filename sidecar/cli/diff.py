"""`rerank-sidecar diff`."""

from pathlib import Path
from typing import Annotated

import typer

from sidecar.changes import Changes, differences
from sidecar.cli.terminal import settings_of
from sidecar.policy import version_of
from sidecar.resolution import Resolver
from sidecar.settings import Settings


def diff(
    old: Annotated[Path, typer.Argument(help="The configuration as it is served.")],
    new: Annotated[Path, typer.Argument(help="The one to come.")],
    index: Annotated[list[str] | None, typer.Option(help="An index to tell of, repeatable.")] = None,
    connector: Annotated[str, typer.Option(help="Connector of the indices; default: the only one.")] = "",
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
    for name in dict.fromkeys([*(index or []), *_matched(before, after)]):
        ends = [_policy_of(settings, connector, name) for settings in (before, after)]
        if ends[0] != ends[1] or name in (index or []):
            typer.echo(f"index {name}: {ends[0]} -> {ends[1]}")


def _matched(*settings: Settings) -> list[str]:
    """Return the `match` patterns of all policies, sorted, as written: an index that fits one has its policy, unless a
    longer pattern fits it too."""
    return sorted({match.index for one in settings for policy in one.policies.values() for match in policy.match})


def _policy_of(settings: Settings, connector: str, index: str) -> str:
    only = next(iter(settings.connectors)) if len(settings.connectors) == 1 else None
    found = Resolver(settings).choose(connector or only, index)
    if found.refused:
        return "refused (on_conflict)"
    name = found.policy_name
    return f"{name} ({version_of(settings, name)})" if name else "not reranked"
