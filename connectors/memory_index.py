"""Documents of one index, and BM25 over their fields."""

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import bm25s
import numpy as np
from bm25s.stopwords import STOPWORDS_EN
from numpy.typing import NDArray

from connectors.hits import Json
from connectors.memory_query import Clause

logging.getLogger("bm25s").setLevel(logging.NOTSET)  # its import sets DEBUG, whatever the application wants

Scores = NDArray[np.float32]

WORD = re.compile(r"\w+")
STOP_WORDS = frozenset(STOPWORDS_EN)


class MemoryIndex:
    """Documents by id, indexed on construction; they must not be changed afterwards.

    Each field has its own BM25 (Lucene's variant, k1 1.2, b 0.75) over the documents that hold it; the best field's
    score counts. Words are runs of letters and digits in lower case, without English stop words and without stemming.
    """

    def __init__(self, documents: Mapping[str, Json]) -> None:
        self.documents = dict(documents)
        self.ids = tuple(documents)
        self._fields = {name: _Field(texts) for name, texts in _texts_by_field(self.documents.values()).items()}

    def matches(self, clause: Clause) -> list[tuple[float, str]]:
        """Return score and id of every document that matches, best first, ties in the order of the documents."""
        if clause.words is None:
            return [(1.0, key) for key in self.ids if clause.ids is None or key in clause.ids]
        scores = self._scores(clause.words, clause.fields or tuple((name, 1.0) for name in self._fields))
        order = np.argsort(-scores, kind="stable")
        return [(float(scores[place]), self.ids[place]) for place in order if scores[place] > 0]

    def _scores(self, words: str, fields: Sequence[tuple[str, float]]) -> Scores:
        scores: Scores = np.zeros(len(self.ids), dtype=np.float32)
        terms = _terms(words)
        for name, boost in fields:
            if name in self._fields:
                self._fields[name].raise_scores(scores, terms, boost)
        return scores


class _Field:
    """BM25 of one field; ``texts`` maps the place of a document to its text."""

    def __init__(self, texts: Mapping[int, str]) -> None:
        self._places = np.fromiter(texts, dtype=np.int64)
        self._bm25 = bm25s.BM25(k1=1.2, b=0.75, method="lucene")
        self._bm25.index([_terms(text) for text in texts.values()], show_progress=False)

    def raise_scores(self, scores: Scores, terms: Sequence[str], boost: float) -> None:
        """Raise each document's score to this field's if that is higher."""
        known = [term for term in terms if term in self._bm25.vocab_dict]
        if known:
            scores[self._places] = np.maximum(scores[self._places], self._bm25.get_scores(known) * boost)


def _texts_by_field(documents: Any) -> dict[str, dict[int, str]]:
    fields: dict[str, dict[int, str]] = {}
    for place, document in enumerate(documents):
        for name, text in _leaves(document, ""):
            texts = fields.setdefault(name, {})
            texts[place] = f"{texts[place]}\n{text}" if place in texts else text
    return {name: texts for name, texts in fields.items() if any(map(_terms, texts.values()))}


def _leaves(value: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, part in value.items():
            yield from _leaves(part, f"{path}.{key}" if path else key)
    elif isinstance(value, list):
        for part in value:
            yield from _leaves(part, path)
    elif isinstance(value, (str, int, float)) and not isinstance(value, bool):
        yield path, str(value)


def _terms(text: str) -> list[str]:
    return [word for word in WORD.findall(text.lower()) if word not in STOP_WORDS]
