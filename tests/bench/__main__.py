"""Runs the benches one after the other, each in a process of its own and within its time.

    make bench                              all but the memory run, which takes long: make soak
    python -m tests.bench [--quick] [NAME...]

One that fails or takes too long is reported and the next one runs; the exit status is then 1.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

from rich.console import Console

LIMITS_S = {
    "throughput": 420.0,
    "utilization": 180.0,
    "load": 360.0,
    "single_call": 240.0,
    "small": 60.0,
    "repeated_call": 330.0,
    "mixed_load": 240.0,
}
"""The benches of `make bench`, and how long each may take at most."""


def run(name: str, options: Sequence[str], limit_s: float) -> str:
    """Run one bench; empty when it went well, else what went wrong. Whatever it started ends with it."""
    command = [sys.executable, "-m", f"tests.bench.{name}", *options]
    process = subprocess.Popen(command, start_new_session=True)
    try:
        status = process.wait(limit_s)
    except subprocess.TimeoutExpired:
        return f"took longer than {limit_s:.0f} s and was ended"
    else:
        return f"ended with status {status}" if status else ""
    finally:
        _end(process)


def _end(process: "subprocess.Popen[bytes]") -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description="Runs the benches one after the other.")
    parser.add_argument("--quick", action="store_true", help="few rounds, short phases: to try them, not to report")
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"those to run, of {', '.join(LIMITS_S)}; default: all"
    )
    chosen = parser.parse_args()
    if unknown := set(chosen.names) - set(LIMITS_S):
        parser.error(f"there is no bench {', '.join(sorted(unknown))}")
    console = Console(stderr=True)
    started = time.monotonic()
    failed = []
    for name in chosen.names or LIMITS_S:
        console.rule(name)
        if wrong := run(name, ["--quick"] if chosen.quick else [], LIMITS_S[name]):
            failed.append(f"{name} {wrong}")
    console.print(f"{time.monotonic() - started:.0f} s in all")
    if failed:
        sys.exit("\n".join(failed))


if __name__ == "__main__":
    main()
