"""Queries and graded judgments, read from qrels or from a table of judgments as Quepid exports it.

What cannot be read is reported with its file and line:

    JudgmentError: qrels.tsv:7: grade 'good' is not a number
"""

import csv
import io
import json
import math
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

_ENCODINGS = ("utf-8-sig", "utf-16", "cp1252")
"""Tried in this order; UTF-16 only if the file begins with a byte order mark. The last one decodes almost any bytes."""
_UTF_16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_DELIMITERS = ",;\t|"
_COLUMNS = (
    ("query", "query text", "query_text", "querytext", "query string", "q"),
    ("docid", "doc id", "doc_id", "document id", "document_id", "documentid", "id", "_id"),
    ("rating", "grade", "judgment", "judgement", "relevance", "score"),
)
"""Accepted names of a table's three columns, in lower case."""


_HIGHEST_GRADE = 1000
"""Highest grade accepted: measures count documents by grade, in memory."""


class JudgmentError(ValueError):
    """Judgments cannot be used as they are; the message names the file and, where there is one, the line."""

    def __init__(self, file: Path, line: int | None, problem: str) -> None:
        super().__init__(f"{file}:{line}: {problem}" if line else f"{file}: {problem}")


@dataclass(frozen=True)
class Judgments:
    """``queries`` are texts by id; ``grades`` are whole numbers of 0 or more, by query and document id.

    Each query has a document graded above 0. ``notes`` are sentences on what was left out, and why.
    """

    queries: Mapping[str, str]
    grades: Mapping[str, Mapping[str, int]]
    notes: Sequence[str] = ()

    def sampled(self, most: int | None, seed: int) -> "Judgments":
        """Return at most ``most`` of the queries (None: all), drawn at random by ``seed``."""
        if most is None or most >= len(self.queries):
            return self
        drawn = sorted(random.Random(seed).sample(sorted(self.queries), most))  # noqa: S311 - no secret
        texts, grades = (
            {query: self.queries[query] for query in drawn},
            {query: self.grades[query] for query in drawn},
        )
        return Judgments(texts, grades, self.notes).noting(f"a sample of {most} of {len(self.queries)} queries")

    def noting(self, note: str) -> "Judgments":
        """Return a copy with one more note, unless it is empty."""
        return replace(self, notes=(*self.notes, note)) if note else self


@dataclass(frozen=True, slots=True)
class _Row:
    line: int
    query: str
    document: str
    grade: str


def read(file: Path, queries: Path | None = None) -> Judgments:
    """Read judgments: qrels if ``queries`` is given, else a table with a heading.

    qrels have three columns with a heading (BEIR) or four without (TREC); ``queries`` holds the texts of their query
    ids, as JSON lines with ``_id`` and ``text``. A table has columns for the query's text, the document's id and the
    grade; rows without a grade are skipped.

    Raises:
        JudgmentError: a file or line cannot be read, or no judgment is above 0.
    """
    rows = _qrels(file) if queries else _table(file)
    texts = _texts(queries) if queries else None
    grades: dict[str, dict[str, int]] = {}
    for row in rows:
        _put(grades, row, file, texts)
    return _usable(file, grades, texts)


def _usable(file: Path, grades: dict[str, dict[str, int]], texts: Mapping[str, str] | None) -> Judgments:
    """Leave out the queries without a document graded above 0, for which every order is as good."""
    if not grades:
        raise JudgmentError(file, None, "holds no judgment")
    judged = {query: found for query, found in grades.items() if any(grade > 0 for grade in found.values())}
    if not judged:
        raise JudgmentError(file, None, "no judgment is above 0: every order would be as good")
    notes = []
    if without := len(grades) - len(judged):
        notes.append(f"{without} of {len(grades)} queries have no document above 0 and were left out")
    if texts is not None and (unjudged := len(texts.keys() - grades.keys())):
        notes.append(f"{unjudged} of {len(texts)} queries have no judgment and were left out")
    return Judgments({query: texts[query] if texts else query for query in judged}, judged, tuple(notes))


def _put(grades: dict[str, dict[str, int]], row: _Row, file: Path, texts: Mapping[str, str] | None) -> None:
    if texts is not None and row.query not in texts:
        raise JudgmentError(file, row.line, f"query {row.query!r} is not among the queries")
    if not row.query.strip() or not row.document.strip():
        raise JudgmentError(file, row.line, f"the {'query' if row.document.strip() else 'document id'} is empty")
    grade, found = _grade(row, file), grades.setdefault(row.query, {})
    if found.setdefault(row.document, grade) != grade:
        judged = f"{row.document!r} is judged {found[row.document]} and {grade} for the same query"
        raise JudgmentError(file, row.line, f"document {judged}")


