"""The figures to reach, and whether a machine's results reach them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.bench.contestants import IN_INT8
from tests.bench.section import Row
from tests.bench.single_call import OUTSIDE
from tests.bench.throughput import AS_IT_COMES

Kept = Mapping[str, Any]
_SHORT, _MOST_LOAD = 85, 3.0
_GROWTH_SHARE = 0.01
"""Of the resident memory: what samples of a process without a leak may seem to grow by."""


@dataclass(frozen=True)
class Goal:
    """``figures`` finds in the rows of ``bench`` what must be at least, or at most, ``bound``; none: no say."""

    what: str
    bench: str
    bound: float
    figures: Callable[[Sequence[Row]], list[Any]]
    at_least: bool = True
    on: Callable[[Kept], bool] = lambda machine: True


def _has_gpu(machine: Kept) -> bool:
    return bool(machine["gpu"])


def _has_bfloat16(machine: Kept) -> bool:
    return not machine["gpu"] and "amx_bf16" in machine["isa"]


def _is_plain(machine: Kept) -> bool:
    return not machine["gpu"] and "amx_bf16" not in machine["isa"]


def _column(key: str, **where: Any) -> Callable[[Sequence[Row]], list[Any]]:
    """The values of a column in the rows where others have these values."""

    def found(rows: Sequence[Row]) -> list[Any]:
        chosen = [row for row in rows if all(row.get(name) == value for name, value in where.items())]
        return [row[key] for row in chosen if row.get(key) is not None]

    return found


def _ratio(dtype: str) -> Callable[[Sequence[Row]], list[Any]]:
    who = AS_IT_COMES if dtype == "float32" else "CrossEncoder"
    return _column("sidecar_is_faster_by", who=who, dtype=dtype, tokens=_SHORT)


def _ratio_in_int8(rows: Sequence[Row]) -> list[Any]:
    """The same for the int8 graph, whose rows are beside those of the default."""
    exact, int8 = (_column("median_ms", tokens=_SHORT, who=who)(rows) for who in (AS_IT_COMES, IN_INT8))
    return [one / other for one, other in zip(exact, int8, strict=False)]


def _growth(rows: Sequence[Row]) -> list[Any]:
    return [row["growth_mib"] / row["rss_end_mib"] for row in rows]  # type: ignore[operator] # both are numbers


GOALS = (
    Goal("times CrossEncoder as it comes, 85 tokens", "throughput", 6.0, _ratio("float32"), on=_has_bfloat16),
    Goal("times CrossEncoder as it comes, int8 graph, 85 tokens", "throughput", 4.0, _ratio_in_int8, on=_is_plain),
    Goal("times CrossEncoder in float16, 85 tokens", "throughput", 3.0, _ratio("float16"), on=_has_gpu),
    Goal(
        "% of the bfloat16 product rate, bundled model, 85 tokens",
        "utilization",
        60.0,
        _column("of_peak_percent", model="bundled", tokens=_SHORT),
        on=_has_bfloat16,
    ),
    Goal(
        "% of the bfloat16 product rate, XLM-R large shape, worse of both lengths",
        "utilization",
        50.0,
        _column("of_peak_percent", model="XLM-R large shape"),
        on=_has_gpu,
    ),
    Goal("% of replies in the budget at 3 x capacity", "load", 100.0, _column("in_budget_percent", load=_MOST_LOAD)),
    Goal("% of the best goodput at 3 x capacity", "load", 90.0, _column("of_best_percent", load=_MOST_LOAD)),
    Goal("ms outside the forward, p50", "single_call", 3.0, _column("p50_ms", what=OUTSIDE), at_least=False),
    Goal("ms outside the forward, p99", "single_call", 8.0, _column("p99_ms", what=OUTSIDE), at_least=False),
    Goal("of the resident memory grown over the run", "soak", _GROWTH_SHARE, _growth, at_least=False),
)


def reached(results: Sequence[Kept]) -> list[dict[str, Any]]:
    """One row for each goal and machine that has a figure for it; where there are several figures, the worst one."""
    rows = []
    for goal in GOALS:
        for kept in results:
            figures = goal.figures(kept["rows"]) if kept["name"] == goal.bench and goal.on(kept["machine"]) else []
            if figures:
                worst = min(figures) if goal.at_least else max(figures)
                met = worst >= goal.bound if goal.at_least else worst <= goal.bound
                sign = "at least" if goal.at_least else "at most"
                rows.append(
                    {
                        "figure": goal.what,
                        "machine": kept["machine"]["slug"],
                        "goal": f"{sign} {goal.bound:g}",
                        "measured": round(worst, 3),
                        "reached": "yes" if met else "no",
                    }
                )
    return rows
