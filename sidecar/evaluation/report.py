"""Reports a study: tables, verdict, the queries it hurts and a picture for people; JSON and YAML for programs."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from matplotlib.figure import Figure
from rich import box
from rich.console import Console, RenderableType
from rich.markup import escape
from rich.table import Table

from sidecar.evaluation import measures, study
from sidecar.evaluation.asking import Answer
from sidecar.evaluation.measures import Comparison
from sidecar.evaluation.study import Advice, Measured, Study

JSON, PICTURE, POLICY = "eval.json", "eval.png", "policy.yaml"
"""Names of the files in the folder of a report."""
_HURT = 3
_SHOWN = 5
_BLUE, _ORANGE, _GREY = "#0072B2", "#D55E00", "#666666"
"""From Okabe and Ito's palette, whose colours the colour-blind can tell apart."""


def show(found: Study, advice: Advice, console: Console) -> None:
    """Print notes, tables, warnings, the conclusion, and the queries that the chosen variant hurts."""
    for note in found.judgments.notes:
        console.print(f"note: {escape(note)}")
    console.print(quality(found))
    console.print(times(found))
    for line in warnings(found):
        console.print(f"[bold yellow]warning:[/] {escape(line)}")
    for line in conclusion(found, advice):
        console.print(escape(line))
    for part in _hurt(found, advice.chosen):
        console.print(part)


def quality(found: Study) -> Table:
    """How good the orders are: the engine's, and each variant's."""
    total = len(found.judgments.queries)
    shown = _table(f"{total} {'query' if total == 1 else 'queries'}, measured over all of them")
    for heading in (*measures.names(found.cutoff), "difference (95 %)", "p", "won:lost"):
        shown.add_column(heading, justify="right", no_wrap=True)
    shown.add_row("engine's", *(f"{measures.mean(values):.3f}" for values in found.engine.values()))
    for one in found.measured:
        compared = found.against_engine(one)
        between = "" if compared.low is None else f" ({compared.low:+.3f} {compared.high:+.3f})"
        shown.add_row(
            name_of(one, found),
            *(f"{measures.mean(values):.3f}" for values in one.values.values()),
            f"{compared.difference:+.3f}{between}",
            chance(compared),
            f"{compared.wins}:{compared.losses}",
        )
    return shown


def chance(compared: Comparison) -> str:
    """Format a p-value for people; `-` if there is none."""
    if compared.p_value is None:
        return "-"
    return "<.001" if compared.p_value < 0.001 else f"{compared.p_value:.3f}"


def times(found: Study) -> Table:
    """How long calls took, seen from the caller."""
    shown = _table("Times of calls, one after the other")
    for heading in ("p50 ms", "p99 ms", "too late"):
        shown.add_column(heading, justify="right", no_wrap=True)
    shown.add_row("engine's", f"{found.measured[0].times.engine_p50_ms:.0f}")
    for one in found.measured:
        taken = one.times
        figures = f"{taken.p50_ms:.0f}", f"{taken.p99_ms:.0f}", f"{100 * taken.late_share:.0f} %"
        shown.add_row(name_of(one, found), *figures)
    return shown


def _table(title: str) -> Table:
    shown = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    shown.add_column("order", no_wrap=True)
    return shown


def name_of(one: Measured, found: Study) -> str:
    """A variant in one line: model, where there are several, tokens of a pair, window, fusion."""
    variant = one.variant
    several = len({other.variant.model for other in found.measured}) > 1
    tokens = "" if variant.max_length is None else f"{variant.max_length} tokens, "
    top = f"top {variant.window}, " if variant.window else ""
    return f"{f'{variant.model}, ' if several else ''}{tokens}{top}{variant.fusion}"


def warnings(found: Study) -> Iterator[str]:
    """Yield warnings of orders that are not the model's, and of figures from too few queries."""
    total = len(found.judgments.queries)
    for one in found.measured:
        if fell_back := one.fell_back:
            kept = [query for query in one.answers if query not in set(fell_back)]
            ours = f"{measures.mean(one.values[found.measure], kept):.3f}" if kept else "unknown"
            yield (
                f"{name_of(one, found)}: {len(fell_back)} of {total} answers are the engine's order or part of it "
                f"({_counted(one)}): its {found.measure} above is not the model's. Over the others it is {ours}"
            )
        if one.times.doubtful:
            yield (
                f"{name_of(one, found)}: {one.times.late} of {one.times.calls} timed calls came too late, which may be "
                "chance and may be more than 1 % of all: only more timed queries tell"
            )
    if total < study.ENOUGH_TO_HOLD_OUT:
        too_few = "1 query is too few" if total == 1 else f"{total} queries are too few"
        yield f"{too_few} to hold some back: what was chosen is not confirmed by others"


def _counted(one: Measured) -> str:
    reasons = [one.answers[query].reason for query in one.fell_back]
    return ", ".join(f"{reason} {reasons.count(reason)}" for reason in sorted(set(reasons)))


