"""Device, number type and threads are chosen from what the machine has."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sidecar.scoring import hardware
from sidecar.scoring.hardware import HardwareError, has_bfloat16, pick_device, pick_dtype, usable_cpus
from sidecar.settings import ModelSettings

without_cuda = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")


@pytest.mark.parametrize(
    ("flags", "fast"),
    [
        ("fpu avx512f amx_bf16 avx512_fp16 amx_tile amx_int8", True),
        ("fpu avx512f amx_tile amx_int8", False),
        ("fpu avx512f avx512_bf16 avx512_vnni", True),
        ("fpu avx512f avx512_vnni amx_int8", False),
        ("", False),
    ],
)
def test_bfloat16_is_read_from_the_processor_flags(tmp_path: Path, flags: str, fast: bool) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor\t: 0\nmodel name\t: A CPU\nflags\t\t: {flags}\n")
    assert has_bfloat16(cpuinfo) is fast


def test_no_cpuinfo_means_no_bfloat16(tmp_path: Path) -> None:
    assert has_bfloat16(tmp_path / "none") is False


@pytest.mark.parametrize(
    ("content", "cpus"),
    [
        ("max 100000\n", 64),
        ("200000 100000\n", 2),
        ("150000 100000\n", 1),
        ("50000 100000\n", 1),
        ("6400000 10000", 64),
        ("399999 100000\n", 3),
        ("300000\n", 3),
        ("", 64),
        ("200000 0\n", 64),
        ("many 100000\n", 64),
    ],
)
def test_the_containers_quota_bounds_the_cpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, cpus: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    (tmp_path / "cpu.max").write_text(content)
    assert usable_cpus(tmp_path) == cpus


@pytest.mark.parametrize(
    ("quota", "period", "cpus"),
    [("-1", "100000", 64), ("200000", "100000", 2), ("250000", "100000", 2), ("5000", "100000", 1), ("1000", None, 64)],
)
def test_a_quota_of_cgroup_v1_bounds_them_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str, period: str | None, cpus: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text(f"{quota}\n")
    if period is not None:
        (tmp_path / "cpu" / "cpu.cfs_period_us").write_text(f"{period}\n")
    assert usable_cpus(tmp_path) == cpus


def test_an_affinity_smaller_than_the_quota_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1}, raising=False)
    (tmp_path / "cpu.max").write_text("400000 100000\n")
    assert usable_cpus(tmp_path) == 1


def test_without_a_quota_the_affinity_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5, 7}, raising=False)
    assert usable_cpus(tmp_path) == 3


@without_cuda
@pytest.mark.parametrize("device", ["cuda", "cuda:0", "cuda:7"])
def test_cuda_asked_for_and_absent_is_refused_in_a_sentence(device: str) -> None:
    with pytest.raises(HardwareError, match=rf"device '{device}' is not there: 0 CUDA devices found; set `auto` or"):
        pick_device(ModelSettings(device=device))


@without_cuda
def test_auto_is_the_cpu_where_there_is_no_cuda() -> None:
    assert pick_device(ModelSettings()) == torch.device("cpu")


def test_the_cpu_is_taken_when_asked_for() -> None:
    assert pick_device(ModelSettings(device="cpu")) == torch.device("cpu")


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16"])
def test_a_named_number_type_is_taken_as_it_is(name: str) -> None:
    assert str(pick_dtype(ModelSettings.model_validate({"dtype": name}), torch.device("cpu"))) == f"torch.{name}"


@pytest.mark.parametrize(
    ("has_it", "bfloat16_s", "chosen"),
    [(True, 0.5, "bfloat16"), (True, 0.95, "float32"), (True, 1.6, "float32"), (False, 0.5, "float32")],
)
def test_on_a_cpu_auto_is_bfloat16_where_products_are_markedly_faster_in_it(
    monkeypatch: pytest.MonkeyPatch, has_it: bool, bfloat16_s: float, chosen: str
) -> None:
    times_s = {torch.float32: 1.0, torch.bfloat16: bfloat16_s}
    monkeypatch.setattr(hardware, "has_bfloat16", lambda: has_it)
    monkeypatch.setattr(hardware, "_product_s", times_s.__getitem__)
    monkeypatch.setattr(hardware, "gains_by_bfloat16", hardware.gains_by_bfloat16.__wrapped__)
    assert str(pick_dtype(ModelSettings(), torch.device("cpu"))) == f"torch.{chosen}"


def test_number_types_are_compared_once_and_by_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container's quota may be far below the machine's cores."""
    threads: list[int] = []
    before = torch.get_num_threads()

    def product_s(_: torch.dtype) -> float:
        threads.append(torch.get_num_threads())
        return 1.0

    monkeypatch.setattr(hardware, "has_bfloat16", lambda: True)
    monkeypatch.setattr(hardware, "_product_s", product_s)
    hardware.gains_by_bfloat16.cache_clear()
    try:
        assert not hardware.gains_by_bfloat16()
        measured = len(threads)
        assert not hardware.gains_by_bfloat16()
    finally:
        hardware.gains_by_bfloat16.cache_clear()
    assert set(threads) == {1}
    assert len(threads) == measured
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("fast", [False, True])
def test_only_bfloat16_without_a_product_for_it_is_told_of(monkeypatch: pytest.MonkeyPatch, fast: bool) -> None:
    monkeypatch.setattr(hardware, "has_bfloat16", lambda: fast)
    told = [dtype for dtype in (torch.float32, torch.bfloat16) if hardware.emulates(dtype, torch.device("cpu"))]
    assert told == ([] if fast else [torch.bfloat16])
    assert not hardware.emulates(torch.bfloat16, torch.device("cuda"))


