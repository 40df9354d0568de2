"""The attention kernel of CPUs with AMX against plain arithmetic, and what happens without it."""

import _ctypes
import ctypes
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from structlog.testing import capture_logs

from sidecar.scoring import amx, checkpoint, hardware
from sidecar.scoring.attention import attend
from sidecar.scoring.bi_encoder import BiEncoder
from sidecar.scoring.layout import Layout
from sidecar.settings import BUNDLED, ModelSettings
from tests import checkpoints
from tests.checkpoints import scorer
from tests.unit.test_packing import PASSAGES, QUERY

CPU = torch.device("cpu")
LENGTHS = [1, 2, 15, 16, 17, 31, 32, 33, 47, 100, 255, 256, 257, 511]
HEADS = 3
AMX = "amx_bf16 amx_tile avx512_bf16 avx512bw avx512dq avx512f avx512vl avx2"


def compiles_amx() -> bool:
    """Whether there is a C compiler, and not too old a one."""
    asked = ["cc", "-mamx-bf16", "-mavx512bf16", "-E", "-x", "c", "/dev/null"]
    return shutil.which("cc") is not None and subprocess.run(asked, capture_output=True, check=False).returncode == 0


needs_compiler = pytest.mark.skipif(not compiles_amx(), reason="needs a C compiler that knows AMX")


@pytest.fixture(autouse=True)
def looked_for_anew() -> Iterator[None]:
    amx.kernel.cache_clear()
    yield
    amx.kernel.cache_clear()


def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows with each use of the kernel."""
    used: list[int] = []
    attends = amx.Kernel.attend

    def counted(*arguments: Any, **named: Any) -> torch.Tensor:
        used.append(1)
        return attends(*arguments, **named)

    monkeypatch.setattr(amx.Kernel, "attend", counted)
    return used


def projections(tokens: int, size: int, spread: float = 2.0) -> list[torch.Tensor]:
    """Query, key and value of (tokens, HEADS, size), parts of one product's rows as a layer has them."""
    torch.manual_seed(1)
    rows = (torch.randn(tokens, 3 * HEADS * size) * spread).bfloat16()
    return [part.view(tokens, HEADS, size) for part in rows.chunk(3, 1)]


def plain(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float) -> torch.Tensor:
    """Attention of one pair in float32, (queries, HEADS, size)."""
    q, k, v = (rows.float().transpose(0, 1) for rows in (query, key, value))
    return (((q @ k.mT) * scaling).softmax(-1) @ v).transpose(0, 1)


@needs_compiler
@pytest.mark.skipif(not hardware.has_amx(), reason="needs a CPU with AMX")
def test_where_there_are_amx_and_a_compiler_the_kernel_was_built() -> None:
    assert amx.kernel()


def needs_kernel() -> amx.Kernel:
    found = amx.kernel()
    if found is None:
        pytest.skip("needs a CPU with AMX, and a C compiler when the package is installed")
    return found


@pytest.mark.parametrize("first_only", [False, True])
@pytest.mark.parametrize("size", [32, 64, 96])
def test_each_token_takes_from_the_tokens_of_its_own_pair(size: int, first_only: bool) -> None:
    needs_kernel()
    layout = Layout.of(LENGTHS, CPU, "amx")
    query, key, value = projections(layout.tokens, size)
    asking = query[layout.first] if first_only else query
    got = attend(asking, key, value, layout, size**-0.5, first_only=first_only)
    for pair, (start, length) in enumerate(zip(layout.starts.tolist(), LENGTHS, strict=False)):
        own = slice(start, start + length)
        rows = slice(pair, pair + 1) if first_only else own
        want = plain(asking[rows], key[own], value[own], size**-0.5)
        torch.testing.assert_close(got[rows].float(), want, rtol=0.01, atol=0.03)
        assert want.std() > 0.1
    filler = got[len(LENGTHS) :] if first_only else got[sum(LENGTHS) :]
    assert len(filler)
    assert not filler.any()


