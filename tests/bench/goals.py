"""The figures to reach, and whether the results of the machines reach them; each goal has a row, measured or not."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.bench import soak
from tests.bench.contestants import IN_INT8
from tests.bench.outside import OUTSIDE, TOKENS_KNOWN, WHOLE_CALL
from tests.bench.throughput import AS_IT_COMES

Kept = Mapping[str, Any]
Benches = Mapping[str, Sequence[Kept]]
"""The rows of each bench that one machine has run."""
Figures = Callable[[Benches], list[Any]]
"""Finds the values that a goal is judged on; empty if it was not measured."""
_SHORT, _LONG, _OVERLOAD = 85, 250, 3.0
NOT_MEASURED, NO_GOAL, IN_PART = "not measured", "no goal", "measured in part"
MEANING = {
    "on": "the kind of machine that the goal is for",
    "measured": "the worst of the figures that the goal is judged on; runs with `--quick` do not count",
    "each": "those figures one by one, where there are several",
    "reached": f"`{IN_PART}`: what is known reaches the goal, and some figures are not known",
}


@dataclass(frozen=True)
class Kind:
    """A kind of machine: its name, and which machines are of it."""

    name: str
    has: Callable[[Kept], bool]


def _has_avx512(machine: Kept) -> bool:
    return any(feature.startswith("avx512") for feature in machine["isa"])


def _has_amx(machine: Kept) -> bool:
    return "amx_bf16" in machine["isa"]


ANY = Kind("any machine", lambda machine: True)
GPU = Kind("GPU", lambda machine: bool(machine["gpu"]))
AMX = Kind("CPU with AMX", lambda machine: not machine["gpu"] and _has_amx(machine))
AVX512 = Kind(
    "CPU with AVX-512, without AMX",
    lambda machine: not machine["gpu"] and _has_avx512(machine) and not _has_amx(machine),
)
AVX2 = Kind(
    "CPU with AVX2 only",
    lambda machine: not machine["gpu"] and "avx2" in machine["isa"] and not _has_avx512(machine),
)


@dataclass(frozen=True)
class Goal:
    """What machines of a kind should reach: at least ``least`` or at most ``most``; with neither it is only shown.

    ``figures`` finds the figures under their names; the worst one counts.
    """

    what: str
    on: Kind
    figures: Mapping[str, Figures]
    least: float | None = None
    most: float | None = None

    def worst(self, values: Sequence[float]) -> float:
        """The value that is worst for the goal; for a goal without a bound the smallest one."""
        return max(values) if self.most is not None else min(values)

    def is_met_by(self, value: float) -> bool:
        """Whether a figure reaches the goal."""
        return (self.least is None or value >= self.least) and (self.most is None or value <= self.most)

    def in_words(self) -> str:
        """The bound as text."""
        if self.least is not None:
            return f"at least {self.least:g}"
        return NO_GOAL if self.most is None else f"at most {self.most:g}"


def _column(bench: str, key: str, **where: Any) -> Figures:
    """The values of column ``key`` in the rows whose other columns have the values ``where``."""

    def found(benches: Benches) -> list[Any]:
        chosen = [row for row in benches.get(bench, ()) if all(row.get(name) == value for name, value in where.items())]
        return [row[key] for row in chosen if row.get(key) is not None]

    return found


def _faster_than(who: str, dtype: str) -> Figures:
    return _column("throughput", "sidecar_is_faster_by", who=who, dtype=dtype, tokens=_SHORT)


def _int8_is_faster_by(benches: Benches) -> list[Any]:
    """How many times as fast as CrossEncoder the int8 graph is, by the medians of both."""
    exact, int8 = (
        _column("throughput", "median_ms", tokens=_SHORT, who=who)(benches) for who in (AS_IT_COMES, IN_INT8)
    )
    return [one / other for one, other in zip(exact, int8, strict=False)]


def _long_runs(benches: Benches) -> list[Kept]:
    return [row for row in benches.get("soak", ()) if row.get("calls", 0) >= soak.CALLS]


def _growth_mib(benches: Benches) -> list[Any]:
    return [row["growth_mib"] for row in _long_runs(benches)]


def _growth_percent(benches: Benches) -> list[Any]:
    return [100 * row["growth_mib"] / row["rss_end_mib"] for row in _long_runs(benches)]


def _overloaded(key: str) -> Figures:
    return _column("load", key, load=_OVERLOAD)


def _outside(key: str) -> dict[str, Figures]:
    """Time outside the forward; of a Search all that its client sees, as the server's total ends before the reply."""
    return {
        "Rerank with the real model, in the server": _column("single_call", key, what=OUTSIDE),
        "Search with a free scorer, seen from the client": _column("outside", key, what=WHOLE_CALL, known=TOKENS_KNOWN),
    }


