"""The arrows of the house: who may import whom."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = [
    path for folder in ("sidecar", "connectors") for path in (ROOT / folder).rglob("*.py") if "v1" not in path.parts
]
GRPC = {"app", "certificates", "interceptors", "health", "ports", "service", "client", "cli", "demo", "evaluation"}
PURE = (
    "policy",
    "resolution",
    "matching",
    "votes",
    "index_names",
    "wildcards",
    "text",
    "batching",
    "job_queue",
    "admission",
    "shares",
    "ranking",
    "verdict",
    "effect",
    "changes",
    "rollout",
    "breaker",
    "window",
    "skips",
    "cost",
    "parsing",
    "replies",
    "source_filter",
    "pair_job",
    "pair_template",
    "advice",
)


PURE_CONNECTORS = (
    "answer_text",
    "bad_option",
    "credentials",
    "hosts",
    "memory_query",
    "products",
    "refusals",
    "wire",
)


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def imports(path: Path, *, top_level: bool = False) -> set[str]:
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_level else list(ast.walk(tree))
    found = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return found | {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)}


def roots(path: Path) -> set[str]:
    return {module.split(".")[0] for module in imports(path)}


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_arrows(path: Path) -> None:
    room = path.relative_to(ROOT).parts[1].removesuffix(".py")
    if path.is_relative_to(ROOT / "connectors"):
        assert "sidecar" not in roots(path), "connectors are usable alone"
        return
    if room not in GRPC:
        assert not {"grpc", "grpc_health", "grpc_reflection"} & roots(path), "only the edge knows gRPC"
    if room not in ("scoring", "training"):
        assert "torch" not in roots(path), "torch stays under scoring"
    if room not in ("training", "demo", "evaluation"):
        rooms = ("sidecar.demo",) if room == "cli" else ("sidecar.training", "sidecar.demo", "sidecar.evaluation")
        offline = {module for module in imports(path) if module.startswith(rooms)}
        assert not offline, "the server never imports offline work"


@pytest.mark.parametrize("room", PURE)
def test_pure_rooms_import_no_clock_and_no_io(room: str) -> None:
    assert not {"asyncio", "time", "threading", "socket", "os", "io"} & roots(ROOT / "sidecar" / f"{room}.py")


@pytest.mark.parametrize("module", PURE_CONNECTORS)
def test_pure_connectors_import_no_clock_and_no_io(module: str) -> None:
    assert not {"asyncio", "time", "threading", "socket", "os", "io"} & roots(ROOT / "connectors" / f"{module}.py")


def test_every_connectors_module_that_says_it_is_pure_is_checked() -> None:
    said = {path.stem for path in (ROOT / "connectors").glob("*.py") if "Pure" in path.read_text().split('"""')[1]}
    assert said == set(PURE_CONNECTORS)


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_modules_stay_small(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 400
