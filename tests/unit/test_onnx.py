"""An exported checkpoint scores in int8 as torch does in float32 but for rounding, and `backend` chooses what runs."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from structlog.testing import capture_logs

from sidecar.cost import CostModel
from sidecar.loaded import LoadedModel
from sidecar.scoring import checkpoint, export, float32_graph, graph, loader
from sidecar.scoring.base import Pair
from sidecar.scoring.checkpoint import CheckpointError
from sidecar.scoring.cross_encoder import CrossEncoder
from sidecar.scoring.fake import WordOverlapScorer
from sidecar.scoring.onnx import CALLS, OnnxCrossEncoder
from sidecar.scoring.padding import padded
from sidecar.settings import ModelSettings
from tests.checkpoints import FAMILIES, WORDS, build, edit, rank_correlation, settings

CPU = torch.device("cpu")
QUERY = "how to fix an apple phone"
PASSAGES = [" ".join((WORDS * 9)[start : start + start % 29 + 60 * (start % 7 == 3)]) for start in range(40)]


def exported(folder: Path, family: str = "bert", **changes: Any) -> Path:
    """A tiny checkpoint of ``family`` with its int8 graph."""
    label = 1 if changes.get("labels") == 2 else None
    build(folder / "plain", family, **changes)
    with export.finished(folder / "exported") as made:
        export.write(settings(folder / "plain", label=label, threads=1), made)
    return folder / "exported"


def loaded(folder: Path, backend: str = "onnx", **changes: Any) -> Any:
    """Its scorer, not calibrated."""
    return loader.scorer_of(settings(folder, backend=backend, threads=1, **changes), CPU, torch.float32)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported BERT checkpoint with one label."""
    return exported(tmp_path_factory.mktemp("bert"))


@pytest.fixture(autouse=True)
def _same_threads() -> Any:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


# --- scores -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("labels", [1, 2])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_graph_equals_torch_in_float32_and_keeps_the_order_in_int8(
    tmp_path: Path, family: str, labels: int
) -> None:
    label = None if labels == 1 else 1
    folder = exported(tmp_path, family, labels=labels)
    exact, int8 = loaded(folder, "torch", label=label), loaded(folder, label=label)
    assert isinstance(int8, OnnxCrossEncoder)
    pairs = int8.encode(QUERY, PASSAGES)
    want = exact.score(exact.encode(QUERY, PASSAGES))
    scores = int8.score(pairs)
    assert scores.dtype == np.float32
    assert scores.shape == (len(PASSAGES),)
    assert rank_correlation(want, scores) > 0.9

    model, tokenizer = checkpoint.load(settings(folder, label=label), CPU, torch.float32)
    traced = exact.encode(QUERY, PASSAGES[:3])
    for form in float32_graph.forms(model):
        float32_graph.write(form, model, padded(traced, tokenizer.pad_token_id or 0), tmp_path / "exact.onnx")
        opened = graph.open_graph(tmp_path / "exact.onnx", settings(folder, threads=1))
        float32 = OnnxCrossEncoder(opened, model, tokenizer, settings(folder, label=label))
        np.testing.assert_allclose(float32.score(pairs), want, atol=1e-3)


def test_bert_s_attention_is_one_operation_and_weights_leave_room_for_sums_in_16_bits(bert: Path) -> None:
    graph_of, layers = (
        onnx.load(bert / graph.NAME).graph,
        json.loads((bert / "config.json").read_text())["num_hidden_layers"],
    )
    kinds = [node.op_type for node in graph_of.node]
    assert kinds.count("QAttention") == layers - 1
    assert kinds.count("MultiHeadAttention") == 1  # of the last layer, for first tokens alone
    assert "Softmax" not in kinds
    weights = [
        onnx.numpy_helper.to_array(one) for one in graph_of.initializer if one.data_type == onnx.TensorProto.INT8
    ]
    assert 60 < max(int(np.abs(one.astype(int)).max()) for one in weights) <= 64  # 2 * 64 * 255 < 2**15


def test_a_form_that_does_not_work_out_gives_way_to_the_model_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Wrong(float32_graph.Lean):
        def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
            return super().forward(*inputs) + 0.01

    def unable(*_: Any) -> Any:
        raise AttributeError("no such layer")

    monkeypatch.setattr(float32_graph, "forms", lambda _model: [unable, Wrong, float32_graph.Plain])
    with capture_logs() as logs:
        folder = exported(tmp_path)
    kinds = {node.op_type for node in onnx.load(folder / graph.NAME).graph.node}
    assert "Softmax" in kinds
    assert "QAttention" not in kinds
    one, other = [entry["reason"] for entry in logs if entry["event"] == "traced_as_transformers_has_it"]
    assert one == "AttributeError: no such layer"
    assert other.startswith("its graph's scores are off by up to 0.01")