def conclusion(found: Study, advice: Advice) -> Iterator[str]:
    """Yield sentences on which variant to take, and whether to take one at all."""
    compared = advice.confirmed
    tuned, held = len(found.split.tuning), len(found.split.held_out)
    among = "of what fits the budget" if advice.fits else "though nothing fits the budget"
    yield f"Chosen by {found.measure} on {tuned} queries, {among}: {name_of(advice.chosen, found)}"
    if not advice.fits:
        yield "More than 1 % of the calls come too late with each variant: take a smaller window or a larger budget"
    others = f"On {held} other queries" if found.split.is_split else "On the same queries"
    figures = f"{compared.difference:+.3f} {found.measure}, {compared.wins} won, {compared.losses} lost"
    rare = "" if compared.p_value is None else f", p {chance(compared)}"
    yield f"{others}: reranking {advice.verdict} ({figures}{rare})"
    if advice.fits and not advice.measured:
        yield f"None of the answers is the model's ({_counted(advice.chosen)}): whether it would help is not known"
    elif not advice.worth_it:
        yield "Leave it off for this index (`enabled: false`)"


def _hurt(found: Study, one: Measured) -> Iterator[RenderableType]:
    """The queries that lost most, with both orders side by side; judged documents carry their grade."""
    for query in found.hurt_most(one, _HURT):
        answer, grades = one.answers[query], found.judgments.grades[query]
        before, after = found.engine[found.measure][query], one.values[found.measure][query]
        text = escape(found.judgments.queries[query])
        shown = Table(
            title=f"hurt: {text} ({found.measure} {before:.3f} -> {after:.3f})", title_justify="left", expand=True
        )
        for heading in ("#", "engine's order", "reranked"):
            shown.add_column(heading, ratio=1 if len(heading) > 1 else None, overflow="ellipsis", no_wrap=True)
        for rank in range(min(_SHOWN, max(len(answer.original), len(answer.final)))):
            both = (_document(answer, order, rank, grades) for order in (answer.original, answer.final))
            shown.add_row(str(rank), *both)
        yield shown


def _document(answer: Answer, order: Any, rank: int, grades: Mapping[str, int]) -> str:
    if rank >= len(order):
        return ""
    document = order[rank]
    mark = f"[bold green]\\[{grades[document]}][/] " if grades.get(document) else ""
    return mark + escape(f"{answer.texts.get(document, document)}".replace("\n", " "))


def picture(found: Study, advice: Advice) -> Figure:
    """Quality over median time, one point a variant, with the frontier drawn."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    engine = measures.mean(found.engine[found.measure])
    axes.axhline(engine, color=_GREY, linestyle=":", label=f"engine's order, {engine:.3f}")
    axes.scatter(found.measured[0].times.engine_p50_ms, engine, color=_GREY, marker="s", label="engine alone")
    points = [(one.times.p50_ms, measures.mean(one.values[found.measure])) for one in found.measured]
    axes.scatter(*zip(*points, strict=True), color=_BLUE, label="variant")
    best = [(one.times.p50_ms, measures.mean(one.values[found.measure])) for one in study.frontier(found)]
    axes.plot(*zip(*best, strict=True), color=_BLUE, linestyle="--", linewidth=1, label="frontier")
    for one, (x, y) in zip(found.measured, points, strict=True):
        axes.annotate(name_of(one, found), (x, y), fontsize=7, xytext=(4, 4), textcoords="offset points")
    chosen = advice.chosen
    at = (chosen.times.p50_ms, measures.mean(chosen.values[found.measure]))
    axes.scatter(*at, s=120, facecolors="none", edgecolors=_ORANGE, linewidths=2, label="chosen")
    axes.set(
        title=f"Quality and time of each variant, {len(found.judgments.queries)} queries",
        xlabel="p50 of a call (ms)",
        ylabel=found.measure,
    )
    axes.margins(x=0.3, y=0.1)
    axes.set_xlim(left=0)
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    return figure


def write(found: Study, advice: Advice, policy: Mapping[str, Any] | None, folder: Path) -> list[Path]:
    """Write all figures as JSON, the picture, and the policy as YAML (None: no such file); return the files."""
    folder.mkdir(parents=True, exist_ok=True)
    content, drawn, advised = (folder / name for name in (JSON, PICTURE, POLICY))
    content.write_text(json.dumps(_content(found, advice), indent=2), encoding="utf-8")
    picture(found, advice).savefig(drawn, dpi=120)
    if policy is None:
        return [content, drawn]
    notes = [f"note: {note}" for note in found.judgments.notes]
    head = "".join(f"# {' '.join(line.split())}\n" for line in (*notes, *conclusion(found, advice)))
    advised.write_text(head + yaml.safe_dump(dict(policy), sort_keys=False, allow_unicode=True), encoding="utf-8")
    return [content, drawn, advised]


def _content(found: Study, advice: Advice) -> dict[str, Any]:
    return {
        "measure": found.measure,
        "queries": len(found.judgments.queries),
        "notes": list(found.judgments.notes),
        "warnings": list(warnings(found)),
        "engine": {measure: measures.mean(values) for measure, values in found.engine.items()},
        "variants": [study.row(found, one) for one in found.measured],
        "chosen": study.row(found, advice.chosen),
        "verdict": advice.verdict,
        "held_out": {
            "queries": len(found.split.held_out) if found.split.is_split else 0,
            "difference": advice.confirmed.difference,
            "p_value": advice.confirmed.p_value,
        },
        "conclusion": list(conclusion(found, advice)),
        "by_query": {
            query: {
                "query": text,
                "engine": {measure: values[query] for measure, values in found.engine.items()},
                "variants": [
                    {measure: values[query] for measure, values in one.values.items()} for one in found.measured
                ],
                "outcomes": [one.answers[query].outcome for one in found.measured],
            }
            for query, text in found.judgments.queries.items()
        },
    }
