"""Relevance data in BEIR form: `corpus.jsonl`, `queries.jsonl` and `qrels/<split>.tsv` in one folder.

All faulty lines are found before anything is refused; each kind is reported once, with its first line and a count:

    DataError: qrels/train.tsv:7: document 'd9' is not in corpus.jsonl (12 such lines)
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_HIGHEST_GRADE = 1000
"""Highest grade accepted, as in :mod:`sidecar.evaluation.judgments`: measures count documents by grade, in memory."""
_MOST_DIGITS = 9


class DataError(ValueError):
    """A collection cannot be used as it is; the message has a line for each kind of fault.

    ``lines`` is how many lines to leave out to make it usable; 0: that would not help.
    """

    def __init__(self, message: str, lines: int = 0) -> None:
        super().__init__(message)
        self.lines = lines


@dataclass
class Faults:
    """What is wrong with the files of a collection. A line with a fault is left out of it."""

    _kinds: dict[tuple[Path, str], list[str]] = field(default_factory=dict)
    lines: int = 0
    """How many lines were left out."""

    def add(self, file: Path, line: int, kind: str, problem: str) -> None:
        """Add a line; faults of one ``kind`` in one file are reported together."""
        self._kinds.setdefault((file, kind), []).append(f"{file}:{line}: {problem}")
        self.lines += 1

    def __str__(self) -> str:
        """A line for each kind."""
        return "\n".join(
            places[0] + (f" ({len(places)} such lines)" if len(places) > 1 else "") for places in self._kinds.values()
        )


@dataclass(frozen=True)
class Document:
    """One document: `title` may be empty, `text` may be empty when the title is not; `extra` is its metadata."""

    title: str
    text: str
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def full_text(self) -> str:
        """Title and text in one string, joined by one space."""
        return f"{self.title} {self.text}".strip()


@dataclass(frozen=True)
class Collection:
    """Documents, queries and judgments of one set; `qrels[query_id][doc_id]` is a grade of 0 or more.

    `answers[query_id]` are strings that occur in a relevant document (question answering sets only).
    """

    name: str
    documents: dict[str, Document]
    queries: dict[str, str]
    qrels: dict[str, dict[str, int]]
    answers: dict[str, tuple[str, ...]]
    faults: Faults = field(default_factory=Faults)


def load_collection(folder: Path, split: str, tolerant: bool = False) -> Collection:
    """Load `folder` and the judgments of `qrels/<split>.tsv`.

    A fault is a line that is no JSON object or lacks a key, a repeated id (the first one counts), a document or query
    without any text, a judgment of an unknown id, a grade that is not a whole number of 0 to 1000, or another grade for
    the same query and document (the first one counts). `tolerant` leaves such lines out and lists them in `faults`, but
    keeps documents without text.

    Raises DataError for any fault unless `tolerant`, and always for a missing file or when no judgment is above 0.
    """
    faults = Faults()
    documents = _load_documents(folder / "corpus.jsonl", faults, tolerant)
    queries, answers = _load_queries(folder / "queries.jsonl", faults)
    qrels = _load_qrels(folder / "qrels" / f"{split}.tsv", documents, queries, faults)
    if faults.lines and not tolerant:
        raise DataError(str(faults), faults.lines)
    if not any(grade > 0 for judged in qrels.values() for grade in judged.values()):
        file = folder / "qrels" / f"{split}.tsv"
        raise DataError(f"{file}: no judgment is above 0: there is nothing to learn from")
    return Collection(folder.name, documents, queries, qrels, answers, faults)


def positives(collection: Collection, query_id: str) -> list[str]:
    """Ids of the documents judged above 0 for `query_id`, the best grade first."""
    judged = collection.qrels.get(query_id, {})
    return sorted((doc for doc, grade in judged.items() if grade > 0), key=lambda doc: -judged[doc])


def _load_documents(file: Path, faults: Faults, tolerant: bool) -> dict[str, Document]:
    documents: dict[str, Document] = {}
    for line, row in _json_lines(file, ("_id", "text"), faults):
        name = str(row["_id"])
        title, text = (str(row.get(key) or "").strip() for key in ("title", "text"))
        document = Document(title, text, row.get("metadata") or {})
        if name in documents:
            faults.add(file, line, "repeated", f"document id {name!r} occurs twice")
        elif not document.full_text and not tolerant:
            faults.add(file, line, "empty", f"document {name!r} has neither title nor text")
        else:
            documents[name] = document
    return documents


def _load_queries(file: Path, faults: Faults) -> tuple[dict[str, str], dict[str, tuple[str, ...]]]:
    queries: dict[str, str] = {}
    answers: dict[str, tuple[str, ...]] = {}
    for line, row in _json_lines(file, ("_id", "text"), faults):
        name, text = str(row["_id"]), str(row["text"] or "").strip()
        if not text:
            faults.add(file, line, "empty", f"query {name!r} has no text")
        elif name in queries:
            faults.add(file, line, "repeated", f"query id {name!r} occurs twice")
        else:
            queries[name] = text
            if found := (row.get("metadata") or {}).get("answers"):
                answers[name] = tuple(str(answer) for answer in found)
    return queries, answers


def _load_qrels(
    file: Path, documents: dict[str, Document], queries: dict[str, str], faults: Faults
) -> dict[str, dict[str, int]]:
    qrels: dict[str, dict[str, int]] = {}
    for line, raw in _lines(file):
        if line == 1 and raw.split("\t")[0] == "query-id":
            continue
        fields = raw.split("\t")
        if len(fields) != 3:
            faults.add(file, line, "fields", f"expected 3 fields separated by tabs, found {len(fields)}")
            continue
        query_id, doc_id, grade = fields
        if not grade.isdecimal() or len(grade) > _MOST_DIGITS or int(grade) > _HIGHEST_GRADE:
            faults.add(file, line, "grade", f"grade {grade!r} is not a whole number of 0 to {_HIGHEST_GRADE}")
        elif query_id not in queries:
            faults.add(file, line, "query", f"query {query_id!r} is not in queries.jsonl")
        elif doc_id not in documents:
            faults.add(file, line, "document", f"document {doc_id!r} is not in corpus.jsonl")
        elif qrels.setdefault(query_id, {}).setdefault(doc_id, int(grade)) != int(grade):
            faults.add(file, line, "conflict", f"document {doc_id!r} has two grades for query {query_id!r}")
    return qrels


def _json_lines(file: Path, keys: tuple[str, ...], faults: Faults) -> Iterator[tuple[int, dict[str, Any]]]:
    for line, raw in _lines(file):
        try:
            row = json.loads(raw)
        except json.JSONDecodeError as error:
            faults.add(file, line, "json", f"not JSON ({error.msg})")
            continue
        if not isinstance(row, dict):
            faults.add(file, line, "object", f"expected an object, found {type(row).__name__}")
        elif missing := [key for key in keys if key not in row]:
            faults.add(file, line, f"without {missing}", f"missing {', '.join(missing)}")
        else:
            yield line, row


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    if not file.is_file():
        raise DataError(f"{file}: no such file")
    with file.open(encoding="utf-8") as stream:
        try:
            for line, raw in enumerate(stream, start=1):
                if raw.strip():
                    yield line, raw.rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise DataError(f"{file}: is not UTF-8 text ({error.reason})") from error
