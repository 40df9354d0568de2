"""The compiled library: where it serves, what happens without it, and with one that does not fit."""

import _ctypes
import ctypes
import subprocess
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from structlog.testing import capture_logs

from sidecar.scoring import hardware, native, native_attention, native_linear
from sidecar.scoring.native import Library, Way
from sidecar.scoring.native_attention import Kernel
from sidecar.scoring.native_linear import ByTiles
from tests.native import ROOT, SOURCE, extension, needs_compiler

CPU = torch.device("cpu")
BF16 = "avx512_bf16 avx512bw avx512dq avx512f avx512vl avx2"
AMX = f"amx_bf16 amx_tile {BF16}"


@pytest.fixture(autouse=True)
def _looked_for_anew() -> Iterator[None]:
    native_attention.kernel.cache_clear()
    yield
    native_attention.kernel.cache_clear()


@pytest.mark.parametrize(
    ("flags", "environment", "has"),
    [
        (AMX, {}, (True, True)),
        (AMX, {"ONEDNN_MAX_CPU_ISA": ""}, (True, True)),
        (AMX, {"ONEDNN_MAX_CPU_ISA": "ALL", "DNNL_MAX_CPU_ISA": "AVX2"}, (True, True)),
        (AMX, {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_AMX"}, (True, True)),
        (AMX, {"ONEDNN_MAX_CPU_ISA": "avx512_core_bf16"}, (True, False)),
        (AMX, {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_VNNI"}, (False, False)),
        (AMX, {"DNNL_MAX_CPU_ISA": "AVX2"}, (False, False)),
        (BF16, {}, (True, False)),
        (BF16, {"ONEDNN_MAX_CPU_ISA": "avx2_vnni_2"}, (False, False)),
        (AMX.replace("avx512vl ", ""), {}, (False, False)),
        ("avx512_bf16 avx512f", {}, (False, False)),
    ],
)
def test_what_the_processor_has_is_used_where_the_environment_lets_onednn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: str, environment: dict[str, str], has: tuple[bool, bool]
) -> None:
    (tmp_path / "cpuinfo").write_text(f"flags\t\t: {flags}\n")
    for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert (hardware.has_avx512_bf16(tmp_path / "cpuinfo"), hardware.has_amx(tmp_path / "cpuinfo")) == has


def test_without_the_compiled_kernel_torchs_serves_and_the_log_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "has_avx512_bf16", lambda: True)
    monkeypatch.setattr(native, "find_spec", lambda _name: None)
    with capture_logs() as logs:
        assert not native_attention.serves(CPU, torch.bfloat16, 32)
        assert not native_attention.serves(CPU, torch.bfloat16, 32)
    assert [entry["event"] for entry in logs] == ["native_missing"]


TASKS = {
    "attention": native_attention._Attention,
    "linear": native_linear._Linear,
    "rest": native_linear._Rest,
}


def library(version: int = native._VERSION, permission: int = 0, **task_bytes: int) -> Any:
    """Stands in for what was compiled, and computes nothing."""
    sizes = {name: ctypes.sizeof(task) for name, task in TASKS.items()} | task_bytes
    return SimpleNamespace(
        sidecar_version=Mock(return_value=version),
        **{f"sidecar_{name}_bytes": Mock(return_value=size) for name, size in sizes.items()},
        sidecar_attention=Mock(),
        sidecar_attention_scratch_bytes=Mock(return_value=64),
        sidecar_request_tiles=Mock(return_value=permission),
    )


def test_where_tiles_are_not_permitted_vectors_serve_and_the_log_says_so() -> None:
    with capture_logs() as logs:
        assert Kernel(Library(library(permission=-1)), Way.BY_TILES).way is Way.BY_VECTORS
        assert Kernel(Library(library(permission=-1)), Way.FLOAT32_AVX2).way is Way.FLOAT32_AVX2
        assert Kernel(Library(library()), Way.BY_TILES).way is Way.BY_TILES
    assert [entry["event"] for entry in logs] == ["amx_not_permitted"]


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"version": 0}, "another version of its source"),
        ({"attention": 8}, "another version of its source"),
        ({}, "numbers are wrong"),
    ],
)
def test_a_kernel_that_does_not_work_here_is_left_alone_and_the_log_says_why(
    monkeypatch: pytest.MonkeyPatch, changed: dict[str, int], reason: str
) -> None:
    found = {"it": library(**changed), None: ctypes.CDLL(None)}
    monkeypatch.setattr(ctypes, "CDLL", lambda name, **_: found[name])
    monkeypatch.setattr(torch, "empty", torch.zeros)  # what memory happens to hold might be right
    assert reason in refused(monkeypatch, "it")


def refused(monkeypatch: pytest.MonkeyPatch, file: str) -> str:
    """Why the file is not used, as the log says."""
    monkeypatch.setattr(hardware, "has_avx512_bf16", lambda: True)
    monkeypatch.setattr(native, "find_spec", lambda name: ModuleSpec(name, None, origin=file))
    with capture_logs() as logs:
        assert native_attention.kernel(torch.bfloat16) is None
    assert [(entry["event"], entry["file"]) for entry in logs] == [("native_unusable", file)]
    return str(logs[0]["reason"])


def test_another_file_is_left_alone_and_the_log_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "no_library.so").write_text("no library")
    assert "no_library.so" in refused(monkeypatch, str(tmp_path / "no_library.so"))
    native_attention.kernel.cache_clear()
    assert "sidecar_version" in refused(monkeypatch, _ctypes.__file__)


@pytest.mark.parametrize("task", ["linear", "rest"])
def test_a_library_that_knows_another_task_is_refused(task: str) -> None:
    ByTiles(Library(library()))
    with pytest.raises(ValueError, match="another version of its source"):
        ByTiles(Library(library(**{task: 8})))


@needs_compiler
@pytest.mark.parametrize("target", ["this one", "another"])
def test_it_compiles_without_a_warning_also_for_other_processors(tmp_path: Path, target: str) -> None:
    assert ROOT / extension()["sources"][0] == SOURCE
    assert {ROOT / name for name in extension()["depends"]} == set(SOURCE.parent.glob("*.h"))
    flags = [*extension()["extra-compile-args"], "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-shared", "-fPIC"]
    other = ["-U__x86_64__"] if target == "another" else []
    subprocess.run(["cc", *flags, *other, "-o", str(tmp_path / "native.so"), str(SOURCE)], check=True, timeout=60)