def test_freed_memory_is_kept_for_the_next_pass() -> None:
    """Told by page faults: the kernel gives the memory once, not again and again."""
    script = """
import resource, sys
import torch
from sidecar.scoring import hardware
kept = hardware.keep_freed_memory() if sys.argv[1] == "keep" else True
for _ in range(10):
    torch.ones(16 * 2**20)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    torch.ones(16 * 2**20)
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    told = {}
    for way in ("keep", "give back"):
        ran = subprocess.run([sys.executable, "-c", script, way], capture_output=True, text=True, check=True)
        told[way] = ran.stdout.split()
    if told["keep"][0] == "False":
        pytest.skip("this C library has no mallopt")
    assert int(told["keep"][1]) < int(told["give back"][1]) / 5


_PRODUCT = """
import torch
from sidecar.scoring import hardware

hardware.use_threads(2)
rows, weight = torch.randn(2048, 128).bfloat16(), torch.randn(128, 128).bfloat16()
wrong = (torch.nn.functional.linear(rows, weight).float() - rows.float() @ weight.float().T).abs().max()
print(torch.get_num_threads(), bool(wrong < 0.5))
"""


@pytest.mark.skipif(not has_bfloat16(), reason="needs a CPU that multiplies bfloat16")
@pytest.mark.parametrize(
    ("environment", "threads"),
    [
        ({}, 2),
        ({"OMP_NUM_THREADS": "1"}, 2),
        ({"OMP_DYNAMIC": "true"}, 2),
        ({"OMP_THREAD_LIMIT": "1"}, 1),
        ({"OMP_MAX_ACTIVE_LEVELS": "0"}, 1),
    ],
    ids=str,
)
def test_products_are_right_however_few_threads_openmp_allows(environment: dict[str, str], threads: int) -> None:
    """Those of torch alone are wrong with the last two, and with the third while the machine is busy."""
    command = [sys.executable, "-c", _PRODUCT]
    run = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=True, timeout=60)
    assert run.stdout.splitlines()[-1] == f"{threads} True"
    assert ("threads_limited" in run.stdout + run.stderr) == (threads == 1)


def test_a_card_that_torch_cannot_use_is_told_of(tmp_path: Path) -> None:
    driver = tmp_path / "version"
    assert not hardware.leaves_a_gpu_unused(ModelSettings(), driver)
    driver.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.10\n")
    unused = not torch.cuda.is_available()
    assert hardware.leaves_a_gpu_unused(ModelSettings(), driver) == unused
    assert not hardware.leaves_a_gpu_unused(ModelSettings(device="cpu"), driver)


@pytest.mark.parametrize(("capability", "fast"), [((7, 5), False), ((8, 0), True), ((9, 0), True), ((12, 0), True)])
def test_a_card_multiplies_bfloat16_from_ampere_on(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], fast: bool
) -> None:
    asked: list[torch.device] = []

    def told(device: torch.device) -> tuple[int, int]:
        asked.append(device)
        return capability

    monkeypatch.setattr(torch.cuda, "get_device_capability", told)
    card = torch.device("cuda", 1)
    assert hardware.pick_dtype(ModelSettings(), card) == (torch.bfloat16 if fast else torch.float16)
    assert asked == [card], "each card by itself"
