"""`rerank-sidecar explain`."""

import json
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from sidecar.cli.terminal import ConfigurationFile, connector_of, settings_of, stop
from sidecar.errors import InvalidRequest
from sidecar.index_names import is_allowed
from sidecar.policy import Plan, plan
from sidecar.resolution import Resolver
from sidecar.settings import PolicySettings, Settings

_ASKED = (
    "This is by the name alone: a running sidecar asks the engine what an alias, pattern or data stream stands for, "
    "and takes the policy of that (PolicyService.Explain tells it)."
)


def explain(
    file: ConfigurationFile,
    index: Annotated[str, typer.Option(help="Index name, pattern or comma list, as a request would name it.")],
    connector: Annotated[str | None, typer.Option(help="Connector name; default: the only one.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show which policy an index gets.

    With the reason, the plan of a request, and what the sidecar changes in a search's body.
    """
    settings = settings_of(file)
    try:
        answer = explanation(settings, connector_of(settings, connector), index)
    except InvalidRequest as error:
        stop(str(error))
    if as_json:
        typer.echo(json.dumps(answer, indent=2))
    else:
        _print(answer)


def explanation(settings: Settings, connector: str | None, index: str) -> dict[str, Any]:
    """Return what `--json` prints. ``plan`` is None if there is no policy.

    ``body`` holds the changes to a search's body, None if there are none. ``refused``: an `on_conflict` makes such a
    call fail. ``asks_engine``: a running sidecar would ask the engine what the name stands for, and may then choose
    another policy.

    Raises:
        InvalidRequest: the name is too long.
    """
    resolver = Resolver(settings)
    found = resolver.choose(connector, index)
    chosen = plan(settings, found.policy_name) if found.policy_name is not None else None
    patterns = settings.connectors[connector].allow_indices if connector is not None else ("*",)
    return {
        "index": index,
        "connector": connector,
        "allowed": is_allowed(patterns, index),
        "policy": found.policy_name,
        "why": found.why,
        "refused": found.refused,
        "asks_engine": resolver.must_ask(connector, index, None),
        "plan": _rows(chosen, settings.policies[chosen.policy]) if chosen else None,
        "body": _changes(chosen) if chosen and chosen.enabled else None,
    }


def _rows(chosen: Plan, policy: PolicySettings) -> dict[str, Any]:
    return {
        "enabled": chosen.enabled,
        "mode": policy.mode,
        "percent": policy.percent,
        "model": chosen.model,
        "fields": [field.name for field in chosen.text.fields],
        "sources": list(chosen.text.sources),
        "passages": chosen.text.passages.model_dump() if chosen.text.passages else None,
        "nested": chosen.text.nested.model_dump() if chosen.text.nested else None,
        "mean_of_top": chosen.text.mean_of_top,
        "rank_window_size": chosen.rank_window_size,
        "min_rank_window_size": chosen.min_rank_window_size,
        "budget_ms": chosen.budget_ms,
        "min_score": chosen.min_score,
        "fusion": chosen.fusion.model_dump(),
        "cosine": chosen.cosine.model_dump() if chosen.cosine else None,
        "languages": "any" if chosen.languages is None else list(chosen.languages),
        "order_cache_s": chosen.order_cache_s,
        "engine_timeout": chosen.engine_timeout,
        "limits": chosen.limits.model_dump(),
        "version": chosen.version,
    }


def _changes(chosen: Plan) -> dict[str, str]:
    """Return how the app's body is changed while its `from` is inside the window; the rest stays as it is."""
    window = chosen.rank_window_size
    timeout = {"timeout": "what is left for the search, unless the app says one"} if chosen.engine_timeout else {}
    return {
        "from": "0",
        "size": f"max({window}, from + size)",
        "when": f"from < {window}, and no more hits than a `rescore` orders",
        "what depends on size": "`k` of a kNN search and a retriever's `rank_window_size` are written out",
        **timeout,
        "everything else": "as the app sent it",
    }


def _print(answer: dict[str, Any]) -> None:
    console = Console(markup=False, highlight=False, emoji=False)
    console.print(answer["why"], soft_wrap=True)
    if answer["asks_engine"]:
        console.print(_ASKED, soft_wrap=True)
    if not answer["allowed"]:
        console.print(f"The connector's allow_indices refuse {answer['index']!r} (PERMISSION_DENIED).", soft_wrap=True)
    if answer["refused"]:
        console.print("The call is refused (INVALID_ARGUMENT).")
        return
    if answer["plan"] is None:
        console.print("The engine's order is returned (SKIPPED, NO_POLICY).")
        return
    console.print(_table(f"Plan of policy {answer['policy']}", answer["plan"]))
    if answer["body"] is None:
        console.print(
            "The policy is not enabled: the engine's order is returned (SKIPPED, POLICY_DISABLED).", soft_wrap=True
        )
    else:
        console.print(_table("Changes to the search body", answer["body"]))


def _table(title: str, rows: dict[str, Any]) -> Table:
    table = Table(title=title, title_justify="left", show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(name, _text(value))
    return table


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_text(part)}" for name, part in value.items())
    if isinstance(value, list):
        return ", ".join(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    return "none" if value is None else str(value)
