"""The interface of a model to the rest of the sidecar."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float32]


class DeviceLost(RuntimeError):
    """The device is lost to this process: every further pass would fail, and only a restart helps."""


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """Token ids of one ``[CLS] query [SEP] passage [SEP]``; ``token_type_ids`` is None for a model that has none.

    Tokenizers give both as int32 arrays of the same length; many pairs may share them, so they must not be changed.
    """

    input_ids: Sequence[int] | NDArray[np.int32]
    token_type_ids: Sequence[int] | NDArray[np.int32] | None = None

    @property
    def tokens(self) -> int:
        """Number of tokens, special ones included."""
        return len(self.input_ids)

    @property
    def is_read(self) -> bool:
        """Whether the model has read the passage before, so that scoring costs next to nothing."""
        return False

    @property
    def kept_as(self) -> bytes:
        """The key under which the model caches what it reads of the passage; empty: it caches nothing."""
        return b""

    def stretched(self, tokens: int) -> "Pair":
        """A pair of ``tokens`` tokens, these ones repeated or cut, that takes the same path through the model."""
        types = self.token_type_ids
        return Pair(_repeated(self.input_ids, tokens), None if types is None else _repeated(types, tokens))


def _repeated(ids: Iterable[int], count: int) -> list[int]:
    return list(islice(cycle(ids), count))


class Scorer(Protocol):
    """A model that scores how well a passage answers a query.

    ``encode`` may run in any thread, ``score`` only in the device's own.
    """

    version: str
    """Changes whenever the scores may change: weights, dtype, truncation."""
    max_length: int
    """Most tokens of one pair."""

    def encode(self, query: str, passages: Sequence[str]) -> list[Pair]:
        """Token ids of each pair; passages are truncated to fit, the query only by a bi-encoder.

        Raises:
            QueryTooLong: the query leaves no room for a passage.
        """
        ...

    def score(self, pairs: Sequence[Pair]) -> Scores:
        """Raw relevance of each pair, float32 of shape (len(pairs),); higher is better. One forward pass."""
        ...


@runtime_checkable
class Launches(Protocol):
    """A scorer that can launch a forward pass without waiting for it, so that the next one queues behind it."""

    launches: bool
    """Whether it does so on the device that it runs on."""

    def launch(self, pairs: Sequence[Pair]) -> Callable[[], Scores]:
        """Start a forward pass, and return a function that waits for its scores and returns them.

        That function is to be called once, in the order of the launches, in a thread that does nothing else.
        """
        ...
