"""A least-recently-used cache bounded in bytes. Thread-safe: reads rely on atomic dictionary operations.

Every passage of every call passes through it. cachetools' LRUCache, the better choice where speed does not matter,
takes more than twice the time for a hundred keys, and two thirds more memory for an entry besides its value.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from threading import Lock
from typing import Generic, TypeVar

Value = TypeVar("Value")

ENTRY_BYTES = 360
"""Bytes of an entry besides its value: key, headers, its place in the table. Measured in processes whose cache had
been full for a while: 300 to 380 (200 to 250 while it fills); tests/unit/test_cache_memory.py checks it."""


class BoundedCache(Generic[Value]):
    """Values by the digest of what they depend on; ``value_bytes`` returns the bytes of a value."""

    def __init__(self, max_bytes: int, value_bytes: Callable[[Value], int]) -> None:
        self.max_bytes = max_bytes
        """The limit of :attr:`size_bytes`; 0: nothing is kept."""
        self.size_bytes = 0
        """Bytes of all entries, values included."""
        self.hits = 0
        self.misses = 0
        self._value_bytes = value_bytes
        self._kept: OrderedDict[bytes, Value] = OrderedDict()
        self._lock = Lock()

    def peek(self, keys: Sequence[bytes]) -> list[Value | None]:
        """The value under each key, None where there is none; counts neither as hit or miss nor as a use."""
        return [self._kept.get(key) for key in keys]

    def find(self, keys: Sequence[bytes]) -> list[Value | None]:
        """The value under each key, None where there is none; counts hits and misses."""
        found = self.peek(keys)
        self._used(key for key, one in zip(keys, found, strict=True) if one is not None)
        misses = sum(one is None for one in found)
        self._count(len(found) - misses, misses)
        return found

    def find_all(self, keys: Iterable[bytes]) -> list[Value] | None:
        """The value under each key, counted as hits; None at the first key without one, and then nothing is counted."""
        used, found = [], []
        for key in keys:  # lazily: a key may have to be computed first
            one = self._kept.get(key)
            if one is None:
                return None
            used.append(key)
            found.append(one)
        self._used(used)
        self._count(len(found), 0)
        return found

    def keep(self, fresh: Mapping[bytes, Value]) -> None:
        """Add values, evicting the least recently used; one that alone exceeds ``max_bytes`` is not kept."""
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
                if key in kept:  # else another thread's keep() has evicted it since
                    kept.move_to_end(key)

    def _count(self, hits: int, misses: int) -> None:
        with self._lock:
            self.hits += hits
            self.misses += misses
