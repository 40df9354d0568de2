"""How fast the bundled model scores 100 pairs here, over sentence-transformers' CrossEncoder on the same weights.

    make bench            prints hardware, commit and a table; writes the same as JSON to build/bench.json

Both score the same pairs in the same run, by turns; the figures are medians over the rounds, the ratio is that of the
medians. Lengths are lognormal with a mean of about 85 tokens, and of about 250.
"""

import asyncio
import json
import platform
import random
import statistics
import subprocess
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from sentence_transformers import CrossEncoder

from sidecar.deadline import Deadline
from sidecar.metrics import Metrics
from sidecar.scheduler import Scheduler
from sidecar.scoring import checkpoint, loader
from sidecar.settings import BUNDLED, ModelSettings

PAIRS = 100
ROUNDS = 5
MEANS = (85, 250)
QUERY = "which apple varieties keep well in winter storage"
_WORDS = ("apple", "storage", "winter", "cellar", "keep", "cool", "paper", "fruit", "price", "orchard", "sugar", "skin")


def passages(mean_tokens: int, seed: int = 7) -> list[str]:
    """Passages of plain English words, about a token each; lognormal lengths (sigma 0.6), so a few are long."""
    draw = random.Random(seed)
    lengths = [max(4, round(draw.lognormvariate(0, 0.6) * mean_tokens / 1.2) - 12) for _ in range(PAIRS)]
    return [" ".join(draw.choices(_WORDS, k=length)) for length in lengths]


async def ours_s(texts: list[str]) -> list[float]:
    """Seconds of each round: tokens, queue, batches and scores, as a request has them."""
    scheduler = Scheduler(10_000, Metrics())
    scheduler.start()
    model = loader.load("bench", ModelSettings())
    seconds = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        pairs = model.scorer.encode(QUERY, texts)
        deadline = Deadline.earliest(time.monotonic(), 600)
        await scheduler.result(scheduler.submit(model, [[pair] for pair in pairs], deadline))
        seconds.append(time.perf_counter() - started)
    await scheduler.stop()
    return seconds


def theirs_s(texts: list[str]) -> list[float]:
    """Seconds of each round of CrossEncoder.predict as it comes (batches of 32)."""
    model = CrossEncoder(checkpoint.location(BUNDLED), device="cuda" if torch.cuda.is_available() else "cpu")
    model.predict([(QUERY, texts[0])])
    seconds = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        model.predict([(QUERY, text) for text in texts], show_progress_bar=False)
        seconds.append(time.perf_counter() - started)
    return seconds


def hardware() -> str:
    """What the figures were measured on."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    model = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line), "")
    return f"{model.partition(':')[2].strip() or platform.processor()}, {torch.get_num_threads()} threads"


def measure(mean_tokens: int) -> dict[str, Any]:
    """One row of the table."""
    texts = passages(mean_tokens)
    ours, theirs = statistics.median(asyncio.run(ours_s(texts))), statistics.median(theirs_s(texts))
    return {
        "mean_tokens": mean_tokens,
        "sidecar_ms": round(ours * 1e3, 1),
        "cross_encoder_ms": round(theirs * 1e3, 1),
        "sidecar_pairs_per_s": round(PAIRS / ours, 1),
        "ratio": round(theirs / ours, 2),
    }


def main() -> None:
    """Measure, print, write."""
    console = Console()
    rows = [measure(mean) for mean in track(MEANS, description="measuring", console=console, transient=True)]
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False).stdout
    title = f"{PAIRS} pairs, bundled model, {hardware()}, torch {torch.__version__}, commit {commit.strip() or 'none'}"
    table = Table(title=title, title_justify="left", expand=False)
    for name in rows[0]:
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(*map(str, row.values()))
    console.print(table)
    Path("build").mkdir(exist_ok=True)
    Path("build/bench.json").write_text(json.dumps({"title": title, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
