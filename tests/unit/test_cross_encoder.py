"""Scores equal those of sentence-transformers on the same weights; a batch too large is halved and nothing lost."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sentence_transformers import CrossEncoder as Reference

from sidecar.cost import CostModel
from sidecar.loaded import LoadedModel
from sidecar.scoring import checkpoint, failures, loader
from sidecar.scoring.base import DeviceLost, Pair
from sidecar.scoring.cross_encoder import CrossEncoder
from sidecar.scoring.failures import losses_told
from sidecar.scoring.hardware import HardwareError
from sidecar.settings import ModelSettings
from tests.checkpoints import FAMILIES, WORDS, build, cpu_error, edit, limited, rank_correlation, scorer, settings

MAX_LENGTH = 64
CARD = torch.device("cuda:1")
QUERY = "how to fix an apple phone"
PASSAGES = [
    "apple",
    "",
    " ".join(WORDS[:9]),
    " ".join(WORDS * 20),
    "Öl für 東京 <tags> x=3.14",
    "\n\n".join(WORDS[9:15]),
    " ".join(WORDS * 100),
    "Аппле" * 300,
]


def reference(folder: Path, queries: Sequence[str], passages: Sequence[str], **options: Any) -> NDArray[np.float32]:
    """What sentence-transformers predicts, raw."""
    model = Reference(str(folder), device="cpu", activation_fn=torch.nn.Identity(), max_length=MAX_LENGTH)
    predicted: NDArray[np.float32] = model.predict(list(zip(queries, passages, strict=True)), **options)
    return predicted


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with one label, of each family."""
    return build(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT checkpoint with one label."""
    return build(tmp_path_factory.mktemp("bert"), "bert")


@pytest.fixture
def same_threads() -> Iterator[None]:
    """Leave torch with as many threads as it had."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_scores_equal_the_reference_for_short_empty_and_truncated_passages(folder: Path) -> None:
    model = scorer(folder, max_length=MAX_LENGTH)
    pairs = model.encode(QUERY, PASSAGES)
    assert {pairs[3].tokens, pairs[6].tokens} == {MAX_LENGTH}
    assert pairs[1].tokens < pairs[0].tokens < MAX_LENGTH
    expected = reference(folder, [QUERY] * len(PASSAGES), PASSAGES)
    assert np.ptp(expected) > 0.05  # random weights that tell passages apart
    np.testing.assert_allclose(model.score(pairs), expected, rtol=1e-5, atol=1e-5)


def test_a_pair_scores_the_same_alone_in_any_order_and_beside_other_queries(folder: Path) -> None:
    model = scorer(folder, max_length=MAX_LENGTH)
    pairs = [*model.encode(QUERY, PASSAGES[:6]), *model.encode("green tea", PASSAGES[:2])]
    together = model.score(pairs)
    np.testing.assert_allclose(model.score(pairs[::-1])[::-1], together, atol=1e-5)
    np.testing.assert_allclose([model.score([pair])[0] for pair in pairs], together, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_with_two_labels_the_sigmoid_of_the_score_is_the_softmax_of_the_chosen_one(tmp_path: Path, family: str) -> None:
    build(tmp_path, family, labels=2)
    logits = reference(tmp_path, [QUERY] * 6, PASSAGES[:6])
    softmax = reference(tmp_path, [QUERY] * 6, PASSAGES[:6], apply_softmax=True)
    for label in (0, 1):
        model = scorer(tmp_path, max_length=MAX_LENGTH, label=label)
        scores = model.score(model.encode(QUERY, PASSAGES[:6]))
        np.testing.assert_allclose(scores, logits[:, label] - logits[:, 1 - label], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(1 / (1 + np.exp(-scores.astype(np.float64))), softmax[:, label], atol=1e-5)


def test_token_types_are_left_out_where_the_model_takes_none(tmp_path: Path) -> None:
    build(tmp_path, "modernbert")
    names = ["input_ids", "token_type_ids", "attention_mask"]
    edit(tmp_path, "tokenizer_config.json", model_input_names=names)
    model = scorer(tmp_path, max_length=MAX_LENGTH)
    pairs = model.encode(QUERY, PASSAGES)
    assert {pair.token_type_ids for pair in pairs} == {None}
    np.testing.assert_allclose(model.score(pairs), reference(tmp_path, [QUERY] * 8, PASSAGES), atol=1e-5)


def test_bfloat16_keeps_the_order_but_for_near_ties(tmp_path: Path) -> None:
    build(tmp_path, initializer_range=0.2)
    exact, rounded = scorer(tmp_path), scorer(tmp_path, torch.bfloat16)
    pairs = exact.encode(QUERY, [" ".join(WORDS[start : start + 3 + start % 17]) for start in range(40)])
    got = rounded.score(pairs)
    assert got.dtype == np.float32
    assert rank_correlation(exact.score(pairs), got) > 0.99


def test_scores_are_float32_one_a_pair(bert: Path) -> None:
    model = scorer(bert)
    scores = model.score(model.encode(QUERY, ["apple", "tea", "car"]))
    assert scores.dtype == np.float32
    assert scores.shape == (3,)


# --- version ----------------------------------------------------------------------------------------------------------


def test_two_loads_of_one_checkpoint_have_the_same_version(bert: Path) -> None:
    assert scorer(bert).version == scorer(bert).version


def test_the_version_changes_with_weights_dtype_tokenizer_and_truncation(bert: Path, tmp_path: Path) -> None:
    other_weights = build(tmp_path / "weights", seed=1)
    other_tokenizer = shutil.copytree(bert, tmp_path / "tokenizer")
    edit(other_tokenizer, "tokenizer_config.json", do_lower_case=False)
    models = [
        scorer(bert),
        scorer(other_weights),
        scorer(other_tokenizer),
        scorer(bert, torch.bfloat16),
        scorer(bert, max_length=MAX_LENGTH),
    ]
    assert len({model.version for model in models}) == len(models)


def test_the_version_changes_with_the_label_that_means_relevant(tmp_path: Path) -> None:
    build(tmp_path, labels=2)
    assert scorer(tmp_path, label=0).version != scorer(tmp_path, label=1).version


def test_the_version_changes_when_only_the_last_rows_of_one_weight_do(bert: Path) -> None:
    chosen = settings(bert)
    model, tokenizer = checkpoint.load(chosen, torch.device("cpu"), torch.float32)
    embeddings: Any = model.get_input_embeddings()
    with torch.no_grad():
        embeddings.weight[-40:] += 1
    assert CrossEncoder(model, tokenizer, chosen).version != scorer(bert).version


# --- out of memory ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, cpu_error])
@pytest.mark.parametrize("pairs", [1, 2, 7, 16])
def test_out_of_memory_halves_the_batch_and_scores_every_pair_in_its_place(
    bert: Path, error: Callable[[], RuntimeError], pairs: int
) -> None:
    model = scorer(bert)
    batch = model.encode(QUERY, [" ".join(WORDS[start : start + 8]) for start in range(pairs)])
    want = model.score(batch)
    sizes = limited(model, 3, error)
    np.testing.assert_allclose(model.score(batch), want, atol=1e-5)
    assert sum(size for size in sizes if size <= 3) == pairs
    assert sizes[0] == pairs


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, cpu_error])
def test_a_single_pair_that_does_not_fit_raises(bert: Path, error: Callable[[], RuntimeError]) -> None:
    model = scorer(bert)
    sizes = limited(model, 0, error)
    with pytest.raises(RuntimeError):
        model.score(model.encode(QUERY, ["apple"] * 4))
    assert sizes == [4, 2, 1]


def test_another_runtime_error_is_raised_at_once_not_retried(bert: Path) -> None:
    model = scorer(bert)
    sizes = limited(model, 0, lambda: RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="mat1"):
        model.score(model.encode(QUERY, ["apple"] * 4))
    assert sizes == [4]


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, cpu_error])
def test_a_largest_batch_that_does_not_fit_at_warm_up_is_halved_for_good(
    bert: Path, error: Callable[[], RuntimeError]
) -> None:
    chosen = settings(bert, max_length=MAX_LENGTH, max_batch_tokens=64 * MAX_LENGTH, max_batch_ms=10_000)
    model = scorer(bert, max_length=MAX_LENGTH)
    sizes = limited(model, 20, error)
    loaded = loader.fitted("m", model, CostModel(), chosen)
    assert loaded.limits.max_batch_tokens == 16 * MAX_LENGTH
    assert sizes[0] == 64
    assert sizes[-1] == 16


