"""On a CUDA device: half precision keeps the order, and a batch too large for the memory is halved."""

import statistics
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from sidecar.scoring import loader, packing
from sidecar.settings import ModelSettings
from tests.bench.contestants import seconds
from tests.checkpoints import FAMILIES, WORDS, build, rank_correlation, scorer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, and this machine has none"),
]

QUERY = "how to fix an apple phone"
PASSAGES = [" ".join(WORDS[start : start + 3 + start % 17]) for start in range(40)]


@pytest.mark.parametrize("family", FAMILIES)
def test_float32_scores_equal_those_of_the_cpu(tmp_path: Path, family: str) -> None:
    build(tmp_path, family)
    cpu, cuda = scorer(tmp_path), scorer(tmp_path, device="cuda")
    pairs = cpu.encode(QUERY, PASSAGES)
    np.testing.assert_allclose(cuda.score(pairs), cpu.score(pairs), atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", FAMILIES)
def test_half_precision_keeps_the_order_but_for_near_ties(tmp_path: Path, family: str, dtype: torch.dtype) -> None:
    build(tmp_path, family, initializer_range=0.2)
    exact, rounded = scorer(tmp_path), scorer(tmp_path, dtype, "cuda")
    pairs = exact.encode(QUERY, PASSAGES)
    assert rank_correlation(exact.score(pairs), rounded.score(pairs)) > 0.97


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", [family for family in FAMILIES if family in packing.ENCODERS])
def test_half_precision_is_packed_and_a_packed_batch_scores_as_its_pairs_alone(
    tmp_path: Path, family: str, dtype: torch.dtype
) -> None:
    build(tmp_path, family, initializer_range=0.2)
    model = scorer(tmp_path, dtype, "cuda")
    assert model.packed
    pairs = model.encode(QUERY, PASSAGES)
    alone = np.array([model.score([pair])[0] for pair in pairs])
    assert rank_correlation(alone, model.score(pairs)) > 0.98


def test_passes_launched_one_behind_the_other_score_as_each_alone(tmp_path: Path) -> None:
    build(tmp_path)
    assert not scorer(tmp_path, device="cuda").launches, "in float32 it is padded"
    model = scorer(tmp_path, torch.bfloat16, "cuda")
    assert model.launches
    batches = [model.encode(QUERY, PASSAGES[start : start + 8]) for start in range(0, 40, 8)]
    alone = [model.score(batch) for batch in batches]
    waiting = [model.launch(batch) for batch in batches]
    for wait, want in zip(waiting, alone, strict=True):
        np.testing.assert_allclose(wait(), want, atol=1e-5)


def test_a_batch_of_a_shape_never_seen_takes_hardly_longer(tmp_path: Path) -> None:
    """It would take much longer if a plan were built for each number of pairs and longest pair."""
    build(tmp_path)
    model = loader.load("m", ModelSettings(checkpoint=str(tmp_path), device="cuda")).scorer
    batches = [model.encode(QUERY, [" ".join((WORDS * 9)[: 5 * count])] * count) for count in range(20, 60)]
    rounds = [[seconds(partial(model.score, batch)) for batch in batches] for _ in range(3)]
    first, usual = sorted(rounds[0]), statistics.median(rounds[2])
    assert statistics.median(first) < 3 * usual
    assert first[-3] < 10 * usual, "all but the two slowest: the machine is not ours alone"


def test_a_batch_too_large_for_the_memory_is_halved_and_every_pair_scored(tmp_path: Path) -> None:
    build(tmp_path)
    model = scorer(tmp_path, device="cuda")
    pairs = model.encode(QUERY, [" ".join(WORDS * 20)] * 512)
    want = model.score(pairs)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    model.score(pairs[:64])
    room = torch.cuda.max_memory_reserved() + 2**25
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(room / torch.cuda.get_device_properties(0).total_memory)
    sizes: list[int] = []
    hook = model._model.register_forward_pre_hook(
        lambda module, args, kwargs: sizes.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    try:
        np.testing.assert_allclose(model.score(pairs), want, atol=1e-4)
    finally:
        hook.remove()
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert sizes[:2] == [512, 256]


def test_a_model_loads_calibrates_and_warms_up_in_half_precision(tmp_path: Path) -> None:
    build(tmp_path)
    loaded = loader.load("m", ModelSettings(checkpoint=str(tmp_path), device="cuda"))
    scores = loaded.scorer.score(loaded.scorer.encode(QUERY, PASSAGES))
    assert np.isfinite(scores).all()
    assert loaded.cost.predict_s(1, 32) > 0
