"""A cache that keeps to its bytes: the longest unused go first. Threads may share it; its reads rely on that the
interpreter does one operation of a dictionary after the other.

It is on the way of every passage of every call. cachetools' LRUCache, the better choice where that does not matter,
takes more than twice the time for a hundred keys, and two thirds more memory for an entry beside its value.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from threading import Lock
from typing import Generic, TypeVar

Value = TypeVar("Value")

ENTRY_BYTES = 360
"""What an entry takes beside its value: key, headers, its place in the table. Measured in processes whose cache had
been full for a while: 300 to 380 (200 to 250 while it fills); tests/unit/test_cache_memory.py looks again."""


class BoundedCache(Generic[Value]):
    """Values by the digest of what they depend on; ``value_bytes`` says what a value takes of ``max_bytes``."""

    def __init__(self, max_bytes: int, value_bytes: Callable[[Value], int]) -> None:
        self.max_bytes = max_bytes
        """The bound; 0 keeps nothing."""
        self.size_bytes = 0
        """What is taken of it."""
        self.hits = 0
        self.misses = 0
        self._value_bytes = value_bytes
        self._kept: OrderedDict[bytes, Value] = OrderedDict()
        self._lock = Lock()

    def peek(self, keys: Sequence[bytes]) -> list[Value | None]:
        """The value kept under each key, None where there is none; counts nothing, nor takes it for a use."""
        return [self._kept.get(key) for key in keys]

    def find(self, keys: Sequence[bytes]) -> list[Value | None]:
        """The value kept under each key, None where there is none; counts hits and misses."""
        found = self.peek(keys)
        self._used(key for key, one in zip(keys, found, strict=True) if one is not None)
        misses = sum(one is None for one in found)
        self._count(len(found) - misses, misses)
        return found

    def find_all(self, keys: Iterable[bytes]) -> list[Value] | None:
        """The value kept under each key; None at the first that has none, and then nothing is counted."""
        used, found = [], []
        for key in keys:  # which may have to be made first
            one = self._kept.get(key)
            if one is None:
                return None
            used.append(key)
            found.append(one)
        self._used(used)
        self._count(len(found), 0)
        return found

    def keep(self, fresh: Mapping[bytes, Value]) -> None:
        """Keep these; what is larger than all the room is not kept."""
        with self._lock:
            for key, one in fresh.items():
                size_bytes = ENTRY_BYTES + self._value_bytes(one)
                if size_bytes <= self.max_bytes:
                    self._drop(key)
                    while self.size_bytes + size_bytes > self.max_bytes:
                        self._drop(next(iter(self._kept)))
                    self._kept[key] = one
                    self.size_bytes += size_bytes

    def _drop(self, key: bytes) -> None:
        one = self._kept.pop(key, None)
        if one is not None:
            self.size_bytes -= ENTRY_BYTES + self._value_bytes(one)

    def _used(self, keys: Iterable[bytes]) -> None:
        kept = self._kept
        with self._lock:
            for key in keys:
                if key in kept:  # else a thread that keeps something has dropped it since
                    kept.move_to_end(key)

    def _count(self, hits: int, misses: int) -> None:
        with self._lock:
            self.hits += hits
            self.misses += misses
