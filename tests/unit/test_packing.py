"""Pairs packed end to end score as padded ones do, in every family that is packed, whatever their lengths."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from structlog.testing import capture_logs

from sidecar.scoring import packing
from sidecar.scoring.base import Pair
from sidecar.scoring.cross_encoder import CrossEncoder
from sidecar.settings import BUNDLED
from tests.checkpoints import FAMILIES, WORDS, build, edit, rank_correlation, scorer

QUERY = "how to fix an apple phone"
PASSAGES = [" ".join((WORDS * 9)[start : start + start % 29 + 60 * (start % 7 == 3)]) for start in range(40)]
PACKED = [family for family in FAMILIES if family in packing.HEADS]


def padded(monkeypatch: pytest.MonkeyPatch, folder: Path | str, **changes: Any) -> CrossEncoder:
    """The checkpoint as a scorer that knows no family to pack."""
    with monkeypatch.context() as patch:
        patch.setattr(packing, "HEADS", {})
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
    np.testing.assert_allclose(model.score(pairs), want, atol=1e-5)


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

    def fails(model: Any, hidden: torch.Tensor, layout: packing.Layout) -> torch.Tensor:
        if broken == "raises":
            raise TypeError("no such argument")
        return torch.full((len(layout.lengths), 1), 7.0)

    monkeypatch.setitem(packing.HEADS, "bert", fails)
    with capture_logs() as logs:
        model = scorer(tmp_path)
    assert not model.packed
    assert [entry["event"] for entry in logs] == ["pairs are padded"]
    np.testing.assert_array_equal(model.score(pairs), want.score(pairs))


def test_a_decoder_is_not_packed(tmp_path: Path) -> None:
    build(tmp_path)
    edit(tmp_path, is_decoder=True)
    assert not scorer(tmp_path).packed


def test_the_row_padded_by_width_and_back_is_the_row() -> None:
    lengths = [3, 16, 17, 17, 40]
    layout = packing.Layout(lengths, torch.tensor(np.cumsum([0, *lengths], dtype=np.int32)))
    runs, places, kept = layout.padded
    assert [(list(run.lengths), run.width) for run in runs] == [([3, 16], 16), ([17, 17], 32), ([40], 48)]
    assert len(places) == 16 * 2 + 32 * 2 + 48
    row = torch.arange(sum(lengths))
    assert torch.equal(row[places][kept], row)
    assert kept.tolist()[:4] == [0, 1, 2, 16]


def test_what_fills_a_row_up_is_read_by_no_pair() -> None:
    layout = packing.Layout([3, 5], torch.tensor([0, 3, 8], dtype=torch.int32), filler=8)
    _, places, kept = layout.padded
    assert torch.equal(torch.arange(8)[places][kept][:8], torch.arange(8))
    assert kept.tolist()[8:] == [0] * 8


def test_rows_have_few_lengths_and_are_filled_by_a_sixteenth_at_most() -> None:
    lengths = {tokens: packing.row_length(tokens) for tokens in range(1, 16_385)}
    assert all(tokens <= length < tokens + max(16, tokens / 16 + 1) for tokens, length in lengths.items())
    assert len(set(lengths.values())) <= 16 * 7


def test_the_kernel_of_cuda_is_called_with_rows_bounds_and_a_window_on_either_side(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: dict[str, Any] = {}

    def kernel(*positional: Any, **named: Any) -> torch.Tensor:
        seen.update(named, shapes=[tuple(tensor.shape) for tensor in positional[:3]], rest=positional[3:])
        out: torch.Tensor = positional[0]
        return out

    monkeypatch.setattr(packing, "_VARLEN", kernel)
    layout = packing.Layout([3, 5], torch.tensor([0, 3, 8], dtype=torch.int32))
    query = torch.randn(1, 2, 8, 4)  # (1, heads, T, size)
    assert packing._varlen(query, query, query, layout, 0.5, None).shape == (1, 8, 2, 4)
    assert seen["shapes"] == [(8, 2, 4)] * 3
    assert [tensor.tolist() for tensor in seen["rest"][:2]] == [[0, 3, 8]] * 2
    assert (seen["rest"][2:], seen["scale"], seen["window_size"]) == ((5, 5), 0.5, (-1, -1))
    packing._varlen(query, query, query, layout, 0.5, 9)
    assert seen["window_size"] == (8, 8)
