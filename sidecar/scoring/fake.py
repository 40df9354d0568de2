"""A scorer without a model, for tests and for trying out failures: it counts the words a query and a passage share."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from sidecar.errors import QueryTooLong
from sidecar.scoring.base import Pair, Scores

Fault = Callable[[int, Sequence[Pair]], Scores | None]
"""Called with the number of the call (from 0) and its pairs: may raise, sleep, or return scores; None: usual scores."""


@dataclass
class WordOverlapScorer:
    """Scores a pair by the share of the query's words that the passage holds.

    ``seconds_per_token`` makes it as slow as asked; ``fault`` may raise or replace the scores of a call; ``calls`` and
    ``pairs_scored`` count what reached the device.
    """

    seconds_per_token: float = 0.0
    fault: Fault | None = None
    max_length: int = 512
    version: str = "word-overlap"
    calls: int = 0
    pairs_scored: int = 0
    _words: dict[str, int] = field(default_factory=dict)

    def encode(self, query: str, passages: Sequence[str]) -> list[Pair]:
        """One token a word; the query's words come first, then a 0, then the passage's."""
        head = [self._token(word) for word in query.lower().split()]
        room = self.max_length - len(head) - 1
        if room < 1:
            raise QueryTooLong(f"the query has {len(head)} words, at most {self.max_length - 2} fit")
        tails = ([self._token(word) for word in passage.lower().split()][:room] for passage in passages)
        return [Pair([*head, 0, *tail]) for tail in tails]

    def _token(self, word: str) -> int:
        return self._words.setdefault(word.strip(".,;:!?\"'()"), len(self._words) + 1)

    def score(self, pairs: Sequence[Pair]) -> Scores:
        """The share of shared words, 0 to 1, or the scores of ``fault``, after ``seconds_per_token`` for each token."""
        number, self.calls = self.calls, self.calls + 1
        self.pairs_scored += len(pairs)
        time.sleep(self.seconds_per_token * sum(pair.tokens for pair in pairs))
        replaced = self.fault(number, pairs) if self.fault else None
        return np.array([_overlap(pair) for pair in pairs], np.float32) if replaced is None else replaced


@dataclass
class LaunchedScorer(WordOverlapScorer):
    """A :class:`WordOverlapScorer` whose launched passes run by themselves, one after the other, as on CUDA."""

    launches: bool = True
    _stream: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1))

    def launch(self, pairs: Sequence[Pair]) -> Callable[[], Scores]:
        """See :class:`sidecar.scoring.base.Launches`."""
        return self._stream.submit(self.score, pairs).result


@dataclass(frozen=True, slots=True, eq=False)
class KeptPair(Pair):
    """A pair whose passage may have been read before."""

    kept: bool = False

    @property
    def tokens(self) -> int:
        """Tokens still to be read: all, or 1 if the passage has been read."""
        return 1 if self.kept else len(self.input_ids)

    @property
    def is_read(self) -> bool:
        """Whether the passage has been read."""
        return self.kept

    @property
    def kept_as(self) -> bytes:
        """A key made of the passage."""
        return repr(_passage(self)).encode()


@dataclass
class KeepingScorer(WordOverlapScorer):
    """A :class:`WordOverlapScorer` in the place of a bi-encoder: passages scored once count as read."""

    _read: set[tuple[int, ...]] = field(default_factory=set)

    def encode(self, query: str, passages: Sequence[str]) -> list[Pair]:
        """See :class:`WordOverlapScorer`; each pair knows whether its passage has been read."""
        pairs = WordOverlapScorer.encode(self, query, passages)
        return [KeptPair(pair.input_ids, None, _passage(pair) in self._read) for pair in pairs]

    def score(self, pairs: Sequence[Pair]) -> Scores:
        """See :class:`WordOverlapScorer`; from now on the passages have been read."""
        scores = WordOverlapScorer.score(self, pairs)
        self._read.update(map(_passage, pairs))
        return scores


def _passage(pair: Pair) -> tuple[int, ...]:
    return tuple(pair.input_ids[list(pair.input_ids).index(0) + 1 :])


def _overlap(pair: Pair) -> float:
    middle = list(pair.input_ids).index(0)
    query, passage = set(pair.input_ids[:middle]), set(pair.input_ids[middle + 1 :])
    return len(query & passage) / len(query)
