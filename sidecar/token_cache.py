"""Token ids of passages, kept so that a document that many searches find is tokenised once."""

from collections.abc import Mapping, Sequence
from threading import Lock

from cachetools import LRUCache

ENTRY_BYTES = 500
"""What an entry takes beside its ids: key, headers, places in the tables of an LRUCache. Measured in a process whose
cache had been full for a while: 400 while it filled, up to 520 behind that."""


class TokenCache:
    """Ids by the digest of a passage; the longest unused go first when ``max_bytes`` is reached. Threads may share it.

    A cache belongs to one encoder, thus to one tokenizer and one length: another model never sees its ids.
    """

    def __init__(self, max_bytes: int) -> None:
        self._kept: LRUCache[bytes, bytes] = LRUCache(max_bytes, getsizeof=lambda ids: ENTRY_BYTES + len(ids))
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

    def find(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The ids kept under each key, as int32 in the machine's byte order."""
        with self._lock:
            found = [self._kept.get(key) for key in keys]
            known = len(found) - found.count(None)
            self.hits += known
            self.misses += len(found) - known
        return found

    def keep(self, fresh: Mapping[bytes, bytes]) -> None:
        """Keep these; what is larger than all the room is not kept."""
        with self._lock:
            for key, ids in fresh.items():
                if ENTRY_BYTES + len(ids) <= self._kept.maxsize:
                    self._kept[key] = ids
