"""The demo's documents, queries and judgments, in BEIR form."""

import csv
import json
from dataclasses import dataclass
from importlib import resources
from typing import Any

_FOLDER = resources.files("sidecar") / "demo"


@dataclass(frozen=True, slots=True)
class Corpus:
    """``documents`` and ``queries`` by id; ``judgments`` are grades of 0 to 2, by query id and document id."""

    documents: dict[str, dict[str, Any]]
    queries: dict[str, str]
    judgments: dict[str, dict[str, int]]


def load() -> Corpus:
    """Read the corpus that ships with the package."""
    documents = {row.pop("_id"): row for row in _rows("corpus.jsonl")}
    queries = {row["_id"]: row["text"] for row in _rows("queries.jsonl")}
    judgments: dict[str, dict[str, int]] = {}
    with (_FOLDER / "qrels.tsv").open(encoding="utf-8") as lines:
        for row in csv.DictReader(lines, delimiter="\t"):
            judgments.setdefault(row["query-id"], {})[row["corpus-id"]] = int(row["score"])
    return Corpus(documents, queries, judgments)


def _rows(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (_FOLDER / name).read_text(encoding="utf-8").splitlines()]
