"""Pairs packed end to end score as padded ones do, in every family that is packed, whatever their lengths."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from structlog.testing import capture_logs

from sidecar.scoring import attention, bert, hardware, linear, native_attention, operations, packing
from sidecar.scoring.attention import attend
from sidecar.scoring.base import Pair
from sidecar.scoring.cross_encoder import CrossEncoder
from sidecar.scoring.layout import Layout, row_length, row_lengths
from sidecar.settings import BUNDLED
from tests.checkpoints import FAMILIES, WORDS, build, edit, rank_correlation, scorer

CPU = torch.device("cpu")
QUERY = "how to fix an apple phone"
PASSAGES = [" ".join((WORDS * 9)[start : start + start % 29 + 60 * (start % 7 == 3)]) for start in range(40)]
FAST = [torch.float32, *([torch.bfloat16] if hardware.has_bfloat16() else [])]
"""Number types that the CPU multiplies in hardware."""
PACKED = [family for family in FAMILIES if family in packing.ENCODERS]


def padded(monkeypatch: pytest.MonkeyPatch, folder: Path | str, **changes: Any) -> CrossEncoder:
    """The checkpoint as a scorer that knows no family to pack."""
    with monkeypatch.context() as patch:
        patch.setattr(packing, "ENCODERS", {})
        model = scorer(folder, **changes)  # type: ignore[arg-type]
    assert not model.packed
    return model


def test_the_families_of_the_contract_are_packed_and_others_are_not(tmp_path: Path) -> None:
    packed = {family: scorer(build(tmp_path / family, family)).packed for family in FAMILIES}
    assert packed == {family: family in PACKED for family in FAMILIES}
    assert {"bert", "roberta", "xlm-roberta", "modernbert"} <= set(PACKED)


@pytest.mark.parametrize("labels", [1, 2])
@pytest.mark.parametrize("family", PACKED)
def test_packed_scores_equal_padded_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str, labels: int
) -> None:
    build(tmp_path, family, labels=labels)
    label = None if labels == 1 else 1
    model = scorer(tmp_path, label=label)
    pairs = model.encode(QUERY, PASSAGES)
    assert len({pair.tokens for pair in pairs}) > 10
    assert max(pair.tokens for pair in pairs) > 64  # beyond ModernBERT's window of 16, and several widths apart
    want = padded(monkeypatch, tmp_path, label=label).score(pairs)
    assert np.ptp(want) > 0.05
    np.testing.assert_allclose(model.score(pairs), want, rtol=1e-4, atol=1e-4)  # kernels round differently


def test_modernbert_that_pools_the_mean_is_packed_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build(tmp_path, "modernbert", classifier_pooling="mean")
    model = scorer(tmp_path)
    pairs = model.encode(QUERY, PASSAGES)
    assert model.packed
    np.testing.assert_allclose(model.score(pairs), padded(monkeypatch, tmp_path).score(pairs), atol=1e-5)


def test_the_bundled_model_scores_the_same_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    model = scorer(BUNDLED)  # type: ignore[arg-type]
    pairs = model.encode("how to store apples", PASSAGES)
    assert model.packed
    np.testing.assert_allclose(model.score(pairs), padded(monkeypatch, BUNDLED).score(pairs), atol=1e-5)


def test_in_bfloat16_packing_keeps_the_order_but_for_near_ties(monkeypatch: pytest.MonkeyPatch) -> None:
    model = scorer(BUNDLED, torch.bfloat16)  # type: ignore[arg-type]
    pairs = model.encode("how to store apples", PASSAGES)
    assert model.packed
    assert rank_correlation(model.score(pairs), padded(monkeypatch, BUNDLED).score(pairs)) > 0.99


def test_a_padding_token_inside_a_text_has_the_position_that_roberta_gives_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(tmp_path, "roberta")
    model = scorer(tmp_path)
    pairs = [Pair([0, 5, 1, 6, 2, 2, 7, 1, 8, 2]), Pair([0, 9, 2, 2, 7, 2])]  # 1 is <pad>
    np.testing.assert_allclose(model.score(pairs), padded(monkeypatch, tmp_path).score(pairs), atol=1e-5)


def test_token_ids_may_be_numpy_arrays_of_int32(tmp_path: Path) -> None:
    model = scorer(build(tmp_path))
    lists = model.encode(QUERY, PASSAGES[:5])
    arrays: Any = [Pair(np.array(pair.input_ids, np.int32), np.array(pair.token_type_ids, np.int32)) for pair in lists]
    np.testing.assert_array_equal(model.score(arrays), model.score(lists))


@pytest.mark.parametrize("broken", ["raises", "lies"])
def test_a_model_that_cannot_be_packed_after_all_is_padded_and_the_log_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    build(tmp_path)
    want = padded(monkeypatch, tmp_path)
    pairs = want.encode(QUERY, PASSAGES[:8])

    def fails(inputs: dict[str, torch.Tensor], layout: Layout) -> torch.Tensor:
        if broken == "raises":
            raise TypeError("no such argument")
        return torch.full((len(layout.first), 32), 7.0)

    monkeypatch.setitem(packing.ENCODERS, "bert", lambda _model: fails)
    with capture_logs() as logs:
        model = scorer(tmp_path)
    assert not model.packed
    assert [entry["event"] for entry in logs] == ["pairs_padded"]
    np.testing.assert_array_equal(model.score(pairs), want.score(pairs))


def test_a_decoder_is_not_packed(tmp_path: Path) -> None:
    build(tmp_path)
    edit(tmp_path, is_decoder=True)
    assert not scorer(tmp_path).packed


def test_each_pair_takes_whole_vectors_of_a_cpus_row_and_pairs_of_one_width_are_one_run() -> None:
    layout = Layout.of([3, 16, 17, 17, 40], CPU)
    assert list(layout.widths) == [16, 16, 32, 32, 48]
    assert [(run.places, list(run.lengths), run.width) for run in layout.runs] == [
        (slice(0, 32), [3, 16], 16),
        (slice(32, 96), [17, 17], 32),
        (slice(96, 144), [40], 48),
    ]
    assert layout.first.tolist() == [0, 16, 32, 64, 96, *[0] * 11]
    assert layout.tokens == 144


def test_on_cuda_the_row_holds_tokens_alone() -> None:
    layout = Layout.of([3, 16, 17], torch.device("cuda"))
    assert (list(layout.widths), layout.tokens, layout.starts.tolist()) == ([3, 16, 17], 36, [0, 3, 19, 36])


@pytest.mark.parametrize("window", [None, 4])
def test_each_token_takes_from_the_tokens_of_its_own_pair_within_the_window(window: int | None) -> None:
    torch.manual_seed(1)
    lengths = [3, 5, 17, 30]
    layout = Layout.of(lengths, CPU)
    query, key, value = torch.randn(3, layout.tokens, 2, 8)
    got = attend(query, key, value, layout, 0.3, window)
    first = attend(query[layout.first], key, value, layout, 0.3, first_only=True)
    for pair, (start, length) in enumerate(zip(layout.starts.tolist(), lengths, strict=False)):
        q, k, v = (rows[start : start + length].transpose(0, 1) for rows in (query, key, value))
        places = torch.arange(length)
        hidden = (places[:, None] - places).abs() >= (window or length)
        weights = ((q @ k.mT) * 0.3).masked_fill(hidden, -torch.inf).softmax(-1)
        want = (weights @ v).transpose(0, 1)
        torch.testing.assert_close(got[start : start + length], want)
        if window is None:
            torch.testing.assert_close(first[pair], want[0])


def test_padding_and_filler_stay_finite() -> None:
    layout = Layout.of([3, 40], CPU)
    assert layout.tokens == 64
    layout = Layout.of([100] * 3, CPU)
    assert layout.tokens > sum(layout.widths)
    rows = torch.randn(layout.tokens, 2, 8)
    assert attend(rows, rows, rows, layout, 0.3, 4).isfinite().all()
    assert attend(rows[layout.first], rows, rows, layout, 0.3, first_only=True).isfinite().all()


def test_rows_have_few_lengths_and_are_filled_by_an_eighth_at_most() -> None:
    lengths = {tokens: row_length(tokens) for tokens in range(1, 16_385)}
    assert all(tokens <= length < tokens + max(16, tokens / 8 + 1) for tokens, length in lengths.items())
    assert row_lengths(16_384) == sorted(set(lengths.values()))
    assert len(set(lengths.values())) <= 16 + 8 * 6


def test_the_kernel_of_cuda_is_called_with_rows_bounds_and_a_window_on_either_side(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: dict[str, Any] = {}

    def kernel(*positional: Any, **named: Any) -> torch.Tensor:
        seen.update(named, shapes=[tuple(tensor.shape) for tensor in positional[:3]], rest=positional[3:])
        out: torch.Tensor = positional[0]
        return out

    monkeypatch.setattr(attention, "VARLEN", kernel)
    layout = Layout([3, 5], [3, 5], CPU, 8, "varlen")
    rows = torch.randn(8, 2, 4)
    assert attention._varlen(rows, rows, rows, layout, 0.5, None, False).shape == (8, 2, 4)
    assert seen["shapes"] == [(8, 2, 4)] * 3
    assert [tensor.tolist() for tensor in seen["rest"][:2]] == [[0, 3, 8]] * 2
    assert (seen["rest"][2:], seen["scale"], seen["window_size"]) == ((5, 5), 0.5, (-1, -1))
    attention._varlen(rows, rows, rows, layout, 0.5, 9, False)
    assert seen["window_size"] == (8, 8)
    attention._varlen(rows[[0, 3]], rows, rows, layout, 0.5, None, True)
    assert [tensor.tolist() for tensor in seen["rest"][:2]] == [[0, 1, 2], [0, 3, 8]]
    assert (seen["shapes"][0], seen["rest"][2:]) == ((2, 2, 4), (1, 5))


@pytest.mark.parametrize("family", PACKED)
def test_rows_as_on_cuda_score_as_padded_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, like_cuda: list[tuple[int, int]], family: str
) -> None:
    """The whole way but for the kernel itself: inputs, bounds, windows, the last layer's first tokens, the head."""
    want = padded(monkeypatch, build(tmp_path, family))
    pairs = want.encode(QUERY, PASSAGES)
    model = scorer(tmp_path)
    like_cuda.clear()
    got = model.score(pairs)
    assert model.packed
    assert set(like_cuda) == ({(-1, -1), (8, 8)} if family == "modernbert" else {(-1, -1)})
    assert np.ptp(got) > 0.05
    np.testing.assert_allclose(got, want.score(pairs), rtol=1e-5, atol=1e-5)


