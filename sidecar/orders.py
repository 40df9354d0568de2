"""Orders kept for a while, so that later pages of a search agree with its first.

The rule: a page is cut from the order of its own call. Where a policy keeps orders, the first page decides, and later
pages of the same query over the same window follow it, also when it was degraded; so no hit is lost between them or
shown twice. A first page that is asked again follows only an order that is RERANKED, and else tries anew; what it makes
counts from then on, also for a reader who had gone on to later pages of the degraded order.

Same window means: the engine gave the same documents with the same scores (and versions, where the hits tell them) in
the same order. So an order never outlives a change of the index that shows in the window, and needs no other question
to the engine.
"""

import hashlib
import json
import time
from collections.abc import Callable

from cachetools import TLRUCache

from sidecar.task import Retrieved
from sidecar.types import Outcome, Ranking

_IDENTITY = ("_index", "_id", "_routing", "_score", "_version", "_seq_no")
_PLACE_BYTES = 200
"""What one place of an order takes, beside its passage."""


def key_of(retrieved: Retrieved) -> bytes | None:
    """What an order depends on, digested; None where none is kept: no policy, one without `order_cache_s`, a skip."""
    task = retrieved.task
    if task.skip or task.plan is None or task.connector is None or not task.plan.order_cache_s:
        return None
    window = [[hit.raw.get(name) for name in _IDENTITY] for hit in retrieved.hits.hits[: len(task.candidates)]]
    whose = [task.connector.name, task.connector.identity]
    whole = [whose, task.query, task.plan.version, sorted(task.pinned_ids), window]
    return hashlib.sha256(json.dumps(whole).encode()).digest()


def may_follow(kept: Ranking, *, first_page: bool) -> bool:
    """Whether a call takes this order instead of making one."""
    return not first_page or kept.outcome is Outcome.RERANKED


class Orders:
    """Rankings by key, each for its own time, the longest unused go first when ``max_bytes`` is reached."""

    def __init__(self, max_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._kept: TLRUCache[bytes, tuple[Ranking, float]] = TLRUCache(
            max_bytes, ttu=lambda _, kept, now: now + kept[1], timer=clock, getsizeof=lambda kept: _size(kept[0])
        )

    def recall(self, key: bytes) -> Ranking | None:
        """The order kept under ``key``, if its time is not over."""
        kept = self._kept.get(key)
        return kept[0] if kept else None

    def keep(self, key: bytes, ranking: Ranking, ttl_s: float) -> None:
        """Keep an order for ``ttl_s`` seconds; one that is larger than all the room is not kept."""
        if _size(ranking) <= self._kept.maxsize:
            self._kept[key] = (ranking, ttl_s)


def _size(ranking: Ranking) -> int:
    return sum(_PLACE_BYTES + 2 * len(place.passage) for place in ranking.order)
