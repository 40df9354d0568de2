"""The command as a process: what a person types, and what a process manager does to it."""

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml

from sidecar.client import BlockingRerankClient
from sidecar.v1 import rerank_pb2 as pb

_WAIT_S = 60.0


def configuration(folder: Path, **server: Any) -> Path:
    """A file whose engine is not there and whose model cannot be loaded: the server has to live with both."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = free.getsockname()[1]
    (folder / "no-model").mkdir(exist_ok=True)
    tree = {
        "server": {"address": "127.0.0.1:0", "metrics_address": None, "shutdown_grace_s": 5, **server},
        "connectors": {"main": {"type": "opensearch", "hosts": [f"http://127.0.0.1:{nobody}"]}},
        "models": {"default": {"checkpoint": "./no-model"}},
        "policies": {"default": {"text": {"fields": ["body"]}}},
        "default_policy": "default",
    }
    file = folder / "sidecar.yaml"
    file.write_text(yaml.safe_dump(tree))
    return file


class Process:
    """A running `rerank-sidecar serve`."""

    def __init__(self, file: Path, log: Path) -> None:
        self.log = log
        with log.open("w") as stderr:
            self.popen = subprocess.Popen([sys.executable, "-m", "sidecar", "serve", str(file)], stderr=stderr)

    def event(self, name: str) -> dict[str, Any]:
        """The first log line of that name; waits for it."""
        deadline = time.monotonic() + _WAIT_S
        while time.monotonic() < deadline:
            for line in self.log.read_text().splitlines():
                if line.endswith("}") and json.loads(line).get("event") == name:
                    return dict(json.loads(line))
            time.sleep(0.05)
        raise AssertionError(f"no {name!r} in the log:\n{self.log.read_text()}")


@contextmanager
def running(file: Path) -> Iterator[Process]:
    process = Process(file, file.with_suffix(".log"))
    try:
        yield process
    finally:
        process.popen.kill()
        process.popen.wait()


def test_an_engine_and_a_model_that_are_not_there_are_told_and_do_not_stop_it(tmp_path: Path) -> None:
    with running(configuration(tmp_path)) as process:
        port = process.event("listening")["port"]
        assert "main" in process.event("engine_not_found")["connector"]
        assert "no-model" in process.event("model_failed")["error"]
        with BlockingRerankClient(f"127.0.0.1:{port}") as client:
            reply = client.rerank("apple", ["one", "two"])
            with pytest.raises(grpc.RpcError) as caught:
                client.search("articles", "apple")
        assert reply.outcome == pb.OUTCOME_ORIGINAL_ORDER
        assert reply.reason == pb.REASON_MODEL_NOT_READY
        assert [result.original_rank for result in reply.results] == [0, 1]
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "Traceback" not in process.log.read_text()


def test_sigterm_ends_it_cleanly_and_frees_the_port(tmp_path: Path) -> None:
    with running(configuration(tmp_path)) as process:
        port = process.event("listening")["port"]
        process.popen.send_signal(signal.SIGTERM)
        assert process.popen.wait(_WAIT_S) == 0
        assert process.event("stopped")
        with socket.socket() as again:
            again.bind(("127.0.0.1", port))


def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    """The first one lets a call finish, which here never does: its engine is silent."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        file = configuration(tmp_path, shutdown_grace_s=60)
        tree = yaml.safe_load(file.read_text())
        hosts = [f"http://127.0.0.1:{silent.getsockname()[1]}"]
        tree["connectors"]["main"] |= {"hosts": hosts, "search_timeout_ms": 60_000}
        file.write_text(yaml.safe_dump(tree))
        with running(file) as process, ThreadPoolExecutor(1) as caller:
            port = process.event("listening")["port"]
            process.event("model_failed")
            with BlockingRerankClient(f"127.0.0.1:{port}") as client:
                call = caller.submit(client.search, "articles", "apple", timeout_s=_WAIT_S)
                time.sleep(1.0)
                process.popen.send_signal(signal.SIGTERM)
                assert process.event("stopping")
                with pytest.raises(subprocess.TimeoutExpired):
                    process.popen.wait(1.0)
                assert not call.done()
                process.popen.send_signal(signal.SIGTERM)
                assert process.popen.wait(5.0) == 1
                with pytest.raises(grpc.RpcError, match="UNAVAILABLE"):
                    call.result()


@pytest.mark.parametrize("setting", ["address", "metrics_address"])
def test_a_port_in_use_is_said_in_a_sentence(tmp_path: Path, setting: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        command = [sys.executable, "-m", "sidecar", "serve", str(configuration(tmp_path, **{setting: address}))]
        run = subprocess.run(command, capture_output=True, text=True, timeout=_WAIT_S, check=False)
    assert run.returncode == 2
    assert address in run.stderr
    assert "in use" in run.stderr
    assert "Traceback" not in run.stderr


def test_the_search_command_says_what_is_wrong_without_a_traceback(tmp_path: Path) -> None:
    with running(configuration(tmp_path)) as process:
        target = f"127.0.0.1:{process.event('listening')['port']}"
        command = [sys.executable, "-m", "sidecar", "search", "--index", "x", "--target", target, "apple"]
        run = subprocess.run(command, capture_output=True, text=True, timeout=_WAIT_S, check=False)
    assert run.returncode == 2
    assert run.stderr.startswith("UNAVAILABLE: ")
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize("address", ["foo", "127.0.0.1:99999"])
def test_an_address_that_is_none_is_refused(tmp_path: Path, address: str) -> None:
    command = [sys.executable, "-m", "sidecar", "serve", str(configuration(tmp_path)), "--address", address]
    run = subprocess.run(command, capture_output=True, text=True, timeout=_WAIT_S, check=False)
    assert run.returncode == 2
    assert run.stderr.startswith(f"--address is {address!r}: an address is `host:port`")


def test_check_reads_the_files_of_a_memory_connector(tmp_path: Path) -> None:
    (tmp_path / "docs.jsonl").write_text('{"_id": "1", "body": "x"}\n{"body": "no id"}\n')
    file = tmp_path / "sidecar.yaml"
    tree = {
        "connectors": {"local": {"type": "memory", "indices": {"docs": "docs.jsonl"}}},
        "policies": {"default": {"text": {"fields": ["body"]}}},
    }
    file.write_text(yaml.safe_dump(tree))
    command = [sys.executable, "-m", "sidecar", "check", str(file)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=_WAIT_S, check=False)
    assert run.returncode == 2
    assert "connectors.local.indices.docs" in run.stderr
    assert "docs.jsonl" in run.stderr
    assert "2" in run.stderr