def test_it_is_about_as_near_to_exact_arithmetic_as_torchs_own_kernel() -> None:
    needs_kernel()
    tight, padded = Layout.of([96] * 4, CPU, "amx"), Layout.of([96] * 4, CPU)
    query, key, value = projections(tight.tokens, 32)
    ours, torchs = (attend(query, key, value, layout, 0.2).float() for layout in (tight, padded))
    pairs = [slice(start, start + 96) for start in range(0, 4 * 96, 96)]
    exact = torch.cat([plain(query[own], key[own], value[own], 0.2) for own in pairs])
    assert (ours - exact).abs().max() <= 1.2 * (torchs - exact).abs().max()


@pytest.mark.parametrize("spread", [1e-6, 40.0])
def test_weights_are_right_however_steep(spread: float) -> None:
    needs_kernel()
    layout = Layout.of([5, 70], CPU, "amx")
    query, key, value = projections(layout.tokens, 32, spread)
    got = attend(query, key, value, layout, 1.0).float()
    for own in (slice(0, 5), slice(5, 75)):
        want = plain(query[own], key[own], value[own], 1.0)
        torch.testing.assert_close(got[own], want, rtol=0.01, atol=0.01 * spread)


@pytest.mark.parametrize("size", [1e3, 1e9, 1e12])
def test_equal_logits_of_any_size_weigh_the_same(size: float) -> None:
    needs_kernel()
    layout = Layout.of([17, 40], CPU, "amx")
    _, _, value = projections(layout.tokens, 32)
    root = torch.full_like(value, (size / 32) ** 0.5)
    got = attend(root, root, value, layout, 1.0).float()
    for own in (slice(0, 17), slice(17, 57)):
        torch.testing.assert_close(got[own], value[own].float().mean(0).expand(got[own].shape), rtol=0.01, atol=0.01)


def test_what_is_not_a_number_stays_in_its_own_pair() -> None:
    needs_kernel()
    layout = Layout.of([20, 17, 3], CPU, "amx")
    query, key, value = projections(layout.tokens, 32)
    want = attend(query, key, value, layout, 0.2)
    for rows in (query, key, value):
        rows[20:37] = torch.nan
    got = attend(query, key, value, layout, 0.2)
    assert got[20:37].isnan().all()
    others = [*range(20), *range(37, 40)]
    assert torch.equal(got[others], want[others])


def test_any_number_of_threads_computes_the_same_also_several_calls_at_once() -> None:
    kernel = needs_kernel()
    layout = Layout.of(LENGTHS, CPU, "amx")
    query, key, value = projections(layout.tokens, 32)

    def run(_: int = 0) -> torch.Tensor:
        return kernel.attend(query, key, value, layout, 0.2, first_only=False)

    threads, want = torch.get_num_threads(), run()
    try:
        for number in (1, 3):
            torch.set_num_threads(number)
            assert torch.equal(run(), want)
    finally:
        torch.set_num_threads(threads)
    with ThreadPoolExecutor(4) as pool:
        assert all(torch.equal(got, want) for got in pool.map(run, range(40)))


def test_parts_that_lie_apart_within_a_token_are_brought_together() -> None:
    needs_kernel()
    layout = Layout.of([20], CPU, "amx")
    apart = torch.randn(layout.tokens, 32, HEADS).bfloat16().transpose(1, 2)
    together = apart.contiguous()
    got, want = (attend(rows, rows, rows, layout, 0.2) for rows in (apart, together))
    assert torch.equal(got, want)


def test_the_bundled_model_scores_as_with_torchs_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    needs_kernel()
    used = calls(monkeypatch)
    ours = scorer(BUNDLED, torch.bfloat16)  # type: ignore[arg-type]
    pairs = ours.encode(QUERY, PASSAGES)
    got = ours.score(pairs)
    assert used
    used.clear()
    monkeypatch.setattr(amx, "kernel", lambda: None)
    other = scorer(BUNDLED, torch.bfloat16)  # type: ignore[arg-type]
    assert (ours.packed, other.packed) == (True, True)
    np.testing.assert_allclose(got, other.score(pairs), atol=0.1)
    assert np.ptp(got) > 0.5
    assert not used


def test_a_bi_encoder_gives_the_cosines_of_torchs_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs_kernel()
    folder = checkpoints.build(tmp_path, head=False, hidden_size=64, num_attention_heads=2)
    settings = ModelSettings(kind="bi_encoder", checkpoint=str(folder))
    used, cosines = calls(monkeypatch), []
    for kernel in (amx.kernel, lambda: None):
        monkeypatch.setattr(amx, "kernel", kernel)
        model = BiEncoder(*checkpoint.load_encoder(settings, CPU, torch.bfloat16), settings)
        assert model.packed
        cosines.append(model.score(model.encode(QUERY, PASSAGES)))
        assert bool(used) == (kernel() is not None)
        used.clear()
    np.testing.assert_allclose(cosines[0], cosines[1], atol=0.01)
    assert np.ptp(cosines[0]) > 0.02


