"""Our own attention kernel against plain arithmetic."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sidecar.scoring import checkpoint, hardware, native_attention
from sidecar.scoring.attention import attend
from sidecar.scoring.bi_encoder import BiEncoder
from sidecar.scoring.layout import Layout
from sidecar.scoring.native import Way
from sidecar.settings import BUNDLED, ModelSettings
from tests import checkpoints
from tests.checkpoints import scorer
from tests.native import built, compiles, library, needs_compiler, with_emulated_tiles
from tests.unit.test_packing import PASSAGES, QUERY

CPU = torch.device("cpu")
LENGTHS = [1, 2, 15, 16, 17, 31, 32, 33, 47, 100, 255, 256, 257, 511]
HEADS = 3
FLAGS = set(Path("/proc/cpuinfo").read_text().split()) if Path("/proc/cpuinfo").exists() else set()
NEAR = {torch.bfloat16: 0.01, torch.float32: 1e-5}
"""What rounding may do, relative and absolute."""


@pytest.fixture(scope="module")
def emulation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library for a processor whose AMX is emulated."""
    return with_emulated_tiles(tmp_path_factory.mktemp("emulated"))


@pytest.fixture(autouse=True)
def _looked_for_anew() -> Iterator[None]:
    native_attention.kernel.cache_clear()
    yield
    native_attention.kernel.cache_clear()


WAYS = {
    "tiles": (Way.BY_TILES, torch.bfloat16, hardware.has_amx(), "AMX"),
    "emulated tiles": (Way.BY_TILES, torch.bfloat16, hardware.has_avx512_bf16(), "AVX-512 BF16"),
    "vectors": (Way.BY_VECTORS, torch.bfloat16, hardware.has_avx512_bf16(), "AVX-512 BF16"),
    "float32, 16 at a time": (Way.FLOAT32_AVX512, torch.float32, "avx512vl" in FLAGS, "AVX-512"),
    "float32, 8 at a time": (Way.FLOAT32_AVX2, torch.float32, {"avx2", "fma"} <= FLAGS, "AVX2"),
}
"""By name: the way, its number type, and what a CPU needs for it."""