def test_each_pair_keeps_its_place_and_a_score_hardly_depends_on_its_neighbours(bert: Path) -> None:
    model = loaded(bert)
    pairs = model.encode(QUERY, PASSAGES)
    together = model.score(pairs)
    np.testing.assert_array_equal(model.score(pairs[::-1])[::-1][:1], together[:1])
    alone = np.array([model.score([pair])[0] for pair in pairs])
    assert rank_correlation(alone, together) > 0.95  # activations share one scale in a call


def test_both_backends_have_the_same_tokens_and_truncation(bert: Path) -> None:
    texts = ["apple", "", " ".join(WORDS * 100)]
    torchs, onnxs = (loaded(bert, backend, max_length=64).encode(QUERY, texts) for backend in ("torch", "onnx"))
    assert [list(pair.input_ids) for pair in onnxs] == [list(pair.input_ids) for pair in torchs]
    assert onnxs[2].tokens == 64


def test_pairs_of_similar_length_share_a_call_and_a_call_is_small(bert: Path) -> None:
    model = loaded(bert)
    shapes: list[tuple[int, int]] = []

    class Session:
        def run(self, _names: None, arrays: dict[str, Any]) -> list[Any]:
            shapes.append(arrays["input_ids"].shape)
            return [arrays["attention_mask"].sum(1, keepdims=True).astype(np.float32)]

    model._session = Session()
    lengths = [3, 500, 40, 41, 42, 7, 300, 40] * 20
    scores = model.score([Pair([1] * length, [0] * length) for length in lengths])
    assert scores.tolist() == lengths
    places = sum(pairs * length for pairs, length in shapes)
    assert places < 1.05 * sum(lengths)
    assert max(pairs * length for pairs, length in shapes) <= CALLS.max_batch_tokens
    assert len(shapes) < len(lengths) / 2


def test_a_batch_costs_its_own_tokens_so_the_scheduler_may_mix_lengths(bert: Path) -> None:
    model = loaded(bert)
    assert LoadedModel.of("m", model, CostModel(), settings(bert)).limits.packed


def test_no_memory_is_told_as_such_and_any_other_error_as_it_is(bert: Path) -> None:
    model = loaded(bert)
    for said, kind in (("std::bad_alloc", MemoryError), ("Failed to allocate memory", MemoryError), ("odd", OSError)):

        class Session:
            def run(self, *_: Any) -> Any:
                raise OSError(said)  # noqa: B023

        model._session = Session()
        with pytest.raises(kind):
            model.score([Pair([1, 2], [0, 0])])


def test_a_loaded_model_is_calibrated_and_warm(bert: Path) -> None:
    made = loader.load("m", settings(bert, backend="onnx", max_length=64, max_batch_tokens=512, threads=1))
    assert isinstance(made.scorer, OnnxCrossEncoder)
    assert made.cost.predict_s(4, 64) > 0


# --- version ----------------------------------------------------------------------------------------------------------


def test_the_version_tells_the_backends_the_graphs_and_the_truncations_apart(bert: Path, tmp_path: Path) -> None:
    other = exported(tmp_path, seed=1)
    versions = [
        loaded(bert).version,
        loaded(bert, "torch").version,
        loaded(bert, max_length=64).version,
        loaded(other).version,
    ]
    assert len(set(versions)) == 4
    assert versions[0] == loaded(bert).version
    assert versions[0].endswith("-int8")


# --- the choice -------------------------------------------------------------------------------------------------------


class Slow(WordOverlapScorer):
    """A scorer that a fake clock may time."""

    halved, packed, number_type = 0, True, "float32"

    def prepare(self, tokens: int) -> None:
        """Nothing."""


@pytest.mark.parametrize(("torch_s", "onnx_s", "best"), [(0.2, 0.1, "onnx"), (0.1, 0.2, "torch"), (0.1, 0.1, "torch")])
def test_the_faster_one_serves_and_the_log_tells_both_times(torch_s: float, onnx_s: float, best: str) -> None:
    scorers = {"torch": Slow(version="a"), "onnx": Slow(version="b")}
    seconds = {id(scorers["torch"]): torch_s, id(scorers["onnx"]): onnx_s}
    shapes: list[tuple[int, int]] = []

    def measure(scorer: loader.Backend, pairs: int, length: int) -> float:
        shapes.append((pairs, length))
        return seconds[id(scorer)]

    with capture_logs() as logs:
        chosen = loader.faster(scorers, "the-checkpoint", measure)
    assert chosen is scorers[best]
    assert shapes == [(32, 32), (8, 128), (2, 512)] * 2
    assert logs == [
        {
            "event": "backend_chosen",
            "log_level": "info",
            "checkpoint": "the-checkpoint",
            "backend": best,
            "version": scorers[best].version,
            "torch_ms": 3e3 * torch_s,
            "onnx_ms": 3e3 * onnx_s,
        }
    ]


