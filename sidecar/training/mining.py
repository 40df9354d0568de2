"""Hard negatives: what BM25 ranks high and nobody judged relevant."""

from __future__ import annotations

from collections.abc import Collection as AbstractCollection
from collections.abc import Sequence

import bm25s
import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]


class Bm25:
    """BM25 (k1 1.2, b 0.75, English stop words, no stemming) over a fixed list of texts."""

    def __init__(self, texts: Sequence[str]) -> None:
        """Index `texts`; positions in that list are the documents' numbers from here on."""
        self._index = bm25s.BM25(k1=1.2, b=0.75)
        self._index.index(_tokens(texts), show_progress=False)
        self._size = len(texts)

    def scores(self, query: str) -> FloatArray:
        """Score of every document for `query`, float32 (documents,); all 0 when no word of it is known."""
        known = [word for word in _tokens([query])[0] if word in self._index.vocab_dict]
        if not known:
            return np.zeros(self._size, dtype=np.float32)
        return np.asarray(self._index.get_scores(known), dtype=np.float32)

    def top(self, query: str, k: int) -> tuple[IntArray, FloatArray]:
        """Numbers and scores of the at most `k` best documents that score above 0, the best first."""
        scores = self.scores(query)
        best = np.argsort(-scores, kind="stable")[:k]
        best = best[scores[best] > 0]
        return best.astype(np.int64), scores[best]


def guard(
    candidates: IntArray, teacher: FloatArray, positives: AbstractCollection[int], limit: float, same_text: set[int]
) -> IntArray:
    """The candidates that may serve as negatives, in their order.

    Left out: judged positives, documents whose text repeats a positive's (`same_text`), and those whose teacher score
    is above `limit`: probably relevant and only not marked. `teacher` is float32 (candidates,).
    """
    keep = [
        place
        for place, number in enumerate(candidates.tolist())
        if number not in positives and number not in same_text and teacher[place] <= limit
    ]
    return candidates[np.asarray(keep, dtype=np.int64)]


def _tokens(texts: Sequence[str]) -> list[list[str]]:
    tokens: list[list[str]] = bm25s.tokenize(list(texts), stopwords="en", return_ids=False, show_progress=False)
    return tokens