@pytest.fixture(params=WAYS)
def dtype(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> torch.dtype:
    """Number type of the kernel that everything uses, for each way that can be tried here."""
    way, dtype, possible, needs = WAYS[request.param]
    if not possible or not compiles():
        pytest.skip(f"needs a CPU with {needs}, and a C compiler")
    file = request.getfixturevalue("emulation") if request.param == "emulated tiles" else built()
    made = native_attention.Kernel(library(file), way)
    assert made.way is way
    monkeypatch.setattr(native_attention, "kernel", lambda asked: made if asked == dtype else None)
    return dtype


def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows with each use of the kernel."""
    used: list[int] = []
    attends = native_attention.Kernel.attend

    def counted(*arguments: Any, **named: Any) -> torch.Tensor:
        used.append(1)
        return attends(*arguments, **named)

    monkeypatch.setattr(native_attention.Kernel, "attend", counted)
    return used


def projections(dtype: torch.dtype, tokens: int, size: int, spread: float = 2.0) -> list[torch.Tensor]:
    """Query, key and value of (tokens, HEADS, size), parts of one product's rows as a layer has them."""
    torch.manual_seed(1)
    rows = (torch.randn(tokens, 3 * HEADS * size) * spread).to(dtype)
    return [part.view(tokens, HEADS, size) for part in rows.chunk(3, 1)]


def plain(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float) -> torch.Tensor:
    """Attention of one pair in float64, (queries, HEADS, size) in float32."""
    q, k, v = (rows.double().transpose(0, 1) for rows in (query, key, value))
    return (((q @ k.mT) * scaling).softmax(-1) @ v).transpose(0, 1).float()


@needs_compiler
def test_where_there_are_the_instructions_and_a_compiler_the_kernel_was_built() -> None:
    here = {
        torch.bfloat16: Way.BY_TILES if hardware.has_amx() else Way.BY_VECTORS if hardware.has_avx512_bf16() else None,
        torch.float32: Way.FLOAT32_AVX512 if hardware.has_avx512() else Way.FLOAT32_AVX2 if "avx2" in FLAGS else None,
        torch.float16: None,
    }
    found = {dtype: native_attention.kernel(dtype) for dtype in here}
    assert {dtype: one and one.way for dtype, one in found.items()} == here


@pytest.mark.parametrize("first_only", [False, True])
@pytest.mark.parametrize("size", [32, 64, 96])
def test_each_token_takes_from_the_tokens_of_its_own_pair(dtype: torch.dtype, size: int, first_only: bool) -> None:
    layout = Layout.of(LENGTHS, CPU, "native")
    query, key, value = projections(dtype, layout.tokens, size)
    asking = query[layout.first] if first_only else query
    got = attend(asking, key, value, layout, size**-0.5, first_only=first_only)
    for pair, (start, length) in enumerate(zip(layout.starts.tolist(), LENGTHS, strict=False)):
        own = slice(start, start + length)
        rows = slice(pair, pair + 1) if first_only else own
        want = plain(asking[rows], key[own], value[own], size**-0.5)
        torch.testing.assert_close(got[rows].float(), want, rtol=NEAR[dtype], atol=3 * NEAR[dtype])
        assert want.std() > 0.1
    filler = got[len(LENGTHS) :] if first_only else got[sum(LENGTHS) :]
    assert len(filler)
    assert not filler.any()


def test_it_is_about_as_near_to_exact_arithmetic_as_torchs_own_kernel(dtype: torch.dtype) -> None:
    tight, padded = Layout.of([96] * 4, CPU, "native"), Layout.of([96] * 4, CPU)
    query, key, value = projections(dtype, tight.tokens, 32)
    ours, torchs = (attend(query, key, value, layout, 0.2).float() for layout in (tight, padded))
    pairs = [slice(start, start + 96) for start in range(0, 4 * 96, 96)]
    exact = torch.cat([plain(query[own], key[own], value[own], 0.2) for own in pairs])
    assert (ours - exact).abs().max() <= 1.2 * (torchs - exact).abs().max()


@pytest.mark.parametrize("spread", [1e-6, 40.0])
def test_weights_are_right_however_steep(dtype: torch.dtype, spread: float) -> None:
    layout = Layout.of([5, 70], CPU, "native")
    query, key, value = projections(dtype, layout.tokens, 32, spread)
    got = attend(query, key, value, layout, 1.0).float()
    near = max(NEAR[dtype], 2**-24 * 32 * spread**2)  # what rounding does to logits of this size
    for own in (slice(0, 5), slice(5, 75)):
        want = plain(query[own], key[own], value[own], 1.0)
        torch.testing.assert_close(got[own], want, rtol=near, atol=near * spread)


@pytest.mark.parametrize("size", [1e3, 1e9, 1e12])
def test_equal_logits_of_any_size_weigh_the_same(dtype: torch.dtype, size: float) -> None:
    layout = Layout.of([17, 40], CPU, "native")
    _, _, value = projections(dtype, layout.tokens, 32)
    root = torch.full_like(value, (size / 32) ** 0.5)
    got = attend(root, root, value, layout, 1.0).float()
    for own in (slice(0, 17), slice(17, 57)):
        mean = value[own].float().mean(0).expand(got[own].shape)
        torch.testing.assert_close(got[own], mean, rtol=NEAR[dtype], atol=NEAR[dtype])


def test_what_is_not_a_number_stays_in_its_own_pair(dtype: torch.dtype) -> None:
    layout = Layout.of([20, 17, 3], CPU, "native")
    query, key, value = projections(dtype, layout.tokens, 32)
    want = attend(query, key, value, layout, 0.2)
    for rows in (query, key, value):
        rows[20:37] = torch.nan
    got = attend(query, key, value, layout, 0.2)
    assert got[20:37].isnan().all()
    others = [*range(20), *range(37, 40)]
    assert torch.equal(got[others], want[others])


def test_any_number_of_threads_computes_the_same_also_several_calls_at_once(dtype: torch.dtype) -> None:
    layout = Layout.of(LENGTHS, CPU, "native")
    query, key, value = projections(dtype, layout.tokens, 32)

    def run(_: int = 0) -> torch.Tensor:
        return attend(query, key, value, layout, 0.2)

    threads, want = torch.get_num_threads(), run()
    try:
        for number in (1, 3):
            torch.set_num_threads(number)
            assert torch.equal(run(), want)
    finally:
        torch.set_num_threads(threads)
    with ThreadPoolExecutor(4) as pool:
        assert all(torch.equal(got, want) for got in pool.map(run, range(40)))


def test_parts_that_lie_apart_within_a_token_are_brought_together(dtype: torch.dtype) -> None:
    layout = Layout.of([20], CPU, "native")
    apart = torch.randn(layout.tokens, 32, HEADS).to(dtype).transpose(1, 2)
    together = apart.contiguous()
    got, want = (attend(rows, rows, rows, layout, 0.2) for rows in (apart, together))
    assert torch.equal(got, want)


def test_the_bundled_model_scores_as_with_torchs_kernel(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    used = calls(monkeypatch)
    ours = scorer(BUNDLED, dtype)  # type: ignore[arg-type]
    pairs = ours.encode(QUERY, PASSAGES)
    got = ours.score(pairs)
    assert used
    used.clear()
    monkeypatch.setattr(native_attention, "kernel", lambda _dtype: None)
    other = scorer(BUNDLED, dtype)  # type: ignore[arg-type]
    assert (ours.packed, other.packed) == (True, True)
    np.testing.assert_allclose(got, other.score(pairs), atol=10 * NEAR[dtype])
    assert np.ptp(got) > 0.5
    assert not used


def test_a_bi_encoder_gives_the_cosines_of_torchs_kernel(
    dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = checkpoints.build(tmp_path, head=False, hidden_size=64, num_attention_heads=2)
    settings = ModelSettings(kind="bi_encoder", checkpoint=str(folder))
    used, cosines = calls(monkeypatch), []
    for kernel in (native_attention.kernel, lambda _dtype: None):
        monkeypatch.setattr(native_attention, "kernel", kernel)
        model = BiEncoder(*checkpoint.load_encoder(settings, CPU, dtype), settings)
        assert model.packed
        cosines.append(model.score(model.encode(QUERY, PASSAGES)))
        assert bool(used) == (kernel(dtype) is not None)
        used.clear()
    np.testing.assert_allclose(cosines[0], cosines[1], atol=NEAR[dtype])
    assert np.ptp(cosines[0]) > 0.02


def test_it_serves_heads_of_whole_steps_on_a_cpu(dtype: torch.dtype) -> None:
    step = 32 if dtype == torch.bfloat16 else 8
    assert native_attention.serves(CPU, dtype, 3 * step)
    assert not native_attention.serves(CPU, dtype, 3 * step + step // 2)
    assert not native_attention.serves(torch.device("cuda"), dtype, 3 * step)
    assert not native_attention.serves(CPU, torch.float16, 3 * step)