def test_auto_measures_where_there_is_a_graph_and_takes_torch_where_there_is_none(bert: Path) -> None:
    with capture_logs() as logs:
        chosen = loaded(bert, "auto", max_length=64)
    (entry,) = logs
    assert entry["event"] == "backend_chosen"
    assert entry["version"] == chosen.version
    assert isinstance(chosen, OnnxCrossEncoder if entry["backend"] == "onnx" else CrossEncoder)
    with capture_logs() as logs:
        assert isinstance(loaded(bert.parent / "plain", "auto"), CrossEncoder)
    assert logs == []


@pytest.mark.parametrize("backend", ["auto", "torch"])
def test_a_graph_is_not_even_read_on_a_gpu_or_where_torch_is_asked_for(bert: Path, backend: str) -> None:
    assert graph.of(settings(bert, backend="torch"), CPU) is None
    assert graph.of(settings(bert, backend=backend), torch.device("cuda")) is None


# --- what is wrong ----------------------------------------------------------------------------------------------------


def foreign(folder: Path) -> None:
    """A graph that somebody else made."""
    model = onnx.load(folder / graph.NAME)
    del model.metadata_props[:]
    onnx.save(model, folder / graph.NAME)


def other_weights(folder: Path) -> None:
    """Weights that were trained on after the export."""
    build(folder, seed=5)


def missing(folder: Path) -> None:
    """No graph."""
    (folder / graph.NAME).unlink()


def damaged(folder: Path) -> None:
    """Half a graph."""
    content = (folder / graph.NAME).read_bytes()
    (folder / graph.NAME).write_bytes(content[: len(content) // 2])


def empty(folder: Path) -> None:
    """A graph of no bytes."""
    (folder / graph.NAME).write_bytes(b"")


FAULTS: list[tuple[Callable[[Path], Any], str]] = [
    (missing, r"has no int8 graph \(model_int8.onnx\), as `backend: onnx` needs: run `rerank-sidecar export \S+ NEW"),
    (damaged, r"model_int8.onnx is no graph that ONNX Runtime takes: "),
    (empty, r"model_int8.onnx is no graph that ONNX Runtime takes: "),
    (foreign, r"model_int8.onnx was not written by `rerank-sidecar export`: run `rerank-sidecar export "),
    (
        other_weights,
        r"was made of other weights or another config.json than lie beside it: run `rerank-sidecar export ",
    ),
    (lambda folder: edit(folder, layer_norm_eps=0.1), r"was made of other weights or another config.json"),
]


@pytest.mark.parametrize(("spoil", "message"), FAULTS)
def test_a_graph_that_does_not_fit_is_refused_by_onnx_and_left_alone_by_auto(
    bert: Path, tmp_path: Path, spoil: Callable[[Path], Any], message: str
) -> None:
    folder = shutil.copytree(bert, tmp_path / "spoilt")
    spoil(folder)
    with pytest.raises(CheckpointError, match=message):
        loaded(folder)
    with capture_logs() as logs:
        assert isinstance(loaded(folder, "auto"), CrossEncoder)
    assert [entry["event"] for entry in logs] == ([] if spoil is missing else ["int8_graph_not_used"])
    assert isinstance(loaded(folder, "torch"), CrossEncoder)


def test_the_bundled_model_has_no_graph_until_it_is_exported() -> None:
    with pytest.raises(CheckpointError, match=r"checkpoint 'bundled' has no int8 graph .*export bundled NEW_FOLDER`"):
        loader.load("m", ModelSettings(device="cpu", backend="onnx"))


def test_onnx_on_a_gpu_is_refused(bert: Path) -> None:
    with pytest.raises(CheckpointError, match="runs on a CPU only, and the device is cuda:1; set `device: cpu`"):
        graph.of(settings(bert, backend="onnx"), torch.device("cuda:1"))


def test_without_onnx_runtime_auto_runs_torch_and_onnx_says_what_to_install(
    bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # an import of it fails now
    with pytest.raises(CheckpointError, match=r"not installed: pip install 'rerank-sidecar\[onnx\]'"):
        loaded(bert)
    with capture_logs() as logs:
        assert isinstance(loaded(bert, "auto"), CrossEncoder)
    assert logs[0]["reason"] == graph.NOT_INSTALLED


def test_errors_of_the_runtime_are_in_the_exception_and_not_on_stderr(
    bert: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model = loaded(bert)
    with pytest.raises(Exception, match="indices element out of data bounds"):
        model.score([Pair([10**6] * 4, [0] * 4)])
    assert capfd.readouterr() == ("", "")
