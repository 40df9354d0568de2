"""A cache that keeps to its bytes: the longest unused go first. Threads may share it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from threading import Lock
from typing import Generic, TypeVar

from cachetools import LRUCache

Value = TypeVar("Value")

ENTRY_BYTES = 600
"""What an entry takes beside its value: key, headers, places in the tables of an LRUCache. Measured in processes whose
cache had been full for a while: 440 to 600 (400 while it fills); tests/unit/test_cache_memory.py looks again."""


class BoundedCache(Generic[Value]):
    """Values by the digest of what they depend on; ``value_bytes`` says what a value takes of ``max_bytes``."""

    def __init__(self, max_bytes: int, value_bytes: Callable[[Value], int]) -> None:
        self._kept: LRUCache[bytes, Value] = LRUCache(max_bytes, getsizeof=lambda one: ENTRY_BYTES + value_bytes(one))
        self._lock = Lock()
        self.hits = 0
        self.misses = 0

    @property
    def max_bytes(self) -> int:
        """The bound; 0 keeps nothing."""
        return int(self._kept.maxsize)

    @property
    def size_bytes(self) -> int:
        """What is taken of it."""
        return int(self._kept.currsize)

    def find(self, keys: Sequence[bytes]) -> list[Value | None]:
        """The value kept under each key, None where there is none; counts hits and misses."""
        with self._lock:
            found = [self._kept.get(key) for key in keys]
            misses = sum(one is None for one in found)
            self.hits += len(found) - misses
            self.misses += misses
        return found

    def find_all(self, keys: Iterable[bytes]) -> list[Value] | None:
        """The value kept under each key; None at the first that has none, and then nothing is counted."""
        found = []
        for key in keys:  # which may have to be made first
            with self._lock:
                one = self._kept.get(key)
            if one is None:
                return None
            found.append(one)
        with self._lock:
            self.hits += len(found)
        return found

    def keep(self, fresh: Mapping[bytes, Value]) -> None:
        """Keep these; what is larger than all the room is not kept."""
        with self._lock:
            for key, one in fresh.items():
                if self._kept.getsizeof(one) <= self._kept.maxsize:
                    self._kept[key] = one
