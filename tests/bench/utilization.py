"""What share of this device's measured matrix product rate the scorer reaches.

    python -m tests.bench.utilization [--rounds N] [--large auto|yes|no]

Pairs are encoded beforehand and scored through the scheduler; operations are counted by the formula of
tests/bench/flops.py, padding not counted. The rate is that of the fastest product of several shapes, all of them
measured anew before and after each job, since a shared machine is at times half as fast; each is repeated for as long
as a job takes, since that speed changes within a job, too. On CUDA also for a model of XLM-R large's shape with random
weights.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from operator import truediv
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.progress import track

from sidecar.scoring import checkpoint
from sidecar.scoring.base import Pair, Scorer
from sidecar.settings import BUNDLED
from tests import checkpoints
from tests.bench import section, texts
from tests.bench.contestants import Sidecar, seconds
from tests.bench.flops import shape_of
from tests.bench.machine import device
from tests.bench.section import Row, Section

MEANS = (85, 250)
ROUNDS, QUICK_ROUNDS = 15, 2
_LEAST_RUNS = 3
_ENOUGH_S, _LEAST_ROUNDS = 45.0, 5
"""After this time and this many rounds a slow machine has done enough of one mean length."""
_OWN_ROWS = 8192
_SQUARES = {"cpu": (1024, 2048, 4096), "cuda": (4096, 8192, 16384)}
_LARGE: dict[str, Any] = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "initializer_range": 0.02,
}
MEANING = {
    "model": "`bundled`, or random weights in the shape of XLM-R large without its vocabulary (303 million parameters)",
    "dtype": "number type of the weights and of the arithmetic",
    "tokens": "mean length of a pair",
    "pairs": "pairs of one job",
    "rounds": "jobs that the medians are of",
    "median_ms": "from handing in the encoded pairs to their scores",
    "pairs_per_s": "pairs over that time",
    "tflops": "operations of the formula over that time, in 10^12 per second",
    "sustained_tflops": "the fastest matrix product in the same dtype just before or after a job, of squares and of "
    "the shape of the model's own layers, each repeated for as long as the job took; median of all jobs",
    "fastest_product": "its shape, beside most jobs; where that column is missing, that of `peak_tflops`",
    "of_sustained_percent": "the median of each job's rate over the product's beside it; on shared AMX cores whose "
    "products ran at 2.4 tflops for a while, else at 1.0, it was 48 % then (85 tokens, before commit 32b60e8)",
    "peak_tflops": "the same, of the fastest repetition alone, which takes some milliseconds",
    "of_peak_percent": "the median of each job's rate over that of the fastest repetition beside it; in runs of before "
    "commit 0b5397a `tflops` over `peak_tflops`, which was the best of the whole run",
}


Product = tuple[int, int, int]
"""Rows, inner size and columns of a matrix product."""


class Peak(NamedTuple):
    """Operations per second of the fastest products."""

    sustained: float
    product: Product
    """The one that is fastest when all are repeated."""
    fastest: float
    """Of the fastest single repetition of any of them."""


def fastest_products(dtype: torch.dtype, hidden: int, for_s: float) -> Peak:
    """The most operations per second of square products and one of the shape of the model's own layers."""
    products = [*((size, size, size) for size in _SQUARES[device()]), (_OWN_ROWS, hidden, 4 * hidden)]
    rates = [(*product_flops(dtype, product, for_s), product) for product in products]
    sustained, _, product = max(rates)
    return Peak(sustained, product, max(fastest for _, fastest, _ in rates))


def product_flops(dtype: torch.dtype, product: Product, for_s: float) -> tuple[float, float]:
    """Operations per second of a product repeated for ``for_s``, a few times at least: of all and of the fastest."""
    rows, inner, columns = product
    left = torch.randn(rows, inner, device=device(), dtype=dtype)
    right = torch.randn(inner, columns, device=device(), dtype=dtype)

    def multiply() -> None:
        torch.mm(left, right)
        if device() == "cuda":
            torch.cuda.synchronize()

    multiply()
    times: list[float] = []
    while len(times) < _LEAST_RUNS or sum(times) < for_s:
        times.append(seconds(multiply))
    operations = 2.0 * rows * inner * columns
    return operations / statistics.mean(times), operations / min(times)


