"""Writes docs/benchmarks.md and its pictures from docs/benchmarks.json, so that no figure drifts from its run.

    python -m tests.bench.document [FOLDER]      FOLDER, default build/bench, holds the JSON of the benches

The results in FOLDER replace those of the same bench and machine in docs/benchmarks.json; others stay.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.bench import goals, machine, plots
from tests.bench.section import FOLDER, cells, headings, in_words, is_number

DOCS = Path("docs")
ORDER = ("throughput", "utilization", "load", "single_call", "outside", "small", "repeated_call", "mixed_load", "soak")
_NAMES = {
    "throughput": "Throughput against others",
    "utilization": "Share of the hardware's rate",
    "load": "Open-loop load",
    "single_call": "One call at a time",
    "outside": "Around the forward",
    "small": "Small parts of a call",
    "repeated_call": "The same call again",
    "mixed_load": "Short and long documents together",
    "soak": "Memory",
}
_HEAD = """# Benchmarks

Generated from [benchmarks.json](benchmarks.json) by `make bench-docs`; do not edit. `make bench` runs all but the last
one on your machine, `make bench-gpu` in under 8 minutes those that a GPU makes a difference to, `make soak` the last
one. Each is a command of its own, `python -m tests.bench.NAME`, and writes `build/bench/NAME.json`. Times are
wall-clock times; what a table compares was measured in the same run, by turns. Sidecar and rivals use the bundled
model, 22.7 million parameters in the shape of MiniLM-L6, where nothing else is said. Each table names its machine and
its commit: a machine that was not at hand since keeps the figures of older code.
"""
Kept = Mapping[str, Any]


def merged(known: Sequence[Kept], new: Sequence[Kept]) -> list[Kept]:
    """All results, one for each bench and machine, the new ones over the known; in the order of the document."""
    found = {(kept["name"], kept["machine"]["slug"]): kept for kept in (*known, *new)}
    return [found[key] for key in sorted(found, key=lambda key: (ORDER.index(key[0]), key[1]))]


def markdown(results: Sequence[Kept]) -> str:
    """The text of docs/benchmarks.md."""
    parts = [_HEAD, "## Figures to reach\n", f"{_table(goals.reached(results))}\n", *_meaning([goals.MEANING])]
    for name in ORDER:
        ours = [kept for kept in results if kept["name"] == name]
        if ours:
            parts += [
                f"## {_NAMES[name]}\n",
                *map(_on_one_machine, ours),
                *_meaning([kept["meaning"] for kept in ours]),
            ]
    return "\n".join(parts)


def _meaning(said: Sequence[Mapping[str, str]]) -> list[str]:
    """Lines that explain the columns of one or more tables; of a column's explanations the last one counts."""
    meaning = {key: text for one in said for key, text in one.items()}
    return ["What the columns say:\n", *(f"- `{in_words(key)}`: {text}" for key, text in meaning.items()), ""]


def _on_one_machine(kept: Kept) -> str:
    where = f"{machine.in_words(kept['machine'])}; {_versions(kept['machine'])}"
    lines = [
        f"### {kept['machine']['gpu'] or kept['machine']['processor']}\n",
        f"{kept['title']}.\n",
        f"`{kept['command']}` at commit `{kept['commit']}`, {kept['took_s']} s, on {where}.\n",
    ]
    lines += [f"{_table(rows)}\n" for rows in (kept["rows"], kept["details"]) if rows]
    lines += [f"{note}\n" for note in kept["notes"]]
    if kept["name"] in plots.PLOTS:
        lines.append(f"![{kept['title'].partition(':')[0]}]({plots.file_name(kept)})\n")
    return "\n".join(lines)


def _versions(where: Kept) -> str:
    packages = ", ".join(f"{name} {version}" for name, version in where["packages"].items())
    return f"Python {where['python']}, {packages}"


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    keys = headings(rows)
    lines = [
        "| " + " | ".join(map(in_words, keys)) + " |",
        "|" + "|".join(" ---: " if is_number(rows, key) else " --- " for key in keys) + "|",
    ]
    return "\n".join([*lines, *("| " + " | ".join(cells(row, keys)) + " |" for row in rows)])


def publish(folder: Path, docs: Path) -> list[Kept]:
    """Merge the results of a folder into the documents (JSON, Markdown, pictures), and return all results.

    Raises:
        FileNotFoundError: the folder holds no result.
    """
    new = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    if not new:
        raise FileNotFoundError(f"no results in {folder}: run `make bench` first")
    file = docs / "benchmarks.json"
    results = merged(json.loads(file.read_text()) if file.is_file() else [], new)
    text = markdown(results)
    file.write_text(json.dumps(results, indent=1, allow_nan=False) + "\n")
    (docs / "benchmarks.md").write_text(text)
    for kept in results:
        plots.draw(kept, docs)
    return results


def main() -> None:
    """See the module."""
    try:
        results = publish(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER, DOCS)
    except FileNotFoundError as error:
        sys.exit(str(error))
    sys.stdout.write(f"docs/benchmarks.md: {len(results)} results\n")


if __name__ == "__main__":
    main()
