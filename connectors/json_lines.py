"""Documents from a file of JSON lines."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from connectors.hits import Json


def read_documents(path: Path | str) -> dict[str, Json]:
    """Read the documents of a file by id. Each line is an object with a string ``_id`` and the document's fields.

    Empty lines are skipped.

    Raises:
        ValueError: a line is not such an object, an id is repeated, or the file cannot be read; names file and line.
    """
    documents: dict[str, Json] = {}
    for place, line in _lines(Path(path)):
        document = _object(place, line)
        key = document.pop("_id", None)
        if not isinstance(key, str) or not key:
            raise ValueError(f"{place}: the document has no `_id` that is a text")
        if key in documents:
            raise ValueError(f"{place}: the `_id` {key!r} comes twice")
        documents[key] = document
    return documents


def _lines(path: Path) -> Iterator[tuple[str, bytes]]:
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield f"{path}:{number}", line
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from error


def _object(place: str, line: bytes) -> Json:
    try:
        document: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{place}: the line is not JSON in UTF-8 ({error})") from error
    if isinstance(document, dict):
        return document
    raise ValueError(f"{place}: the line is not a JSON object")