def _of_product_rate(model: str, tokens: int, key: str = "of_sustained_percent") -> Figures:
    return _column("utilization", key, model=model, tokens=tokens)


_DEFAULT = {"": _faster_than(AS_IT_COMES, "float32")}
_INT8: dict[str, Figures] = {"": _int8_is_faster_by}
_TIMES = "times CrossEncoder as it comes, 85 tokens"
_MEMORY = f"that the resident memory grows in {soak.CALLS:,} calls"
GOALS = (
    Goal(f"{_TIMES}, default number type", AMX, _DEFAULT, least=6.0),
    Goal(f"{_TIMES}, int8 graph", AMX, _INT8),
    Goal(f"{_TIMES}, default number type", AVX512, _DEFAULT),
    Goal(f"{_TIMES}, int8 graph", AVX512, _INT8),
    Goal(f"{_TIMES}, default number type", AVX2, _DEFAULT, least=4.0),
    Goal(f"{_TIMES}, int8 graph", AVX2, _INT8, least=4.0),
    Goal("times CrossEncoder in float16, 85 tokens", GPU, {"": _faster_than("CrossEncoder", "float16")}, least=3.0),
    Goal(
        "% of the bfloat16 product rate, bundled model, 85 tokens",
        AMX,
        {"": _of_product_rate("bundled", _SHORT)},
        least=60.0,
    ),
    Goal(
        "% of the fastest single bfloat16 product's rate, bundled model, 85 tokens",
        AMX,
        {"": _of_product_rate("bundled", _SHORT, "of_peak_percent")},
    ),
    Goal(
        "% of the bfloat16 product rate, XLM-R large shape, both lengths",
        GPU,
        {f"{tokens} tokens": _of_product_rate("XLM-R large shape", tokens) for tokens in (_SHORT, _LONG)},
        least=50.0,
    ),
    Goal("% of replies in the budget at 3 x capacity", ANY, {"": _overloaded("in_budget_percent")}, least=100.0),
    Goal(
        "% of the best goodput at 3 x capacity, in calls and in scored pairs",
        ANY,
        {"calls": _overloaded("of_best_percent"), "scored pairs": _overloaded("pairs_of_best_percent")},
        least=90.0,
    ),
    Goal("ms outside the forward, 100 hits of 500 characters, p50", ANY, _outside("p50_ms"), most=3.0),
    Goal("ms outside the forward, 100 hits of 500 characters, p99", ANY, _outside("p99_ms"), most=8.0),
    Goal(
        f"% {_MEMORY}: there is to be no growth, and 1 % is taken for noise of the samples",
        ANY,
        {"": _growth_percent},
        most=1.0,
    ),
    Goal(f"MiB {_MEMORY}", ANY, {"": _growth_mib}),
)


def reached(results: Sequence[Kept]) -> list[dict[str, Any]]:
    """One row for each goal and machine of its kind; one without a figure if there is no such machine."""
    machines = {kept["machine"]["slug"]: kept["machine"] for kept in results}
    rows = []
    for goal in GOALS:
        slugs: list[str | None] = [slug for slug, machine in machines.items() if goal.on.has(machine)]
        for slug in slugs or [None]:
            row = {"figure": goal.what, "on": goal.on.name, "machine": slug, "goal": goal.in_words()}
            rows.append({**row, **_judged(goal, _benches(results, slug))})
    return rows


def _benches(results: Sequence[Kept], slug: str | None) -> Benches:
    """The rows of each bench that a machine has run, without runs with ``--quick``."""
    ours = [kept for kept in results if kept["machine"]["slug"] == slug and "--quick" not in kept["command"].split()]
    return {kept["name"]: kept["rows"] for kept in ours}


def _judged(goal: Goal, benches: Benches) -> dict[str, Any]:
    found = {name: figures(benches) for name, figures in goal.figures.items()}
    known = {name: goal.worst(values) for name, values in found.items() if values}
    if not known:
        return {"measured": NOT_MEASURED, "each": None, "reached": NOT_MEASURED}
    each = [f"{name}: {_exactly(known[name]) if name in known else NOT_MEASURED}" for name in found]
    worst = goal.worst(list(known.values()))
    return {
        "measured": _exactly(worst),
        "each": "; ".join(each) if len(found) > 1 else None,
        "reached": _verdict(goal, worst, whole=len(known) == len(found)),
    }


def _exactly(value: float) -> str:
    """A value with four significant figures, so that 99.96 shows as less than 100."""
    return f"{value:.4g}"


def _verdict(goal: Goal, worst: float, *, whole: bool) -> str:
    if goal.in_words() == NO_GOAL:
        return NO_GOAL
    if not goal.is_met_by(worst):
        return "no"
    return "yes" if whole else IN_PART
