"""Who gets the new order while it is being tried, and which of two orders a hit came from. Pure."""

import hashlib
import random
from collections import deque
from collections.abc import Sequence
from enum import Enum

from sidecar.types import Ranked


class Arm(Enum):
    """What a call gets."""

    RERANKED = "reranked"
    """The new order."""
    HELD_OUT = "held_out"
    """The engine's order, to compare with."""
    SHADOW = "shadow"
    """The engine's order; the new one is made afterwards, and only counted."""
    INTERLEAVED = "interleaved"
    """Both, drawn in turns."""


def arm_of(policy: str, mode: str, percent: float, key: str) -> Arm:
    """The arm of a call: the same key always has the same one, and a larger share keeps those that had the new order.

    ``mode`` is that of the policy's settings, ``percent`` of the keys get it.
    """
    digest = hashlib.sha256(f"{policy}\0{key}".encode(errors="surrogatepass")).digest()
    if int.from_bytes(digest[:8], "big") / 2**64 * 100 >= percent:
        return Arm.HELD_OUT
    return {"shadow": Arm.SHADOW, "interleave": Arm.INTERLEAVED}.get(mode, Arm.RERANKED)


def interleaved(order: Sequence[Ranked], key: str) -> list[Ranked]:
    """Team-draft interleaving (Radlinski, Kurup and Joachims, CIKM 2008) of the engine's order and a new one.

    In each round a coin, the same for the same key, says which of them draws its best hit that is not taken yet first.
    Each place says whose draw it was: clicks on one team's hits against those on the other's tell which is better. What
    was not ordered (pinned, without text) keeps its place.
    """
    new = [place for place in order if place.relevance_score is not None or place.cosine is not None]
    drawn = iter(_drafted(new, random.Random(key)))  # noqa: S311 - a coin that can be tossed again
    ordered = {place.rank for place in new}
    return [next(drawn) if place.rank in ordered else place for place in order]


def _drafted(new: Sequence[Ranked], coin: random.Random) -> list[Ranked]:
    teams = {"engine": deque(sorted(new, key=lambda place: place.rank)), "reranked": deque(new)}
    taken: set[int] = set()
    drawn: list[Ranked] = []
    while len(drawn) < len(new):
        for team in coin.sample(["engine", "reranked"], 2):
            while teams[team] and teams[team][0].rank in taken:
                teams[team].popleft()
            if teams[team]:
                best = teams[team].popleft()
                taken.add(best.rank)
                drawn.append(best.of(team))
    return drawn
