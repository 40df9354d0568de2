"""Answers that callers do not read: the memory that they take has a bound."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from sidecar.errors import TooManyCalls
from sidecar.metrics import Metrics


class Unread:
    """Counts the answers given and not yet read, by connection.

    While all together are above the bound, a connection that holds its even share of it gets no other answer; one that
    reads holds little and is served. So n connections hold at most 1 + 1/2 + ... + 1/n times the bound, which is the
    case when one comes after the other, and one answer more each.
    """

    def __init__(self, most_bytes: int, metrics: Metrics) -> None:
        self._most_bytes = most_bytes
        self._bytes: Counter[str] = Counter()
        self._gauge = metrics.unread_bytes

    def check(self, connection: str) -> None:
        """Let a call begin, or its answer leave.

        Raises:
            TooManyCalls: this connection is to read first.
        """
        total, own = self._bytes.total(), self._bytes[connection]
        if total > self._most_bytes and own * len(self._bytes) >= self._most_bytes:
            raise TooManyCalls(
                f"answers that nobody reads take {total} bytes, and this connection has left {own} of them unread: "
                "read them, or end those calls"
            )

    def given(self, connection: str, size_bytes: int) -> None:
        """An answer leaves.

        Raises:
            TooManyCalls: see :meth:`check`.
        """
        self.check(connection)
        self._bytes[connection] += size_bytes
        self._gauge.inc(size_bytes)

    def read(self, connection: str, size_bytes: int) -> None:
        """It was read, or its call is over."""
        self._bytes[connection] -= size_bytes
        if self._bytes[connection] <= 0:
            del self._bytes[connection]
        self._gauge.dec(size_bytes)

    @contextmanager
    def waiting(self, connection: str, size_bytes: int) -> Iterator[None]:
        """An answer leaves, and has been read at the end of the block."""
        self.given(connection, size_bytes)
        try:
            yield
        finally:
            self.read(connection, size_bytes)
