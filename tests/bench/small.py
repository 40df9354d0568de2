"""Times of the small parts of a call: tokenise, order, parse, reply, the engine's answer.

    python -m tests.bench.small

Runs tests/bench/test_small.py with pytest-benchmark and keeps its medians.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.bench import section
from tests.bench.section import Section

_LIMIT_S = 50.0
_TESTS = str(Path(__file__).with_name("test_small.py"))
MEANING = {
    "part": "what is timed, alone and in one thread",
    "median_us": "half of the rounds took no longer, in microseconds",
    "iqr_us": "interquartile range of the rounds",
    "rounds": "rounds timed",
}


def rows_of(benchmarks: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row for each benchmark of pytest-benchmark's JSON, the slowest first."""
    rows = [
        {
            "part": one["name"].removeprefix("test_").replace("_", " "),
            "median_us": round(one["stats"]["median"] * 1e6, 1),
            "iqr_us": round(one["stats"]["iqr"] * 1e6, 1),
            "rounds": one["stats"]["rounds"],
        }
        for one in benchmarks
    ]
    return sorted(rows, key=lambda row: -row["median_us"])


def measure(chosen: argparse.Namespace) -> Section:
    """Run the tests, and read what they wrote."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "small.json")
        command = [sys.executable, "-m", "pytest", "-q", _TESTS, "--benchmark-only", f"--benchmark-json={file}"]
        quick = ["--benchmark-max-time=0.1"] if chosen.quick else []
        done = subprocess.run([*command, *quick], capture_output=True, text=True, timeout=_LIMIT_S, check=False)
        if done.returncode:
            raise RuntimeError(f"pytest ended with status {done.returncode}:\n{done.stdout[-2000:]}")
        benchmarks = json.loads(file.read_text())["benchmarks"]
    return Section("small", f"Small parts of a call: {benchmarks[0]['group']}", rows_of(benchmarks), MEANING)


if __name__ == "__main__":
    section.run(measure, __doc__ or "")