def _grade(row: _Row, file: Path) -> int:
    """Return a whole number, as graded measures need; a grade below 0 counts as 0, as in TREC's qrels."""
    try:
        grade = float(row.grade.replace(",", "."))
    except ValueError:
        raise JudgmentError(file, row.line, f"grade {row.grade!r} is not a number") from None
    if not math.isfinite(grade) or grade != int(grade):
        raise JudgmentError(file, row.line, f"grade {row.grade!r} is not a whole number; scale or round the grades")
    if grade > _HIGHEST_GRADE:
        raise JudgmentError(file, row.line, f"grade {row.grade!r} is above {_HIGHEST_GRADE}; scale the grades")
    return max(0, int(grade))


def _qrels(file: Path) -> Iterator[_Row]:
    for line, raw in _lines(file):
        fields = raw.split("\t") if "\t" in raw else raw.split()
        if line == 1 and fields[0].strip().lower() in ("query-id", "query_id", "qid"):
            continue
        if len(fields) not in (3, 4):
            allowed = "3 (query, document, grade) or 4 (query, 0, document, grade)"
            raise JudgmentError(file, line, f"has {len(fields)} columns; allowed: {allowed}")
        yield _Row(line, fields[0].strip(), fields[-2].strip(), fields[-1].strip())


def _table(file: Path) -> Iterator[_Row]:
    text = _content(file)
    heading = text.split("\n", 1)[0]
    delimiter = max(_DELIMITERS, key=heading.count)
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        places = _columns(file, next(rows, []))
        for fields in rows:
            if any(field.strip() for field in fields):
                if len(fields) <= max(places):
                    found = f"has {len(fields)} columns, the heading has {max(places) + 1} or more"
                    raise JudgmentError(file, rows.line_num, found)
                query, document, grade = (fields[place].strip() for place in places)
                if grade:  # Quepid lists documents that nobody has rated yet
                    yield _Row(rows.line_num, query, document, grade)
    except csv.Error as error:
        raise JudgmentError(file, rows.line_num, str(error)) from error


def _columns(file: Path, heading: Sequence[str]) -> tuple[int, ...]:
    """Return the column numbers of the query's text, the document's id and the grade."""
    names = [name.strip().lower() for name in heading]
    found = [[names.index(name) for name in known if name in names][:1] for known in _COLUMNS]
    if not all(found):
        missing = ", ".join(known[0] for known, place in zip(_COLUMNS, found, strict=True) if not place)
        told = f"its heading has no column {missing}; found: {', '.join(heading) or 'nothing'}"
        raise JudgmentError(file, 1, f"{told} (qrels go with a file of queries: --queries)")
    return tuple(place for (place,) in found)


def _texts(file: Path) -> dict[str, str]:
    texts: dict[str, str] = {}
    for line, raw in _lines(file):
        try:
            row = json.loads(raw)
        except ValueError as error:
            raise JudgmentError(file, line, f"is not JSON: {error}") from error
        if not isinstance(row, dict) or not {"_id", "text"} <= row.keys():
            raise JudgmentError(file, line, "is not a JSON object with `_id` and `text`")
        name, text = str(row["_id"]), str(row["text"] or "").strip()
        if not text:
            raise JudgmentError(file, line, f"query {name!r} has no text")
        if texts.setdefault(name, text) != text:
            raise JudgmentError(file, line, f"query {name!r} occurs twice, with different texts")
    return texts


def _lines(file: Path) -> Iterable[tuple[int, str]]:
    """Return the lines that are not blank, with their numbers from 1."""
    lines = (raw.rstrip("\r") for raw in _content(file).split("\n"))
    return ((line, raw) for line, raw in enumerate(lines, 1) if raw.strip())


def _content(file: Path) -> str:
    try:
        content = file.read_bytes()
    except OSError as error:
        raise JudgmentError(file, None, f"cannot be read: {error.strerror or error}") from error
    for encoding in _ENCODINGS:
        if encoding == "utf-16" and not content.startswith(_UTF_16_MARKS):
            continue
        try:
            return content.decode(encoding)
        except UnicodeDecodeError:
            continue
    raise JudgmentError(file, None, f"is in none of the supported encodings: {', '.join(_ENCODINGS)}")
