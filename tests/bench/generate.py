"""Runs the load generator as a process and reads what it found."""

import json
import subprocess
import sys
from dataclasses import asdict

from tests.bench.generator import Call, Plan, Result
from tests.bench.server import Server

_IMPORTS_S = 30.0
"""Seconds for the generator's start and for building its requests."""


def generated(server: Server, plan: Plan) -> Result:
    """Run a plan in a process of its own, and return its result.

    Raises:
        ServerDied: the server has ended.
        subprocess.SubprocessError: the generator failed, or took longer than its plan allows.
    """
    server.check()
    limit_s = plan.seconds + plan.patience_s + _IMPORTS_S
    command = [sys.executable, "-m", "tests.bench.generator"]
    try:
        done = subprocess.run(
            command, input=json.dumps(asdict(plan)), stdout=subprocess.PIPE, text=True, timeout=limit_s, check=True
        )
    finally:
        server.check()
    found = json.loads(done.stdout)
    return Result([Call(**call) for call in found["calls"]], found["cpu_s"], found["wall_s"])
