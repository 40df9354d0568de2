"""When calls are due in an open loop. Pure."""

import random
from typing import Literal

Arrivals = Literal["constant", "poisson"]


def due_s(arrivals: Arrivals, rate_per_s: float, seconds: float, seed: int = 0) -> list[float]:
    """Seconds from the start at which calls are due, ascending, ``rate_per_s * seconds`` of them.

    ``constant``: evenly spaced; ``poisson``: a Poisson process given its number of arrivals, that is, independent and
    evenly distributed over the time, so that phases of both kinds bring the same number of calls.

    Raises:
        ValueError: the rate is not positive.
    """
    if rate_per_s <= 0:
        raise ValueError(f"a rate of {rate_per_s} calls per second is none")
    calls = max(1, round(rate_per_s * seconds))
    if arrivals == "constant":
        return [seconds * number / calls for number in range(calls)]
    draw = random.Random(seed)
    return sorted(draw.uniform(0, seconds) for _ in range(calls))
