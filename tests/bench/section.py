"""One bench's result: what it measured, printed as a table and written as JSON."""

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.bench import machine

Row = Mapping[str, str | int | float | None]
FOLDER = Path("build/bench")


@dataclass(frozen=True)
class Section:
    """The result of one bench.

    ``rows`` are one table, their keys its headings, ``details`` another; ``meaning`` explains each key; ``series`` is
    what a plot is drawn from. All of it is written to the JSON unchanged.
    """

    name: str
    title: str
    rows: Sequence[Row]
    meaning: Mapping[str, str]
    details: Sequence[Row] = ()
    notes: Sequence[str] = ()
    series: Mapping[str, Any] = field(default_factory=dict)


Measure = Callable[[argparse.Namespace], Section]


def run(measure: Measure, describe: str, options: Callable[[argparse.ArgumentParser], None] | None = None) -> None:
    """The command of one bench: read its options, measure, print the table, write build/bench/NAME.json."""
    parser = argparse.ArgumentParser(description=describe.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few rounds, short phases: to try it, not to report")
    if options:
        options(parser)
    chosen = parser.parse_args()
    commit, started = machine.commit(), time.monotonic()
    section = measure(chosen)
    took_s = round(time.monotonic() - started, 1)
    command = f"python -m tests.bench.{section.name} {' '.join(sys.argv[1:])}".strip()
    write(FOLDER, section, command, commit, took_s)


def write(folder: Path, section: Section, command: str, commit: str, took_s: float) -> None:
    """Print one section and keep it as JSON, with the machine and the commit it was measured on."""
    where = machine.describe()
    console = Console(width=None if sys.stdout.isatty() else 180)
    console.print(f"{machine.in_words(where)}; commit {commit}; {took_s} s", style="dim", highlight=False)
    console.print(section.title, style="bold", highlight=False)
    for rows in filter(None, (section.rows, section.details)):
        console.print(table(rows))
    for note in section.notes:
        console.print(f"  {note}", highlight=False)
    folder.mkdir(parents=True, exist_ok=True)
    kept = {"machine": where, "commit": commit, "command": command, "took_s": took_s, **asdict(section)}
    (folder / f"{section.name}.json").write_text(json.dumps(kept, indent=1, allow_nan=False) + "\n")


def table(rows: Sequence[Row]) -> Table:
    """The rows as a table for a terminal."""
    shown = Table()
    for heading in headings(rows):
        shown.add_column(in_words(heading), justify="right" if is_number(rows, heading) else "left")
    for row in rows:
        shown.add_row(*cells(row, headings(rows)))
    return shown


def headings(rows: Sequence[Row]) -> list[str]:
    """All keys of the rows in the order they first appear."""
    return list(dict.fromkeys(key for row in rows for key in row))


def cells(row: Row, keys: Sequence[str]) -> list[str]:
    """The values of a row as text; what is missing is a dash."""
    return [in_figures(row.get(key)) for key in keys]


def is_number(rows: Sequence[Row], key: str) -> bool:
    """Whether no row has text in this column."""
    return not any(isinstance(row.get(key), str) for row in rows)


def in_words(key: str) -> str:
    """A key as a heading.

    >>> in_words("p99_ms"), in_words("of_peak_percent"), in_words("pairs_per_s")
    ('p99 ms', 'of peak %', 'pairs/s')
    """
    return key.replace("_per_s", "/s").replace("_percent", " %").replace("_", " ")


def in_figures(value: str | float | None) -> str:
    """A value as a table shows it: three significant figures or so.

    >>> [in_figures(value) for value in (None, "x", 3, 1234.5, 12.345, 2.0, 0.01234, 2e-6, 0.0)]
    ['-', 'x', '3', '1,234', '12.3', '2.00', '0.012', '2e-06', '0']
    """
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    if isinstance(value, int) or not value:
        return f"{value:,.0f}"
    if abs(value) < 0.001:
        return f"{value:.1g}"
    digits = next((digits for least, digits in ((100, 0), (10, 1), (0.1, 2)) if abs(value) >= least), 3)
    return f"{value:,.{digits}f}"
