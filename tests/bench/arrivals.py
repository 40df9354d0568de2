"""When calls are due in an open loop. Pure."""

import random
from collections.abc import Iterator
from itertools import count
from typing import Literal

Arrivals = Literal["constant", "poisson"]


def due_s(arrivals: Arrivals, rate_per_s: float, seconds: float, seed: int = 0) -> list[float]:
    """Seconds from the start at which calls are due, all before ``seconds``.

    ``constant``: evenly spaced; ``poisson``: independent exponential gaps with the same mean.

    Raises:
        ValueError: the rate is not positive.
    """
    if rate_per_s <= 0:
        raise ValueError(f"a rate of {rate_per_s} calls per second is none")
    found: list[float] = []
    for at in _constant(rate_per_s) if arrivals == "constant" else _poisson(rate_per_s, seed):
        if at >= seconds:
            return found
        found.append(at)
    return found


def _constant(rate_per_s: float) -> Iterator[float]:
    return (number / rate_per_s for number in count())


def _poisson(rate_per_s: float, seed: int) -> Iterator[float]:
    draw, at = random.Random(seed), 0.0
    while True:
        at += draw.expovariate(rate_per_s)
        yield at
