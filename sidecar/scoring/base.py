"""What a model is to the rest of the sidecar."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float32]


class DeviceLost(RuntimeError):
    """The device is gone for this process: every pass to come would fail, and only a restart helps."""


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """Token ids of one ``[CLS] query [SEP] passage [SEP]``; ``token_type_ids`` is None for a model that has none.

    A tokenizer gives both as int32 arrays of the same length, which many pairs may share: they are not to be changed.
    """

    input_ids: Sequence[int] | NDArray[np.int32]
    token_type_ids: Sequence[int] | NDArray[np.int32] | None = None

    @property
    def tokens(self) -> int:
        """Number of tokens, special ones included."""
        return len(self.input_ids)

    @property
    def is_read(self) -> bool:
        """Whether the model has read its passage before, so that it costs next to nothing."""
        return False

    @property
    def kept_as(self) -> bytes:
        """Under what its model will keep what it reads of the passage; empty: nothing is kept."""
        return b""

    def stretched(self, tokens: int) -> "Pair":
        """One of so many tokens that takes the same way through the model, to measure with."""
        types = self.token_type_ids
        return Pair(_repeated(self.input_ids, tokens), None if types is None else _repeated(types, tokens))


def _repeated(ids: Iterable[int], count: int) -> list[int]:
    return list(islice(cycle(ids), count))


class Scorer(Protocol):
    """A model that tells how well a passage answers a query. ``encode`` may run in any thread, ``score`` only in the
    device's own."""

    version: str
    """Changes whenever the scores may change: weights, dtype, truncation."""
    max_length: int
    """Tokens of one pair at most."""

    def encode(self, query: str, passages: Sequence[str]) -> list[Pair]:
        """Token ids of each pair; a passage is truncated to fit, the query never.

        Raises:
            QueryTooLong: the query leaves no room for a passage.
        """
        ...

    def score(self, pairs: Sequence[Pair]) -> Scores:
        """Raw relevance of each pair, float32 of shape (len(pairs),); higher is better. One forward pass."""
        ...


@runtime_checkable
class Launches(Protocol):
    """A scorer that may leave a forward pass to the device and go on: the next one is then launched behind it."""

    launches: bool
    """Whether it does, on the device that it is on."""

    def launch(self, pairs: Sequence[Pair]) -> Callable[[], Scores]:
        """Start what ``score`` does. What is returned waits for the scores and gives them; called once, in the order of
        the launches, in a thread that does nothing else."""
        ...