@pytest.mark.parametrize(
    ("dtype", "size", "served"), [(torch.bfloat16, 32, True), (torch.bfloat16, 48, False), (torch.float32, 32, False)]
)
def test_it_serves_bfloat16_in_heads_of_whole_tile_rows(dtype: torch.dtype, size: int, served: bool) -> None:
    needs_kernel()
    assert amx.serves(CPU, dtype, size) == served
    assert not amx.serves(torch.device("cuda"), dtype, size)


@pytest.mark.parametrize(
    ("flags", "environment", "has"),
    [
        (AMX, {}, True),
        (AMX, {"ONEDNN_MAX_CPU_ISA": ""}, True),
        (AMX, {"ONEDNN_MAX_CPU_ISA": "ALL", "DNNL_MAX_CPU_ISA": "AVX2"}, True),
        (AMX, {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_AMX"}, True),
        (AMX, {"ONEDNN_MAX_CPU_ISA": "avx512_core_bf16"}, False),
        (AMX, {"DNNL_MAX_CPU_ISA": "AVX2"}, False),
        (AMX.replace("avx512vl ", ""), {}, False),
        ("avx512_bf16 avx512f", {}, False),
    ],
)
def test_amx_is_used_where_the_processor_has_it_and_the_environment_lets_onednn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: str, environment: dict[str, str], has: bool
) -> None:
    (tmp_path / "cpuinfo").write_text(f"flags\t\t: {flags}\n")
    for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert hardware.has_amx(tmp_path / "cpuinfo") == has


def test_without_the_compiled_kernel_torchs_serves_and_the_log_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "has_amx", lambda: True)
    monkeypatch.setattr(amx, "find_spec", lambda _name: None)
    with capture_logs() as logs:
        assert not amx.serves(CPU, torch.bfloat16, 32)
        assert not amx.serves(CPU, torch.bfloat16, 32)
    assert [entry["event"] for entry in logs] == ["amx_kernel_missing"]


def library(task_bytes: int = ctypes.sizeof(amx._Attention), permission: int = 0) -> Any:
    """Stands in for what was compiled, and computes nothing."""
    return SimpleNamespace(
        sidecar_amx_attend=Mock(),
        sidecar_amx_scratch_bytes=Mock(return_value=64),
        sidecar_amx_task_bytes=Mock(return_value=task_bytes),
        sidecar_amx_request_permission=Mock(return_value=permission),
    )


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"task_bytes": 8}, "another version of amx.c"),
        ({"permission": -1}, "not permitted"),
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
    monkeypatch.setattr(hardware, "has_amx", lambda: True)
    monkeypatch.setattr(amx, "find_spec", lambda name: ModuleSpec(name, None, origin=file))
    with capture_logs() as logs:
        assert amx.kernel() is None
    assert [(entry["event"], entry["file"]) for entry in logs] == [("amx_kernel_unusable", file)]
    return str(logs[0]["reason"])


def test_another_file_is_left_alone_and_the_log_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "no_library.so").write_text("no library")
    assert "no_library.so" in refused(monkeypatch, str(tmp_path / "no_library.so"))
    amx.kernel.cache_clear()
    assert "sidecar_amx_attend" in refused(monkeypatch, _ctypes.__file__)


@needs_compiler
@pytest.mark.parametrize("target", ["this one", "another"])
def test_it_compiles_without_a_warning_also_for_other_processors(tmp_path: Path, target: str) -> None:
    source, root = Path(amx.__file__).with_suffix(".c"), Path(__file__).parents[2]
    (extension,) = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]["ext-modules"]
    assert root / extension["sources"][0] == source
    flags = [*extension["extra-compile-args"], "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-shared", "-fPIC"]
    other = ["-U__x86_64__"] if target == "another" else []
    subprocess.run(["cc", *flags, *other, "-o", str(tmp_path / "amx.so"), str(source)], check=True, timeout=60)
