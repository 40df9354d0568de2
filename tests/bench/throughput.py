"""How fast the bundled model scores 100 pairs here, against others that run the same weights.

    python -m tests.bench.throughput [--rounds N] [--without infinity,onnx]

All score the same pairs in the same run, by turns, tokenisation included; every round has new texts, so that no cache
helps. Figures are medians over the rounds; a ratio is that of two medians. Lengths are lognormal.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress

from tests.bench import section, texts
from tests.bench.contestants import (
    Contestant,
    Floats,
    Infinity,
    OnnxLoop,
    SentenceTransformers,
    Sidecar,
    Unavailable,
    in_int8,
    seconds,
)
from tests.bench.machine import device
from tests.bench.section import Row, Section

PAIRS = 100
MEANS = (85, 250)
ROUNDS, QUICK_ROUNDS = 5, 1
_ENOUGH_S, _LEAST_ROUNDS = {"cpu": 90.0, "cuda": 35.0}, 2
"""After this time and this many rounds a slow machine has done enough of one mean length."""
AS_IT_COMES = "CrossEncoder as it comes"
MEANING = {
    "tokens": "mean length of a pair",
    "who": "who scores; `CrossEncoder` is sentence-transformers', `tuned` is the fastest of several batch sizes",
    "dtype": "number type of the weights and of the arithmetic",
    "median_ms": f"time for {PAIRS} pairs, tokenisation included",
    "pairs_per_s": f"{PAIRS} pairs over that time",
    "sidecar_is_faster_by": "this row's time over the sidecar's with its default settings",
    "rounds": "rounds that the median is of",
    "largest_difference": f"of a raw score from `{AS_IT_COMES}`; float32 is the reference",
}


def contestants(without: Sequence[str]) -> tuple[list[Contestant], list[str]]:
    """The contestants that can run here, the sidecar first, and why each of the others cannot."""
    sidecar = Sidecar()
    half = sidecar.dtype
    makers: list[Callable[[], Contestant]] = [
        lambda: SentenceTransformers(AS_IT_COMES, "float32"),
        lambda: SentenceTransformers("CrossEncoder", "float32", tuned=True),
    ]
    if half != "float32":
        makers.append(lambda: Sidecar("sidecar in float32", dtype="float32"))
        makers.append(lambda: SentenceTransformers("CrossEncoder", half))
        makers.append(lambda: SentenceTransformers("CrossEncoder", half, tuned=True))
    if device() == "cuda" and half != "float16":
        makers.append(lambda: SentenceTransformers("CrossEncoder", "float16"))
    dtypes = dict.fromkeys(("float32", half))
    makers += [] if "infinity" in without else [partial(Infinity, dtype) for dtype in dtypes]
    makers += [] if "onnx" in without else [in_int8, OnnxLoop]
    found: list[Contestant] = [sidecar]
    absent = []
    for make in makers:
        try:
            found.append(make())
        except Unavailable as error:
            absent.append(str(error))
    return found, sorted(set(absent))


def race(
    runners: Sequence[Contestant], mean_tokens: int, rounds: int, advance: Callable[[], None]
) -> tuple[list[Row], list[str]]:
    """One row for each contestant, and why each that failed in the race did."""
    for runner in runners:
        if isinstance(runner, SentenceTransformers):
            runner.tune(texts.QUERY, texts.passages(mean_tokens, PAIRS, seed=mean_tokens))
    times: dict[int, list[float]] = {place: [] for place in range(len(runners))}
    scores: dict[int, Floats] = {}
    failed: dict[int, str] = {}
    started = time.monotonic()
    for number in range(-1, rounds):
        if number >= _LEAST_ROUNDS and time.monotonic() - started > _ENOUGH_S[device()]:
            break
        passages = texts.passages(mean_tokens, PAIRS, seed=100 * mean_tokens + number)
        for turn in range(len(runners)):
            place = (turn + number) % len(runners)
            if place in failed:
                continue
            try:
                took = seconds(lambda: scores.update({place: runners[place].score(texts.QUERY, passages)}))  # noqa: B023
            except Unavailable as error:
                failed[place] = str(error)
                continue
            if number >= 0:  # the first one warms up
                times[place].append(took)
        advance()
    running = {place: statistics.median(taken) for place, taken in times.items() if taken and place not in failed}
    exact = next((scores[place] for place in running if runners[place].name == AS_IT_COMES), None)
    rows: list[Row] = [
        {
            **_row(runners[place], mean_tokens, median, running[0]),
            "rounds": len(times[place]),
            "largest_difference": None if exact is None else float(f"{np.abs(scores[place] - exact).max():.2g}"),
        }
        for place, median in running.items()
    ]
    return rows, sorted(set(failed.values()))


def _row(runner: Contestant, mean_tokens: int, median_s: float, sidecar_s: float) -> dict[str, Any]:
    return {
        "tokens": mean_tokens,
        "who": runner.name,
        "dtype": runner.dtype,
        "median_ms": round(median_s * 1e3, 1),
        "pairs_per_s": round(PAIRS / median_s, 1),
        "sidecar_is_faster_by": round(median_s / sidecar_s, 2),
    }


def measure(chosen: argparse.Namespace) -> Section:
    """Race all contestants at all mean lengths."""
    rounds = QUICK_ROUNDS if chosen.quick else chosen.rounds
    runners, notes = contestants(chosen.without.split(","))
    rows: list[Row] = []
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("rounds", total=len(MEANS) * (rounds + 1))
        for mean in MEANS:
            more, failed = race(runners, mean, rounds, lambda: progress.advance(task))
            rows += more
            notes += failed
    for runner in runners:
        runner.close()
    title = (
        f"Throughput: {PAIRS} pairs, bundled model (MiniLM-L6 shape), {device()}, "
        f"{torch.get_num_threads()} threads, by turns"
    )
    return Section(
        "throughput", title, rows, MEANING, notes=[f"Not in the table: {note}." for note in dict.fromkeys(notes)]
    )


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="rounds that count, after one that warms up")
    parser.add_argument("--without", default="", help="leave out infinity, onnx or both, with a comma between")


if __name__ == "__main__":
    section.run(measure, __doc__ or "", _options)
