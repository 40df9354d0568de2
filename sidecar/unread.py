"""A limit on the memory of answers that callers have not read."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from sidecar.errors import TooManyCalls
from sidecar.metrics import Metrics

CONNECTION_PART = 1 / 8
_COPIES = 4
"""Memory of an unread answer as a multiple of its size on the wire: the message, its bytes, and gRPC's copies of them.
Measured: 3.5 for 2 MiB."""
_CALL_BYTES = 64 * 2**10
"""Memory of a call beside its answer."""


reply_bytes: ContextVar[int] = ContextVar("reply_bytes", default=0)
"""Size of the answer about to be sent: measured once, as that takes as long as serialising the answer. Answers of
PolicyService are small and not measured."""


class Unread:
    """Counts the memory of answers that were sent and not yet read.

    A connection that holds its part of the limit (:data:`CONNECTION_PART`) gets no other answer until it reads, so that
    a few stuck callers take nothing from the others. Once the whole limit is reached, no caller gets an answer.
    """

    def __init__(self, most_bytes: int, metrics: Metrics) -> None:
        self._most_bytes = most_bytes
        self._bytes: Counter[str] = Counter()
        self._total = 0
        metrics.unread_bytes.set_function(lambda: self._total)

    def check(self, connection: str) -> None:
        """Check that a call may begin, or its answer be sent.

        Raises:
            TooManyCalls: earlier answers must be read first.
        """
        own = self._bytes[connection]
        if self._total >= self._most_bytes or own >= self._most_bytes * CONNECTION_PART:
            raise TooManyCalls(
                f"answers that nobody reads take {self._total >> 20} MiB, {own >> 20} of it on this connection: read "
                "them, or end those calls"
            )

    def given(self, connection: str, size_bytes: int) -> None:
        """Count an answer that is sent."""
        self._add(connection, _COPIES * size_bytes + _CALL_BYTES)

    def read(self, connection: str, size_bytes: int) -> None:
        """Stop counting an answer that was read, or whose call is over."""
        self._add(connection, -_COPIES * size_bytes - _CALL_BYTES)

    @contextmanager
    def waiting(self, connection: str, size_bytes: int) -> Iterator[None]:
        """Count an answer that is sent, until the end of the block, when it has been read."""
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
