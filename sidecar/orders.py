"""Caches orders for a while, so that later pages of a search agree with its first.

The rule: a page is cut from the order of its own call. If the policy caches orders, the first page decides, and later
pages of the same query over the same window follow it, even if it is degraded; so no hit is lost between them or shown
twice. A first page that is requested again follows only a RERANKED order, and else makes a new one, which counts from
then on, also for a reader who had gone on to later pages of the degraded order. A later page that is requested while
the first is being made waits for it. A RERANKED order is replaced only by another one.

Same window means: the engine returned the same documents with the same scores, text and versions (as far as the hits
have them) in the same order. So an order never outlives a change of the index that shows in the window, and needs no
further request to the engine.
"""

import asyncio
import hashlib
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace

from cachetools import TLRUCache

from sidecar.task import Retrieved
from sidecar.types import Outcome, Ranking

_LOOKED_AT = (
    "_index",
    "_id",
    "_routing",
    "_score",
    "_version",
    "_seq_no",
    "_source",
    "fields",
    "highlight",
    "inner_hits",
)
_ORDER_BYTES = 1000
_PLACE_BYTES = 300
"""Bytes that an order and each of its places take, without the text of passages and detail."""
_CHAR_BYTES = 4
_WAIT_SHARE = 0.5
"""Share of the time left that a later page waits at most for the first."""


def key_of(retrieved: Retrieved) -> bytes | None:
    """The digest of all that an order depends on; None if it is not cached.

    That is: without a policy or connector, with an `order_cache_s` of 0, or if reranking is skipped.
    """
    task = retrieved.task
    if task.skip or task.plan is None or task.connector is None or not task.plan.order_cache_s:
        return None
    window = [[hit.raw.get(name) for name in _LOOKED_AT] for hit in retrieved.hits.hits[: len(task.candidates)]]
    whose = [task.connector.name, task.connector.identity]
    whole = [whose, task.query, task.plan.version, sorted(task.pinned_ids), window]
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).digest()


def may_follow(kept: Ranking, *, first_page: bool) -> bool:
    """Whether a call takes this cached order instead of making one."""
    return not first_page or kept.outcome is Outcome.RERANKED


class Orders:
    """A cache of rankings, each with its own time to live; at ``max_bytes`` the least recently used are evicted."""

    def __init__(self, max_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._kept: TLRUCache[bytes, tuple[Ranking, float]] = TLRUCache(
            max_bytes, ttu=lambda _, kept, now: now + kept[1], timer=clock, getsizeof=lambda kept: _size(kept[0])
        )
        self._making: dict[bytes, asyncio.Event] = {}

    async def agreed(self, retrieved: Retrieved, make: Callable[[], Awaitable[Ranking]]) -> Ranking:
        """The order that all pages of a search share, by the rule above; ``make`` makes one if none may be followed.

        Raises what ``make`` raises.
        """
        key, plan = key_of(retrieved), retrieved.task.plan
        if key is None or plan is None:
            return await make()
        first_page = retrieved.page.start == 0
        if not first_page:
            await self._wait(key, retrieved.task.deadline.remaining_s() * _WAIT_SHARE)
        kept = self.recall(key)
        if kept and may_follow(kept, first_page=first_page):
            return replace(kept, remembered=True)
        made = await (self._make_known(key, make) if first_page else make())
        kept = self.recall(key)
        if kept and made.outcome is not Outcome.RERANKED and may_follow(kept, first_page=first_page):
            return replace(kept, remembered=True)  # another call has made a better one meanwhile
        if first_page or kept is None:
            self.keep(key, made, plan.order_cache_s)
        return made

    def recall(self, key: bytes) -> Ranking | None:
        """The order cached under ``key``; None if there is none, or if it has expired."""
        kept = self._kept.get(key)
        return kept[0] if kept else None

    def keep(self, key: bytes, ranking: Ranking, ttl_s: float) -> None:
        """Cache an order for ``ttl_s`` seconds, unless it alone exceeds the cache's size."""
        if _size(ranking) <= self._kept.maxsize:
            self._kept[key] = (ranking, ttl_s)

    async def _make_known(self, key: bytes, make: Callable[[], Awaitable[Ranking]]) -> Ranking:
        """Make an order while later pages wait for it."""
        made = self._making.setdefault(key, asyncio.Event())
        try:
            return await make()
        finally:
            asyncio.get_running_loop().call_soon(made.set)  # after the caller has cached the order
            if self._making.get(key) is made:
                del self._making[key]

    async def _wait(self, key: bytes, timeout_s: float) -> None:
        made = self._making.get(key)
        if made is not None:
            try:
                await asyncio.wait_for(made.wait(), timeout_s)
            except TimeoutError:
                return


def _size(ranking: Ranking) -> int:
    passages = sum(_PLACE_BYTES + _CHAR_BYTES * len(place.passage) for place in ranking.order)
    return _ORDER_BYTES + _CHAR_BYTES * len(ranking.detail) + passages