@pytest.mark.usefixtures("same_threads")
def test_a_device_too_small_for_one_pair_is_said_so(bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = scorer(bert, max_length=MAX_LENGTH)
    limited(model, 0, cpu_error)
    monkeypatch.setattr(loader, "CrossEncoder", lambda *_: model)
    with pytest.raises(HardwareError, match=r"memory of cpu holds not even one pair of 64 tokens .* `max_length`"):
        loader.load("m", settings(bert, max_length=MAX_LENGTH, threads=1))


# --- loading, calibrating and warming up ------------------------------------------------------------------------------


class Recorder:
    """A scorer that takes no time and remembers the shapes of its passes."""

    version = "recorder"

    def __init__(self, max_length: int) -> None:
        self.max_length = max_length
        self.shapes: list[tuple[int, int]] = []

    def encode(self, query: str, passages: Sequence[str]) -> list[Pair]:
        """Three tokens a pair."""
        return [Pair([1, 2, 3], [0, 0, 1]) for _ in passages]

    def score(self, pairs: Sequence[Pair]) -> NDArray[np.float32]:
        """All alike."""
        assert len({pair.tokens for pair in pairs}) == 1
        self.shapes.append((len(pairs), pairs[0].tokens))
        return np.zeros(len(pairs), np.float32)


@pytest.mark.parametrize(("max_length", "most_tokens"), [(512, 16_384), (512, 64), (16, 64), (100, 999), (8192, 4096)])
def test_no_pass_before_readiness_is_larger_than_the_settings_allow(max_length: int, most_tokens: int) -> None:
    recorder = Recorder(max_length)
    chosen = ModelSettings(max_batch_tokens=most_tokens, max_batch_ms=10_000)
    cost = loader.calibrate(recorder, chosen)
    loader.run_largest(LoadedModel.of("m", recorder, cost, chosen))
    assert all(pairs == 1 or pairs * length <= most_tokens for pairs, length in recorder.shapes)
    assert all(length <= max_length for _, length in recorder.shapes)
    assert recorder.shapes[-1] == (max(1, most_tokens // max_length), max_length)


def test_the_largest_batch_stays_within_its_predicted_time(bert: Path) -> None:
    recorder = Recorder(512)
    chosen = ModelSettings(max_batch_tokens=16_384, max_batch_ms=50)
    cost = CostModel(overhead_s=0.0, token_s=1e-5)  # 50 ms are 5000 tokens: 9 pairs of 512
    loader.run_largest(LoadedModel.of("m", recorder, cost, chosen))
    assert recorder.shapes == [(9, 512)]


@pytest.mark.usefixtures("same_threads")
def test_a_loaded_model_predicts_a_later_batch_within_a_factor_of_three(tmp_path: Path) -> None:
    build(tmp_path, hidden_size=64, intermediate_size=256)
    # one thread: two that wait for each other on a busy machine make any prediction wrong
    loaded = loader.load("m", settings(tmp_path, max_length=256, max_batch_tokens=4096, max_batch_ms=20, threads=1))
    for pairs, length in ((2, 200), (12, 64), (24, 100)):
        batch = loader.dummies(loaded.scorer, pairs, length)
        measured_s = min(next(loader._timed_runs(loaded.scorer, batch)) for _ in range(5))
        assert 1 / 3 < loaded.cost.predict_s(pairs, length) / measured_s < 3, (pairs, length)


def test_a_model_whose_scores_are_not_finite_is_refused(tmp_path: Path) -> None:
    build(tmp_path, initializer_range=float("inf"))
    with pytest.raises(checkpoint.CheckpointError, match=r"not finite in torch\.float32; try `dtype: float32`"):
        loader.load("m", settings(tmp_path))


def test_a_loaded_model_scores_as_the_reference_does(bert: Path) -> None:
    loaded = loader.load("m", settings(bert, max_length=MAX_LENGTH, max_batch_tokens=512))
    scores = loaded.scorer.score(loaded.scorer.encode(QUERY, PASSAGES))
    np.testing.assert_allclose(scores, reference(bert, [QUERY] * len(PASSAGES), PASSAGES), atol=1e-5)


def test_errors_of_cuda_after_which_nothing_works_are_told_as_the_loss_of_the_device(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gone = RuntimeError("CUDA error: an illegal memory access\nFor debugging consider")
    monkeypatch.setattr(failures, "_still_works", lambda _device: False)
    with pytest.raises(DeviceLost, match=r"^CUDA error: an illegal memory access$"), losses_told(CARD):
        raise gone
    for passing in (RuntimeError("CUDA error: out of memory"), torch.OutOfMemoryError("x"), ValueError("x")):
        with pytest.raises(type(passing)), losses_told(CARD):
            raise passing
    monkeypatch.setattr(failures, "_still_works", lambda _device: True)
    with pytest.raises(RuntimeError, match="illegal"), losses_told(CARD):
        raise gone


@pytest.mark.parametrize(("dead", "told"), [("cuda:1", DeviceLost), ("cuda:0", RuntimeError)])
def test_of_two_cards_the_one_that_the_model_is_on_is_asked_whether_it_still_works(
    monkeypatch: pytest.MonkeyPatch, dead: str, told: type[Exception]
) -> None:
    """The other one may be well, and be the process's current one."""

    def synchronize(device: torch.device | None = None) -> None:
        if (device or torch.device("cuda:0")) == torch.device(dead):
            raise RuntimeError("CUDA error: unspecified launch failure")

    ones = torch.ones
    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    monkeypatch.setattr(torch, "ones", lambda count, device: ones(count))
    with pytest.raises(RuntimeError, match="illegal") as caught, losses_told(CARD):
        raise RuntimeError("CUDA error: an illegal memory access")
    assert caught.type is told
