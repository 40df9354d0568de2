"""The demo's processes: an OpenSearch-compatible engine with the corpus in it, and a sidecar in front of it."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import yaml
from grpc_health.v1 import health_pb2, health_pb2_grpc
from opensearchpy import OpenSearch
from opensearchpy.helpers import bulk
from osmem_server import OsmemServer

from sidecar.demo.corpus import Corpus
from sidecar.health import RERANKING

INDEX = "demo-articles"
_START_S = 60.0
_MAPPING = {
    "properties": {
        "title": {"type": "text", "analyzer": "english"},
        "text": {"type": "text", "analyzer": "english"},
        "domain": {"type": "keyword"},
    }
}


class DemoError(Exception):
    """The demo cannot go on; the message says why."""


@contextmanager
def engine(corpus: Corpus, on_document: Callable[[], None]) -> Iterator[str]:
    """Run an engine that holds the corpus, and yield its URL; ``on_document`` is called for each document indexed."""
    with OsmemServer.start() as server:
        client = OpenSearch([server.url])
        client.indices.create(index=INDEX, body={"mappings": _MAPPING})
        bulk(client, _actions(corpus, on_document), refresh=True)
        client.close()
        yield server.url


def _actions(corpus: Corpus, on_document: Callable[[], None]) -> Iterator[dict[str, Any]]:
    for document_id, document in corpus.documents.items():
        on_document()
        yield {"_index": INDEX, "_id": document_id, "_source": document}


def configuration(engine_url: str) -> dict[str, Any]:
    """Return the demo's configuration of the sidecar."""
    return {
        "server": {"address": "127.0.0.1:0", "metrics_address": None},
        "connectors": {"main": {"type": "opensearch", "hosts": [engine_url]}},
        "models": {"default": {"checkpoint": "bundled"}},
        "policies": {
            "articles": {
                "match": [{"index": "demo-*"}],
                "text": {"fields": ["title", "text"]},
                "rank_window_size": 40,
                "budget_ms": 5000,
            }
        },
    }


@contextmanager
def sidecar(engine_url: str) -> Iterator[str]:
    """Run a sidecar process in front of the engine, and yield its address once it is ready to rerank.

    Raises:
        DemoError: it ended, or was not ready within a minute; the message holds the end of its log.
    """
    with tempfile.TemporaryDirectory(prefix="rerank-sidecar-demo-") as folder:
        file, log = Path(folder) / "demo.yaml", Path(folder) / "log"
        file.write_text(yaml.safe_dump(configuration(engine_url), sort_keys=False))
        with log.open("w") as stderr:
            process = subprocess.Popen([sys.executable, "-m", "sidecar", "serve", str(file)], stderr=stderr)
        try:
            yield _wait_until_ready(process, log)
        finally:
            process.terminate()
            process.wait(timeout=_START_S)


def _wait_until_ready(process: "subprocess.Popen[bytes]", log: Path) -> str:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline and process.poll() is None:
        address = _address(log)
        if address and _serves(address):
            return address
        time.sleep(0.1)
    raise DemoError(f"the sidecar did not become ready; its log ends with:\n{log.read_text()[-2000:]}")


def _address(log: Path) -> str | None:
    """Return the address of the free port that the sidecar chose, from its log; None if it does not listen yet."""
    for line in log.read_text().splitlines():
        event = yaml.safe_load(line)
        if isinstance(event, dict) and event.get("event") == "listening":
            return f"127.0.0.1:{event['port']}"
    return None


def _serves(address: str) -> bool:
    with grpc.insecure_channel(address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        try:
            answer = health.Check(  # type: ignore[attr-defined]
                health_pb2.HealthCheckRequest(service=RERANKING), timeout=1
            )
        except grpc.RpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
