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
    sources = [*data, *([base] if base else [])]
    licences = {folder: [name for name in _LICENCES if (folder / name).is_file()] for folder in sources}
    for folder, names in licences.items():
        for name in names:
            (out / f"{folder.name}-{name}").write_bytes((folder / name).read_bytes())
    lines = _lines(command, licences, facts, results, queries)
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def _lines(
    command: str,
    licences: Mapping[Path, Sequence[str]],
    facts: Mapping[str, Any],
    results: Mapping[str, float],
    queries: int,
) -> list[str]:
    data = [
        f"- {folder.name}: {', '.join(f'{folder.name}-{name}' for name in names) or 'no licence file lies beside it'}"
        for folder, names in licences.items()
    ]
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
