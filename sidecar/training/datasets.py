"""Relevance data in BEIR form: `corpus.jsonl`, `queries.jsonl` and `qrels/<split>.tsv` in one folder.

A broken line is reported by file and line, never skipped:

    DataError: qrels/train.tsv:7: document 'd9' is not in corpus.jsonl
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

_T = TypeVar("_T")


class DataError(ValueError):
    """A file of a collection cannot be used as it is; the message names the file and, where there is one, the line."""

    def __init__(self, file: Path, line: int | None, problem: str) -> None:
        """Compose `file:line: problem`; `line` is 1-based, None when the whole file is meant."""
        super().__init__(f"{file}:{line}: {problem}" if line is not None else f"{file}: {problem}")


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


def load_collection(folder: Path, split: str, tolerant: bool = False) -> Collection:
    """Load `folder` and the judgments of `qrels/<split>.tsv`.

    `tolerant` accepts two faults of published sets: of a query id that occurs twice the first is kept, and a document
    without any text stays in.

    Raises DataError for a missing file, a line that is no JSON object or lacks a key, a repeated id, a document or
    query without any text, a judgment of an unknown id, a grade that is no whole number of 0 or more, or no positive.
    """
    documents = _load_documents(folder / "corpus.jsonl", tolerant)
    queries, answers = _load_queries(folder / "queries.jsonl", tolerant)
    qrels = _load_qrels(folder / "qrels" / f"{split}.tsv", documents, queries)
    return Collection(folder.name, documents, queries, qrels, answers)


def positives(collection: Collection, query_id: str) -> list[str]:
    """Ids of the documents judged above 0 for `query_id`, the best grade first."""
    judged = collection.qrels.get(query_id, {})
    return sorted((doc for doc, grade in judged.items() if grade > 0), key=lambda doc: -judged[doc])


def _load_documents(file: Path, tolerant: bool) -> dict[str, Document]:
    documents: dict[str, Document] = {}
    for line, row in _json_lines(file, ("_id", "text")):
        document = Document(str(row.get("title") or "").strip(), str(row["text"]).strip(), row.get("metadata") or {})
        if not document.full_text and not tolerant:
            raise DataError(file, line, f"document {row['_id']!r} has neither title nor text")
        _insert(documents, str(row["_id"]), document, file, line)
    return documents


def _load_queries(file: Path, tolerant: bool) -> tuple[dict[str, str], dict[str, tuple[str, ...]]]:
    queries: dict[str, str] = {}
    answers: dict[str, tuple[str, ...]] = {}
    for line, row in _json_lines(file, ("_id", "text")):
        text = str(row["text"]).strip()
        if not text:
            raise DataError(file, line, f"query {row['_id']!r} has no text")
        if tolerant and str(row["_id"]) in queries:
            continue
        _insert(queries, str(row["_id"]), text, file, line)
        found = (row.get("metadata") or {}).get("answers") or ()
        if found:
            answers[str(row["_id"])] = tuple(str(answer) for answer in found)
    return queries, answers


def _load_qrels(file: Path, documents: dict[str, Document], queries: dict[str, str]) -> dict[str, dict[str, int]]:
    qrels: dict[str, dict[str, int]] = {}
    for line, raw in _lines(file):
        if line == 1 and raw.split("\t")[0] == "query-id":
            continue
        query_id, doc_id, grade = _judgment(raw, file, line)
        if query_id not in queries:
            raise DataError(file, line, f"query {query_id!r} is not in queries.jsonl")
        if doc_id not in documents:
            raise DataError(file, line, f"document {doc_id!r} is not in corpus.jsonl")
        qrels.setdefault(query_id, {})[doc_id] = grade
    if not any(grade > 0 for judged in qrels.values() for grade in judged.values()):
        raise DataError(file, None, "no judgment is above 0: there is nothing to learn from")
    return qrels


def _judgment(raw: str, file: Path, line: int) -> tuple[str, str, int]:
    fields = raw.split("\t")
    if len(fields) != 3:
        raise DataError(file, line, f"expected 3 fields separated by tabs, found {len(fields)}")
    query_id, doc_id, grade = fields
    if not grade.isdecimal():
        raise DataError(file, line, f"grade {grade!r} is not a whole number of 0 or more")
    return query_id, doc_id, int(grade)


def _json_lines(file: Path, keys: tuple[str, ...]) -> Iterator[tuple[int, dict[str, Any]]]:
    for line, raw in _lines(file):
        try:
            row = json.loads(raw)
        except json.JSONDecodeError as error:
            raise DataError(file, line, f"not JSON ({error.msg})") from error
        if not isinstance(row, dict):
            raise DataError(file, line, f"expected an object, found {type(row).__name__}")
        missing = [key for key in keys if key not in row]
        if missing:
            raise DataError(file, line, f"missing {', '.join(missing)}")
        yield line, row


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    if not file.is_file():
        raise DataError(file, None, "no such file")
    with file.open(encoding="utf-8") as stream:
        for line, raw in enumerate(stream, start=1):
            if raw.strip():
                yield line, raw.rstrip("\r\n")


def _insert(table: dict[str, _T], key: str, value: _T, file: Path, line: int) -> None:
    if key in table:
        raise DataError(file, line, f"id {key!r} occurs twice")
    table[key] = value
