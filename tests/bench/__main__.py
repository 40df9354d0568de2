"""Runs the benches one after the other, each in a process of its own and within its time.

    make bench                              all but the memory run, which takes long: make soak
    python -m tests.bench [--quick] [NAME...]
    make bench-gpu                          on a machine with a GPU: the benches that it affects, in 8 minutes
    python -m tests.bench --gpu [NAME...]

One that fails or takes too long is reported and the next one runs; the exit status is then 1.

The first throughput run on a machine installs infinity, a rival, from the package index into build/infinity; this
takes minutes and a network. If the variable INFINITY_PYTHON names an interpreter that has it, nothing is installed.
--gpu installs nothing: it leaves infinity out if it is not installed yet.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence

from rich.console import Console

from tests.bench import infinity_environment, machine

LIMITS_S = {
    "throughput": 420.0,
    "utilization": 180.0,
    "load": 600.0,
    "single_call": 240.0,
    "outside": 120.0,
    "small": 60.0,
    "repeated_call": 330.0,
    "mixed_load": 240.0,
}
"""The benches of `make bench`, and the most seconds that each may take."""
GPU_LIMITS_S = {"throughput": 120.0, "utilization": 90.0, "load": 130.0, "single_call": 70.0, "outside": 50.0}
"""The same for a machine with a GPU, under 8 minutes in all, without parts and caches: the CPU decides on those."""
GPU_OPTIONS = {"load": ("--seconds", "6")}
WITHOUT_INFINITY = ("--without", "infinity")


def planned(names: Sequence[str], *, gpu: bool = False, quick: bool = False) -> dict[str, tuple[list[str], float]]:
    """Options and time limit in s of each bench to run: those in ``names``, or all.

    Raises:
        ValueError: one of the names is not that of a bench.
    """
    limits_s = GPU_LIMITS_S if gpu else LIMITS_S
    if unknown := set(names) - set(limits_s):
        of = "the benches for a GPU" if gpu else "the benches"
        raise ValueError(f"there is no bench {', '.join(sorted(unknown))} in {of}: {', '.join(limits_s)}")
    options = {
        name: [*(GPU_OPTIONS.get(name, ()) if gpu else ()), *(["--quick"] if quick else [])] for name in limits_s
    }
    if gpu and not infinity_environment.is_made():
        options["throughput"] += WITHOUT_INFINITY
    return {name: (options[name], limits_s[name]) for name in names or limits_s}


def run(name: str, options: Sequence[str], limit_s: float) -> str:
    """Run one bench and then end all processes that it started; empty if it went well, else what went wrong."""
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


def _run_all(plan: Mapping[str, tuple[Sequence[str], float]]) -> list[str]:
    """Run the benches of a plan, and return what went wrong, a clause for each that failed."""
    console = Console(stderr=True)
    started = time.monotonic()
    failed = []
    for name, (options, limit_s) in plan.items():
        console.rule(name)
        if wrong := run(name, options, limit_s):
            failed.append(f"{name} {wrong}")
    console.print(f"{time.monotonic() - started:.0f} s in all")
    return failed


def main() -> None:
    """See the module."""
    about = (__doc__ or "").partition("One that fails")
    parser = argparse.ArgumentParser(
        description="Runs the benches one after the other.",
        epilog="".join(about[1:]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="few rounds, short phases: to try them, not to report")
    parser.add_argument(
        "--gpu", action="store_true", help=f"those for a GPU, in at most {sum(GPU_LIMITS_S.values()):.0f} s"
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"those to run, of {', '.join(LIMITS_S)}; default: all"
    )
    chosen = parser.parse_args()
    try:
        plan = planned(chosen.names, gpu=chosen.gpu, quick=chosen.quick)
    except ValueError as error:
        parser.error(str(error))
    if chosen.gpu and machine.device() != "cuda":
        parser.error("--gpu needs a CUDA device that torch can use, and there is none: run it without --gpu")
    failed = _run_all(plan)
    if failed:
        sys.exit("\n".join(failed))


if __name__ == "__main__":
    main()
