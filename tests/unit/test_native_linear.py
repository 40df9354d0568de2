"""Linear layers and what follows attention by our own kernel, against plain arithmetic."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from sidecar.scoring import bert, hardware, native_attention, operations
from sidecar.scoring.linear import Linear, OneByOne, Operations, Rest
from sidecar.scoring.native import Way
from sidecar.scoring.native_linear import ByTiles, fits
from sidecar.settings import BUNDLED
from tests import checkpoints
from tests.checkpoints import scorer
from tests.native import built, compiles, library, with_emulated_tiles
from tests.unit.test_packing import PASSAGES, QUERY

CPU = torch.device("cpu")
NEAR = 0.01
"""What rounding to bfloat16 may do, relative and absolute."""


@pytest.fixture(scope="module", params=["tiles", "emulated tiles"])
def does(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ByTiles:
    """The operations, by tiles of the processor and by emulated ones."""
    emulated = request.param != "tiles"
    possible = hardware.has_avx512_bf16() if emulated else Way.BY_TILES is way()
    if not possible or not compiles():
        pytest.skip("needs a CPU with AMX, or AVX-512 BF16 to emulate it, and a C compiler")
    return ByTiles(library(with_emulated_tiles(tmp_path_factory.mktemp("emulated")) if emulated else built()))


def way() -> Way | None:
    kernel = native_attention.kernel(torch.bfloat16)
    return kernel.way if kernel else None


def layer(into: int, out: int, spread: float = 1.0) -> torch.nn.Linear:
    """A layer whose results are about as large as its inputs, times ``spread``."""
    made = torch.nn.Linear(into, out, dtype=torch.bfloat16)
    torch.nn.init.normal_(made.weight, std=spread * into**-0.5)
    return made


def norm(size: int) -> torch.nn.LayerNorm:
    made = torch.nn.LayerNorm(size, eps=1e-12, dtype=torch.bfloat16)
    torch.nn.init.uniform_(made.weight, 0.5, 1.5)
    torch.nn.init.uniform_(made.bias, -0.5, 0.5)
    return made


def layers(hidden: int, inner: int, spread: float = 1.0) -> dict[str, Any]:
    """The parts of what follows attention, by their names in :class:`Rest`."""
    return {
        "output": layer(hidden, hidden),
        "output_norm": norm(hidden),
        "inner": layer(hidden, inner, spread),
        "outer": layer(inner, hidden),
        "outer_norm": norm(hidden),
    }


def rest(does: Operations, parts: dict[str, Any], attended: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
    """What ``does`` makes of both by these layers, which have their weights back afterwards."""
    linear = {name: Linear([part], does) for name, part in parts.items() if isinstance(part, torch.nn.Linear)}
    got = does.rest(attended, hidden, Rest(activation=None, **(parts | linear)))
    for one in linear.values():
        one.restore()
    return got


def in_float64(part: Any, rows: torch.Tensor) -> torch.Tensor:
    weight, bias = part.weight.double(), part.bias.double()
    if isinstance(part, torch.nn.Linear):
        return functional.linear(rows, weight, bias)
    return functional.layer_norm(rows, weight.shape, weight, bias, part.eps)


def exact(parts: dict[str, Any], attended: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
    """What follows attention in float64; factors of products are rounded to bfloat16, as everywhere."""
    after = {name: lambda rows, part=part: in_float64(part, rows) for name, part in parts.items()}
    normed = after["output_norm"](after["output"](attended.double()) + hidden.double()).bfloat16().double()
    wide = functional.gelu(after["inner"](normed)).bfloat16().double()
    return after["outer_norm"](after["outer"](wide) + normed).float()


@pytest.mark.parametrize("count", [16, 32, 48, 272, 1040])
@pytest.mark.parametrize(("into", "out"), [(32, 32), (64, 96), (384, 1152)])
@torch.inference_mode()
def test_a_linear_layer_is_that_of_exact_arithmetic(does: ByTiles, count: int, into: int, out: int) -> None:
    torch.manual_seed(1)
    plain, rows = layer(into, out), torch.randn(count, into).bfloat16()
    want = in_float64(plain, rows.double()).float()
    got = does.linear(rows, Linear([plain], does))
    torch.testing.assert_close(got.float(), want, rtol=NEAR, atol=NEAR)
    assert want.std() > 0.5


@torch.inference_mode()
def test_rows_may_lie_apart(does: ByTiles) -> None:
    wide = torch.randn(48, 96).bfloat16()
    joined = Linear([layer(32, 64)], does)
    assert torch.equal(does.linear(wide[:, 32:64], joined), does.linear(wide[:, 32:64].contiguous(), joined))


@pytest.mark.parametrize(
    ("hidden", "inner", "count"),
    [(32, 32, 16), (32, 32, 1040), (64, 256, 48), (64, 256, 80), (384, 1536, 16), (384, 1536, 560), (1024, 4096, 80)],
)
@torch.inference_mode()
def test_all_that_follows_attention_is_that_of_exact_arithmetic(
    does: ByTiles, hidden: int, inner: int, count: int
) -> None:
    torch.manual_seed(1)
    parts, (attended, before) = layers(hidden, inner), torch.randn(2, count, hidden).bfloat16()
    want = exact(parts, attended, before)
    got = rest(does, parts, attended, before)
    torch.testing.assert_close(got.float(), want, rtol=NEAR, atol=4 * NEAR)
    assert want.std() > 0.5


@pytest.mark.parametrize("spread", [0.01, 1.0, 30.0])
@torch.inference_mode()
def test_gelu_is_exact_enough_however_large_its_input(does: ByTiles, spread: float) -> None:
    torch.manual_seed(1)
    parts, rows = layers(64, 64, spread), torch.randn(512, 64).bfloat16()
    parts["outer"].weight.copy_(torch.eye(64))
    want = exact(parts, rows, rows)
    got = rest(does, parts, rows, rows)
    torch.testing.assert_close(got.float(), want, rtol=NEAR, atol=2 * NEAR)


@torch.inference_mode()
def test_it_is_nearer_to_exact_arithmetic_than_torchs_own_operations(does: ByTiles) -> None:
    torch.manual_seed(1)
    parts, (attended, before) = layers(384, 1536), torch.randn(2, 256, 384).bfloat16()
    want = exact(parts, attended, before)
    ours, torchs = (rest(one, parts, attended, before).float() - want for one in (does, OneByOne()))
    assert ours.square().mean() < torchs.square().mean()


@torch.inference_mode()
def test_a_row_that_is_not_a_number_spoils_no_other(does: ByTiles) -> None:
    torch.manual_seed(1)
    parts, (attended, before) = layers(64, 96), torch.randn(2, 80, 64).bfloat16()
    want = rest(does, parts, attended, before)
    attended[40] = torch.nan
    before[41] = torch.inf
    got = rest(does, parts, attended, before)
    assert got[40:42].isnan().all()
    others = [*range(40), *range(42, 80)]
    assert torch.equal(got[others], want[others])


@torch.inference_mode()
def test_any_number_of_threads_computes_the_same_also_several_calls_at_once(does: ByTiles) -> None:
    torch.manual_seed(1)
    parts, (attended, before) = layers(64, 96), torch.randn(2, 1552, 64).bfloat16()
    threads, want = torch.get_num_threads(), rest(does, parts, attended, before)
    try:
        for number in (1, 3, 7):
            torch.set_num_threads(number)
            assert torch.equal(rest(does, parts, attended, before), want)
    finally:
        torch.set_num_threads(threads)
    linear, rows = Linear([layer(64, 96)], does), torch.randn(240, 64).bfloat16()
    alone = does.linear(rows, linear)
    with ThreadPoolExecutor(4) as pool:
        assert all(torch.equal(got, alone) for got in pool.map(lambda _: does.linear(rows, linear), range(40)))


@torch.inference_mode()
def test_layers_have_their_own_weights_back(does: ByTiles) -> None:
    plain = [layer(64, 96), layer(64, 32)]
    weights = [one.weight.clone() for one in plain]
    joined = Linear(plain, does)
    assert joined.weight.shape == (4, 2, 2, 16, 16, 2)
    joined.restore()
    assert all(torch.equal(one.weight, weight) for one, weight in zip(plain, weights, strict=True))


def test_the_bundled_model_scores_as_by_torchs_own_operations(does: ByTiles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bert, "operations", lambda *_: does)
    ours = scorer(BUNDLED, torch.bfloat16)  # type: ignore[arg-type]
    monkeypatch.setattr(bert, "operations", lambda *_: OneByOne())
    other = scorer(BUNDLED, torch.bfloat16)  # type: ignore[arg-type]
    pairs = ours.encode(QUERY, PASSAGES)
    assert (ours.packed, other.packed) == (True, True)
    got = ours.score(pairs)
    np.testing.assert_allclose(got, other.score(pairs), atol=0.1)
    assert np.ptp(got) > 0.5


def test_tiles_serve_where_the_processor_has_them_and_the_sizes_fit() -> None:
    config = SimpleNamespace(hidden_size=384, intermediate_size=1536, hidden_act="gelu")
    found = operations.operations(CPU, torch.bfloat16, config)
    assert isinstance(found, ByTiles) == (way() is Way.BY_TILES)
    for other in ({"hidden_size": 312}, {"intermediate_size": 1200}, {"hidden_act": "gelu_new"}):
        unfit = SimpleNamespace(**(vars(config) | other))
        assert fits(config)
        assert not fits(unfit)
        assert not isinstance(operations.operations(CPU, torch.bfloat16, unfit), ByTiles)
    assert not isinstance(operations.operations(CPU, torch.float32, config), ByTiles)


@torch.inference_mode()
def test_no_rows_are_no_rows(does: ByTiles) -> None:
    assert does.linear(torch.empty(0, 64, dtype=torch.bfloat16), Linear([layer(64, 96)], does)).shape == (0, 96)
    nothing = torch.empty(0, 64, dtype=torch.bfloat16)
    assert rest(does, layers(64, 96), nothing, nothing).shape == (0, 64)


@pytest.mark.parametrize(("embedding_size", "tokens"), [(64, 2112), (32, 2304)])
def test_a_row_is_filled_for_onednn_only_where_that_multiplies_all_tokens(
    does: ByTiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, embedding_size: int, tokens: int
) -> None:
    monkeypatch.setattr(bert, "operations", lambda *_: does)
    sizes: dict[str, Any] = {"hidden_size": 64, "num_attention_heads": 2, "embedding_size": embedding_size}
    model = scorer(checkpoints.build(tmp_path, "electra", **sizes), torch.bfloat16)
    assert model._packed
    assert model._packed._layout([700, 700, 703]).tokens == tokens
