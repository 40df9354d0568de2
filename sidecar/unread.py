"""Answers that callers do not read: the memory that they take has a bound."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from sidecar.errors import TooManyCalls
from sidecar.metrics import Metrics

CONNECTION_PART = 1 / 8
_COPIES = 4
"""What an answer takes until it is read, over its size on the wire: the message, its bytes, and gRPC's copies of them.
Measured: 3.5 for 2 MiB."""
_CALL_BYTES = 64 * 2**10
"""What a call takes beside its answer."""


reply_bytes: ContextVar[int] = ContextVar("reply_bytes", default=0)
"""Size of the answer that is about to leave: measured once, for it takes as long as writing the answer. Those of
PolicyService are small and not measured."""


class Unread:
    """Counts the memory of answers that were given and not yet read.

    A connection that holds its part of the bound (:data:`CONNECTION_PART`) gets no other answer until it reads; so a
    few callers that are stuck take nothing from the others. Where many are, above the whole bound, nobody gets one.
    """

    def __init__(self, most_bytes: int, metrics: Metrics) -> None:
        self._most_bytes = most_bytes
        self._bytes: Counter[str] = Counter()
        self._total = 0
        metrics.unread_bytes.set_function(lambda: self._total)

    def check(self, connection: str) -> None:
        """Let a call begin, or its answer leave.

        Raises:
            TooManyCalls: what was given is to be read first.
        """
        own = self._bytes[connection]
        if self._total >= self._most_bytes or own >= self._most_bytes * CONNECTION_PART:
            raise TooManyCalls(
                f"answers that nobody reads take {self._total >> 20} MiB, {own >> 20} of it on this connection: read "
                "them, or end those calls"
            )

    def given(self, connection: str, size_bytes: int) -> None:
        """An answer of that size leaves."""
        self._add(connection, _COPIES * size_bytes + _CALL_BYTES)

    def read(self, connection: str, size_bytes: int) -> None:
        """It was read, or its call is over."""
        self._add(connection, -_COPIES * size_bytes - _CALL_BYTES)

    @contextmanager
    def waiting(self, connection: str, size_bytes: int) -> Iterator[None]:
        """An answer leaves, and has been read at the end of the block."""
        self.given(connection, size_bytes)
        try:
            yield
        finally:
            self.read(connection, size_bytes)

    def _add(self, connection: str, more_bytes: int) -> None:
        self._total += more_bytes
        self._bytes[connection] += more_bytes
        if self._bytes[connection] <= 0:
            del self._bytes[connection]