@contextmanager
def models(large: bool) -> Iterator[list[tuple[str, str, int]]]:
    """(name, folder, pairs of a job) of each model to measure; the large one is built here and deleted afterwards."""
    found = [("bundled", checkpoint.location(BUNDLED), 100)]
    with tempfile.TemporaryDirectory() as folder:
        if large:
            checkpoints.build(Path(folder), "xlm-roberta", **_LARGE)
            found.append(("XLM-R large shape", folder, 400 if device() == "cuda" else 20))
        yield found


def measured(name: str, folder: str, pairs: int, rounds: int) -> list[dict[str, Any]]:
    """One row for each mean length."""
    sidecar = Sidecar(checkpoint=folder)
    dtype = getattr(torch, sidecar.dtype)
    shape = shape_of(folder)
    rows = []
    for mean in MEANS:
        times: list[float] = []
        rates, peaks, began = [], [], time.perf_counter()
        for number in range(-1, rounds):
            if len(times) >= _LEAST_ROUNDS and time.perf_counter() - began > _ENOUGH_S:
                break
            encoded = _encoded(sidecar.model.scorer, folder, mean, pairs, seed=mean + 1000 * number)
            took = seconds(partial(sidecar.score_pairs, encoded))
            peaks.append(fastest_products(dtype, shape.hidden, took))
            if number >= 0:
                times.append(took)
                rates.append(shape.operations([pair.tokens for pair in encoded]) / took)
        row = {"model": name, "dtype": sidecar.dtype, "tokens": mean, "pairs": pairs}
        rows.append({**row, **_speed(times, pairs), **share(rates, peaks)})
    sidecar.close()
    return rows


def _encoded(scorer: Scorer, folder: str, mean: int, pairs: int, seed: int) -> list[Pair]:
    """Pairs of ``mean`` tokens on average.

    For a model built here, whose tokenizer knows few words, one pair is stretched to each length.
    """
    if folder == checkpoint.location(BUNDLED):
        return scorer.encode(texts.QUERY, texts.passages(mean, pairs, seed))
    (sample,) = scorer.encode("a", ["a"])
    return [sample.stretched(min(tokens, scorer.max_length)) for tokens in texts.lengths(mean, pairs, seed)]


def _speed(times: list[float], pairs: int) -> dict[str, Any]:
    median = statistics.median(times)
    return {"rounds": len(times), "median_ms": round(median * 1e3, 1), "pairs_per_s": round(pairs / median, 1)}


def share(rates: Sequence[float], peaks: Sequence[Peak]) -> dict[str, Any]:
    """Columns of the jobs' rates; ``peaks[i]`` and ``peaks[i + 1]`` are those of the products around job ``i``."""
    beside = [max(pair) for pair in pairwise(peaks)]
    sustained = [peak.sustained for peak in beside]
    fastest = [max(before.fastest, after.fastest) for before, after in pairwise(peaks)]
    return {
        "tflops": round(statistics.median(rates) / 1e12, 4),
        "sustained_tflops": round(statistics.median(sustained) / 1e12, 3),
        "fastest_product": " x ".join(map(str, statistics.mode(peak.product for peak in beside))),
        "of_sustained_percent": _percent(rates, sustained),
        "peak_tflops": round(statistics.median(fastest) / 1e12, 3),
        "of_peak_percent": _percent(rates, fastest),
    }


def _percent(rates: Sequence[float], limits: Sequence[float]) -> float:
    median: float = statistics.median(map(truediv, rates, limits))
    return round(100 * median, 1)


def measure(chosen: argparse.Namespace) -> Section:
    """Measure all models at all mean lengths."""
    rounds = QUICK_ROUNDS if chosen.quick else chosen.rounds
    large = chosen.large == "yes" or (chosen.large == "auto" and device() == "cuda")
    rows: list[Row] = []
    with models(large) as all_models:
        for name, folder, pairs in track(all_models, "models", console=Console(stderr=True), transient=True):
            rows += measured(name, folder, pairs, rounds)
    title = f"Share of the measured matrix product rate, {device()}"
    return Section("utilization", title, rows, MEANING)


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="rounds that count, after one that warms up")
    parser.add_argument("--large", choices=("auto", "yes", "no"), default="auto", help="auto: on CUDA only")


if __name__ == "__main__":
    section.run(measure, __doc__ or "", _options)