def test_on_cuda_passes_of_growing_size_have_the_kernels_loaded(
    tmp_path: Path, like_cuda: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = scorer(build(tmp_path))
    assert not model.launches
    model.launches = True
    seen: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(model, "score", lambda pairs: seen.append(sum(pair.tokens for pair in pairs)))
        model.prepare(2048)
    assert seen == row_lengths(2048)
    like_cuda.clear()
    model.prepare(64)
    assert len(like_cuda) >= 2 * len(row_lengths(64)), "two layers each"


@pytest.mark.usefixtures("like_cuda")
def test_as_on_cuda_the_row_holds_tokens_alone() -> None:
    row = Layout.of([3, 16, 17], CPU)
    assert (list(row.widths), row.tokens, row.first.tolist(), row.kernel) == ([3, 16, 17], 36, [0, 3, 19], "varlen")


GELU = SimpleNamespace(hidden_size=64, intermediate_size=128, hidden_act="gelu")


@pytest.mark.parametrize("dtype", FAST)
def test_operations_fused_by_onednn_equal_those_one_by_one(dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    layer = torch.nn.Linear(64, 32, dtype=dtype)
    rows, other = torch.randn(48, 64).to(dtype), torch.randn(48, 32).to(dtype)
    results = []
    with torch.inference_mode():
        for does in (linear.Fused(), linear.OneByOne()):
            taken = linear.Linear([layer], does)
            results.append([does.linear(rows, taken), does.gelu(rows, taken), does.added(rows, taken, other)])
            taken.restore()
    near = 1e-5 if dtype == torch.float32 else 0.02
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, rtol=near, atol=near)
        assert want.float().std() > 0.2


@pytest.mark.parametrize(
    ("avx512", "bfloat16", "fused"),
    [(False, False, []), (True, False, [torch.float32]), (True, True, [torch.float32, torch.bfloat16])],
)
def test_operations_are_fused_where_that_is_faster(
    monkeypatch: pytest.MonkeyPatch, avx512: bool, bfloat16: bool, fused: list[torch.dtype]
) -> None:
    monkeypatch.setattr(hardware, "has_avx512", lambda: avx512)
    monkeypatch.setattr(hardware, "has_bfloat16", lambda: bfloat16)
    monkeypatch.setattr(native_attention, "kernel", lambda _dtype: None)
    monkeypatch.setattr(operations, "_working", lambda _name, make, _dtype: make())
    dtypes = [torch.float32, torch.bfloat16, torch.float16]
    assert [dtype for dtype in dtypes if isinstance(operations.operations(CPU, dtype, GELU), linear.Fused)] == fused


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_without_the_fused_operations_in_torch_they_run_one_by_one(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(hardware, "has_avx512", lambda: True)
    monkeypatch.setattr(hardware, "has_bfloat16", lambda: True)
    monkeypatch.setattr(native_attention, "kernel", lambda _dtype: None)
    monkeypatch.setattr(linear.Fused, "__init__", lambda self: torch.ops.mkldnn._no_such_operation)
    assert type(operations.operations(CPU, dtype, GELU)) is linear.OneByOne


@pytest.mark.parametrize("method", ["linear", "rest", "dense"])
def test_operations_that_compute_something_else_are_left_alone(monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    class Wrong(linear.OneByOne):
        """Stands in for a torch or a library that is wrong on this machine."""

    monkeypatch.setattr(
        Wrong, method, lambda self, *of: 1.5 * getattr(linear.OneByOne, method)(self, *of), raising=False
    )
    with capture_logs() as logs:
        assert operations._working("right", linear.OneByOne, torch.float32)
        assert operations._working("wrong", Wrong, torch.float32) is None
    assert [(entry["event"], entry["operations"]) for entry in logs] == [("operations_unusable", "wrong")]


def test_operations_one_by_one_score_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bert, "operations", lambda *_: linear.Fused())
    fused = scorer(build(tmp_path))
    monkeypatch.setattr(bert, "operations", lambda *_: linear.OneByOne())
    plain = scorer(tmp_path)
    pairs = fused.encode(QUERY, PASSAGES)
    assert plain.packed
    np.testing.assert_allclose(plain.score(pairs), fused.score(pairs), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("does", [linear.OneByOne(), linear.Fused()])
def test_several_layers_are_one_product_and_hold_no_weights_until_they_are_given_back(does: linear.Operations) -> None:
    layers = [torch.nn.Linear(64, out) for out in (32, 48)]
    weights, rows = [layer.weight.detach().clone() for layer in layers], torch.randn(16, 64)
    with torch.inference_mode():
        want = torch.cat([layer(rows) for layer in layers], 1)
        joined = linear.Linear(layers, does)
        torch.testing.assert_close(does.linear(rows, joined), want)
        assert [layer.weight.numel() for layer in layers] == [0, 0]
        joined.restore()
    assert all(torch.equal(layer.weight, weight) for layer, weight in zip(layers, weights, strict=True))


@pytest.mark.parametrize(
    ("part", "when"), [(bert.LastLayer, "__init__"), (bert.LastLayer, "__call__"), (bert.Encoder, "__call__")]
)
def test_a_model_whose_packing_fails_on_the_way_has_its_weights_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: type, when: str
) -> None:
    want = padded(monkeypatch, build(tmp_path))
    before = getattr(part, when)

    def fails(*positional: Any, **named: Any) -> None:
        before(*positional, **named)
        raise RuntimeError("not on this machine")

    monkeypatch.setattr(part, when, fails)
    with capture_logs() as logs:
        model = scorer(tmp_path)
    assert [entry["reason"] for entry in logs] == ["RuntimeError: not on this machine"]
    pairs = model.encode(QUERY, PASSAGES[:8])
    assert not model.packed
    np.testing.assert_array_equal(model.score(pairs), want.score(pairs))


def test_an_activation_other_than_gelu_is_that_of_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build(tmp_path, "bert")
    edit(tmp_path, hidden_act="gelu_new")
    model = scorer(tmp_path)
    pairs = model.encode(QUERY, PASSAGES)
    assert model.packed
    np.testing.assert_allclose(model.score(pairs), padded(monkeypatch, tmp_path).score(pairs), atol=1e-5)


def test_a_row_of_any_length_is_filled_to_whole_vectors_alone() -> None:
    lengths = [700, 700, 703]
    few, every = (Layout.of(lengths, CPU, "native", any_length=any_length) for any_length in (False, True))
    assert (few.tokens, every.tokens) == (row_length(2103), 2112)
    assert few.tokens > every.tokens


@pytest.mark.skipif(not hardware.has_bfloat16(), reason="needs a CPU that multiplies bfloat16")
def test_each_length_of_a_row_is_prepared_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[int] = []

    class Recorded(bert.Layer):
        def __call__(self, hidden: torch.Tensor, layout: Layout) -> torch.Tensor:
            rows.append(len(hidden))
            return super().__call__(hidden, layout)

    monkeypatch.setattr(bert, "Layer", Recorded)
    monkeypatch.setattr(bert, "operations", lambda *_: linear.Fused())
    model = scorer(BUNDLED, torch.bfloat16)  # type: ignore[arg-type]
    rows.clear()
    model.prepare(1000)
    assert rows == row_lengths(1000)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_means_of_long_rows_as_on_cuda_lose_no_digits(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    lengths = [512, 3, 8192]
    hidden = (8 + torch.randn(sum(lengths), 16)).to(dtype)  # whose sums float16 does not hold
    layout = Layout(lengths, lengths, CPU, sum(lengths), "varlen")
    want = torch.stack([rows.float().mean(0) for rows in hidden.split(lengths)])
    got = packing.means(hidden, layout)
    assert got.dtype == dtype
    torch.testing.assert_close(got.float(), want, rtol=0.01, atol=0.01)
