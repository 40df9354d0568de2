"""The arrows of the house: who may import whom."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = [
    path for folder in ("sidecar", "connectors") for path in (ROOT / folder).rglob("*.py") if "v1" not in path.parts
]
GRPC = {"app", "certificates", "interceptors", "health", "ports", "service", "client", "cli", "demo", "evaluation"}


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def says_it_is_pure(path: Path) -> bool:
    return re.search(r"\bPure\b", ast.get_docstring(ast.parse(path.read_text())) or "") is not None


PURE = [path for path in SOURCES if says_it_is_pure(path)]


def imports(path: Path) -> set[str]:
    nodes = list(ast.walk(ast.parse(path.read_text())))
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


@pytest.mark.parametrize("path", PURE, ids=name_of)
def test_a_module_that_says_it_is_pure_imports_no_clock_and_no_io(path: Path) -> None:
    assert not {"asyncio", "time", "threading", "socket", "os", "io"} & roots(path)


def test_the_decisions_are_pure() -> None:
    decisions = {"policy", "resolution", "window", "text", "batching", "admission", "ranking", "verdict", "skips"}
    assert decisions < {path.stem for path in PURE}


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_modules_stay_small(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 400
