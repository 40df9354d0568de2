"""A sidecar in a process of its own, started from a YAML file and asked for its metrics."""

import json
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from prometheus_client.parser import text_string_to_metric_families

START_S = 120.0
"""Seconds within which a model must have loaded and warmed up."""
_STOP_S = 15.0
_METRICS_TIMEOUT_S = 5.0
SCORES_ANEW = {"score_cache_mib": 0}
"""Server settings without a score cache: phases and rounds repeat pairs, which are to be scored each time."""


class ServerDied(Exception):
    """The server did not come up, or ended; the message holds the end of its log."""


@dataclass(frozen=True)
class Server:
    """A running sidecar."""

    popen: "subprocess.Popen[bytes]"
    log: Path
    address: str
    metrics_url: str

    def check(self) -> None:
        """Raise :class:`ServerDied` if it has ended."""
        if self.popen.poll() is not None:
            raise ServerDied(f"the server ended with status {self.popen.returncode}:\n{_tail(self.log)}")

    def metrics(self) -> dict[str, float]:
        """Values of all samples by name, as :func:`sums_of` gives them."""
        with urllib.request.urlopen(self.metrics_url, timeout=_METRICS_TIMEOUT_S) as answer:
            return sums_of(answer.read().decode())

    def rss_kib(self) -> int:
        """Resident memory in KiB, from /proc (Linux)."""
        status = Path(f"/proc/{self.popen.pid}/status").read_text()
        return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:")))


def sums_of(exposition: str) -> dict[str, float]:
    """Samples of Prometheus' text format, summed over their labels; histogram buckets are left out."""
    sums: dict[str, float] = {}
    for family in text_string_to_metric_families(exposition):
        for sample in family.samples:
            if not sample.name.endswith("_bucket"):
                sums[sample.name] = sums.get(sample.name, 0.0) + sample.value
    return sums


@contextmanager
def running(
    *,
    policy: Mapping[str, Any],
    model: Mapping[str, Any] | None = None,
    server: Mapping[str, Any] | None = None,
    connectors: Mapping[str, Any] | None = None,
) -> Iterator[Server]:
    """A sidecar with one policy and one warm model; stopped at the end, killed if it does not stop.

    There is no cosine unless the policy names one.

    Raises:
        ServerDied: it ended, its model failed, or it took longer than :data:`START_S`.
    """
    with tempfile.TemporaryDirectory() as folder:
        metrics = f"127.0.0.1:{_free_port()}"
        file, log = Path(folder, "sidecar.yaml"), Path(folder, "sidecar.log")
        file.write_text(yaml.safe_dump(_tree(metrics, policy, model or {}, server or {}, connectors or {})))
        with log.open("w") as stderr:
            popen = subprocess.Popen([sys.executable, "-m", "sidecar", "serve", str(file)], stderr=stderr)
        try:
            port = _wait_until_warm(popen, log)
            yield Server(popen, log, f"127.0.0.1:{port}", f"http://{metrics}/metrics")
        finally:
            _stop(popen)


def _tree(
    metrics: str,
    policy: Mapping[str, Any],
    model: Mapping[str, Any],
    server: Mapping[str, Any],
    connectors: Mapping[str, Any],
) -> dict[str, Any]:
    return {
        "server": {"address": "127.0.0.1:0", "metrics_address": metrics, "shutdown_grace_s": 2, **server},
        "connectors": dict(connectors),
        "models": {"default": dict(model)},
        "policies": {"bench": {"text": {"fields": ["text"]}, "cosine": None, **policy}},
        "default_policy": "bench",
    }


def _wait_until_warm(popen: "subprocess.Popen[bytes]", log: Path) -> int:
    """The port, once the model is ready; raises ServerDied if it does not become ready."""
    deadline = time.monotonic() + START_S
    port = 0
    while time.monotonic() < deadline:
        events = list(_events(log))
        port = next((event["port"] for event in events if event["event"] == "listening"), port)
        names = {event["event"] for event in events}
        if port and "model_ready" in names:
            return port
        if popen.poll() is not None or "model_failed" in names:
            raise ServerDied(f"the server did not come up:\n{_tail(log)}")
        time.sleep(0.1)
    raise ServerDied(f"the model was not ready after {START_S:.0f} s:\n{_tail(log)}")


def _events(log: Path) -> Iterator[dict[str, Any]]:
    for line in log.read_text().splitlines():
        if line.startswith("{") and line.endswith("}"):
            yield json.loads(line)


def _tail(log: Path) -> str:
    return "\n".join(log.read_text().splitlines()[-10:])


def _stop(popen: "subprocess.Popen[bytes]") -> None:
    popen.send_signal(signal.SIGTERM)
    try:
        popen.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        popen.kill()
        popen.wait()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port
