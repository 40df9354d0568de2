"""Draws the pictures of docs/benchmarks.md from the JSON of the benches."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

Kept = Mapping[str, Any]
_BLUE, _ORANGE, _GREEN, _GREY = "#0072B2", "#D55E00", "#009E73", "#666666"
"""Colours of Okabe and Ito's palette, which the colour-blind can tell apart; lines differ in dash and marker too."""
_ROOM_MIB = 25
_LINES = {"constant": ("-", "o"), "poisson": ("--", "s")}


def load(kept: Kept) -> Figure:
    """Latency and goodput over the load."""
    figure, (left, right) = _figure(2)
    for arrivals, (dash, marker) in _LINES.items():
        rows = [row for row in kept["rows"] if row["arrivals"] == arrivals]
        loads = [row["load"] for row in rows]
        style: dict[str, Any] = {"linestyle": dash, "marker": marker, "markersize": 4}
        left.plot(loads, _values(rows, "p99_ms"), color=_ORANGE, label=f"p99, {arrivals}", **style)
        left.plot(loads, _values(rows, "p50_ms"), color=_BLUE, label=f"p50, {arrivals}", **style)
        right.plot(
            loads,
            _values(rows, "goodput_per_s"),
            color=_GREEN,
            label=f"reranked in time (or in part), {arrivals}",
            **style,
        )
    series = kept["series"]
    left.axhline(series["budget_ms"], color=_GREY, linestyle=":", label=f"budget, {series['budget_ms']} ms")
    right.axhline(series["capacity_per_s"], color=_GREY, linestyle=":", label="capacity")
    _label(left, "Latency from when a call was due", "load (calls due / capacity)", "latency (ms)")
    _label(right, "Goodput", "load (calls due / capacity)", "calls per second")
    return figure


def mixed_load(kept: Kept) -> Figure:
    """The distribution of the short calls' latencies, with and without others beside them."""
    figure, (axes,) = _figure(1)
    styles = zip((_BLUE, _GREEN, _ORANGE), ("-", "--", "-."), strict=True)
    for (name, times), (colour, dash) in zip(kept["series"]["latency_ms"].items(), styles, strict=False):
        shares = [100 * (place + 1) / len(times) for place in range(len(times))]
        axes.plot(times, shares, color=colour, linestyle=dash, label=f"short calls {name}")
    budget_ms = kept["series"]["budget_ms"]
    axes.axvline(budget_ms, color=_GREY, linestyle=":", label=f"budget, {budget_ms} ms")
    _label(axes, "Does one long text delay the rest?", "latency (ms)", "share of short calls (%)")
    return figure


def soak(kept: Kept) -> Figure:
    """Resident memory over the calls."""
    figure, (axes,) = _figure(1)
    calls, rss = zip(*kept["series"]["calls_and_rss_mib"], strict=True)
    axes.plot(calls, rss, color=_BLUE, label="server, resident")
    warm_up = kept["series"]["warm_up_share"] * calls[-1]
    axes.axvspan(0, warm_up, color=_GREY, alpha=0.15, label="warm-up")
    growth = kept["rows"][0]["growth_mib"]
    end = kept["rows"][0]["rss_end_mib"]
    axes.plot([warm_up, calls[-1]], [end - growth, end], color=_ORANGE, linestyle="--", label=f"slope, {growth} MiB")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    _label(axes, "Memory of the server (the axis does not start at 0)", "calls answered", "resident memory (MiB)")
    axes.set_ylim(min(rss) - _ROOM_MIB, max(rss) + _ROOM_MIB)
    return figure


PLOTS: Mapping[str, Callable[[Kept], Figure]] = {"load": load, "mixed_load": mixed_load, "soak": soak}
"""The benches that have a picture."""


def draw(kept: Kept, folder: Path) -> str | None:
    """Draw one bench's picture and return its file name in the folder; None for a bench without one."""
    if kept["name"] not in PLOTS:
        return None
    name = file_name(kept)
    PLOTS[kept["name"]](kept).savefig(folder / name, dpi=110, metadata={"Software": None})
    return name


def file_name(kept: Kept) -> str:
    """File name of the picture of one bench on one machine."""
    return f"benchmarks-{kept['name'].replace('_', '-')}-{kept['machine']['slug']}.png"


def _figure(panels: int) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(5.6 * panels, 4.0), layout="constrained")
    return figure, [figure.add_subplot(1, panels, place + 1) for place in range(panels)]


def _label(axes: Axes, title: str, across: str, up: str) -> None:
    axes.set_title(title, fontsize=11)
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.set_ylim(0, 1.08 * axes.get_ylim()[1])
    axes.set_xlim(left=0)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)


def _values(rows: list[dict[str, Any]], key: str) -> list[float]:
    return [float("nan") if row[key] is None else row[key] for row in rows]
