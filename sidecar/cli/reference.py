"""`rerank-sidecar settings`: every setting, from the descriptions in `sidecar.settings`.

docs/settings.md is its Markdown output.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from rich.console import Console
from rich.table import Table

from sidecar.setting_schema import allowed, is_secret, is_section, union_members, unwrap
from sidecar.settings import Settings

_HEADER = ("Key", "Allowed", "Default", "Meaning")
_WORDS = {str: "text", int: "whole number", float: "number", Path: "path"}


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of the reference; everything as text."""

    key: str
    allowed: str
    default: str
    meaning: str


def settings(
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown, as in docs/settings.md.")] = False,
) -> None:
    """List every setting with its allowed values, default and meaning."""
    if markdown:
        typer.echo(as_markdown(), nl=False)
        return
    console = Console(markup=False, highlight=False, emoji=False)
    for path, section in sections():
        table = Table(*_HEADER, title=f"{path or 'top level'}: {_promise(section)}", title_justify="left")
        for row in rows(section):
            table.add_row(row.key, row.allowed, row.default, row.meaning)
        console.print(table)


def as_markdown() -> str:
    """The reference as a Markdown page."""
    lines = [
        "# Settings",
        "",
        "Written by `rerank-sidecar settings --markdown` from `sidecar/settings.py`; do not edit.",
        "`<name>` stands for a name of your choice and `[]` for each entry of a list.",
        "A key that is not listed is an error. Relative paths start at the configuration file's folder.",
    ]
    for path, section in sections():
        lines += ["", f"## {f'`{path}`' if path else 'Top level'}", "", _promise(section), ""]
        lines += [_line(_HEADER), "|---|---|---|---|"]
        lines += [_line((f"`{row.key}`", row.allowed, row.default, row.meaning)) for row in rows(section)]
    return "\n".join(lines) + "\n"


def sections() -> list[tuple[str, type[BaseModel]]]:
    """Return every section with its path, parents first; one used in several places is listed at the first."""
    found: dict[type[BaseModel], str] = {}
    for path, section in _walk(Settings, ""):
        found.setdefault(section, path)
    return [(path, section) for section, path in found.items()]


def rows(section: type[BaseModel]) -> list[Setting]:
    """The settings of one section: `type`, its own, then those it shares with others."""
    names = sorted(section.model_fields, key=lambda name: (name != "type", name not in section.__annotations__))
    return [_setting(name, section.model_fields[name]) for name in names]


def _walk(annotation: Any, path: str) -> Iterator[tuple[str, type[BaseModel]]]:
    annotation = unwrap(annotation)
    if is_section(annotation):
        yield path + _type_of(annotation), annotation
        for name, field in annotation.model_fields.items():
            yield from _walk(field.annotation, f"{path}.{name}" if path else name)
    elif get_origin(annotation) is dict:
        yield from _walk(get_args(annotation)[1], f"{path}.<name>")
    elif get_origin(annotation) is tuple:
        yield from _walk(get_args(annotation)[0], f"{path}[]")
    for member in union_members(annotation).values():
        yield from _walk(member, path)


def _type_of(section: type[BaseModel]) -> str:
    field = section.model_fields.get("type")
    return f" (type: {allowed(field.annotation, field)})" if field else ""


def _setting(name: str, field: FieldInfo) -> Setting:
    annotation = unwrap(field.annotation)
    kind = _kind(annotation) if is_secret(annotation) else allowed(annotation, field) or _kind(annotation)
    if type(None) in get_args(field.annotation):
        kind += ", null"
    default = "required" if field.is_required() else _default(field.default)
    return Setting(name, kind, default, field.description or "")


def _kind(annotation: Any) -> str:
    if is_secret(annotation):
        return "text, `{env: NAME}`, `{file: PATH}`"
    if is_section(annotation):
        return "section"
    if get_origin(annotation) is dict:
        return "name: " + _kind(unwrap(get_args(annotation)[1]))
    if get_origin(annotation) is tuple:
        return f"list of {_kind(unwrap(get_args(annotation)[0]))}s"
    return _WORDS.get(annotation, "section")


def _default(value: Any) -> str:
    if isinstance(value, BaseModel):
        return "as below"
    if isinstance(value, dict):
        return ", ".join(f"{name}: {_default(part)}" for name, part in value.items()) or "none"
    if isinstance(value, tuple):
        return f"[{', '.join(map(_default, value))}]"
    if isinstance(value, str) and value.strip():
        return f"`{value}`"
    return json.dumps(value)


def _promise(section: type[BaseModel]) -> str:
    return (section.__doc__ or "").strip().splitlines()[0]


def _line(cells: tuple[str, ...]) -> str:
    return f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |"
