"""The model card that lies beside a fine-tuned checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_LICENCES = ("NOTICE.txt", "LICENSE", "LICENSE.txt", "LICENCE")


def write(
    out: Path,
    *,
    command: str,
    data: Sequence[Path],
    base: Path | None,
    facts: Mapping[str, Any],
    results: Mapping[str, float],
    queries: int,
) -> Path:
    """Write ``MODEL_CARD.md`` into ``out``, copy licences and notices of data and base there; return the card's path.

    ``base`` is the folder of the checkpoint that training began with, None if it is not a local one.
    """
    file = out / "MODEL_CARD.md"
    sources = {f"data {folder.name}": folder for folder in data} | ({f"base {base.name}": base} if base else {})
    licences = {name: _passed_on(name.replace(" ", "-"), folder, out) for name, folder in sources.items()}
    lines = _lines(command, licences, facts, results, queries)
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def _passed_on(prefix: str, folder: Path, out: Path) -> list[str]:
    """Copy the licences and notices in ``folder``, those that it has of others too; their names in ``out``."""
    found = [file for file in sorted(folder.iterdir()) if file.is_file() and file.name.endswith(_LICENCES)]
    for file in found:
        (out / f"{prefix}-{file.name}").write_bytes(file.read_bytes())
    return [f"{prefix}-{file.name}" for file in found]


def _lines(
    command: str,
    licences: Mapping[str, Sequence[str]],
    facts: Mapping[str, Any],
    results: Mapping[str, float],
    queries: int,
) -> list[str]:
    data = [f"- {name}: {', '.join(files) or 'no licence file lies beside it'}" for name, files in licences.items()]
    return [
        "# A cross-encoder",
        "",
        "Scores how well a passage answers a query: `[CLS] query [SEP] passage [SEP]` to one raw logit.",
        "",
        "## Command",
        "",
        f"    {command}",
        "",
        "## Data and licences",
        "",
        *data,
        "",
        "## The run",
        "",
        *(f"- {name}: {value}" for name, value in facts.items()),
        "",
        "## Results",
        "",
        f"nDCG@10 of the engine's best hits in another order, {queries} queries that were not trained on.",
        "",
        "| order | nDCG@10 |",
        "|---|---|",
        *(f"| {name} | {value:.3f} |" for name, value in results.items()),
    ]
