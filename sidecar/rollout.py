"""Assigns calls to the arms of a policy on trial, and interleaves two orders. Pure."""

import hashlib
import random
from collections import deque
from collections.abc import Sequence
from enum import Enum

from sidecar.types import Ranked


class Arm(Enum):
    """Which order a call gets."""

    RERANKED = "reranked"
    """The new order."""
    HELD_OUT = "held_out"
    """The engine's order, to compare with."""
    SHADOW = "shadow"
    """The engine's order; the new one is made afterwards, for metrics and the log only."""
    INTERLEAVED = "interleaved"
    """Both, interleaved."""


def arm_of(policy: str, mode: str, percent: float, key: str) -> Arm:
    """The arm of a call: always the same for a key, and a larger ``percent`` keeps every key that had the new order.

    ``percent`` (0 to 100) of the keys get the arm of ``mode``, the policy's setting; the others are held out.
    """
    digest = hashlib.sha256(f"{policy}\0{key}".encode(errors="surrogatepass")).digest()
    if int.from_bytes(digest[:8], "big") / 2**64 * 100 >= percent:
        return Arm.HELD_OUT
    return {"shadow": Arm.SHADOW, "interleave": Arm.INTERLEAVED}.get(mode, Arm.RERANKED)


def interleaved(order: Sequence[Ranked], key: str) -> list[Ranked]:
    """Team-draft interleaving (Radlinski, Kurup and Joachims, CIKM 2008) of the engine's order and a new one.

    In each round a coin, seeded by ``key``, decides which order first draws its best hit that is not taken yet. Each
    place records whose draw it was: comparing the clicks on the two teams' hits shows which order is better. Candidates
    that were not ordered (pinned, without text) keep their places.
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
