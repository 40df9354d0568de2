"""`rerank-sidecar export`: what it writes, what it prints, and what it refuses."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, FNetConfig, LongformerConfig
from typer.testing import CliRunner, Result

from sidecar.cli import app
from sidecar.scoring import checkpoint, export, graph, loader
from sidecar.scoring.fake import WordOverlapScorer
from sidecar.scoring.float32_graph import NoGraph
from sidecar.scoring.onnx import OnnxCrossEncoder
from sidecar.settings import ModelSettings
from tests.checkpoints import build, save_tokenizer, settings

runner = CliRunner()


def run(*arguments: object) -> Result:
    """The command, in a wide terminal."""
    return runner.invoke(app, ["export", *map(str, arguments)], env={"COLUMNS": "160"})


@pytest.fixture(scope="module")
def bundled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """The bundled model exported, and what the command said."""
    folder = tmp_path_factory.mktemp("bundled") / "deep" / "int8"
    return folder, run("bundled", folder)


def test_the_bundled_model_loses_little_and_what_it_loses_is_printed_and_kept(bundled: tuple[Path, Result]) -> None:
    folder, result = bundled
    assert result.exit_code == 0, result.output
    figures = json.loads((folder / "model_int8.json").read_text())
    exact, int8 = figures["torch float32"], figures["ONNX Runtime int8"]
    assert (exact["largest_difference"], exact["rank_correlation"], exact["top_10_kept"]) == (0, pytest.approx(1), 1)
    assert int8["largest_difference"] < 1.5
    assert int8["mean_difference"] < 0.15
    assert int8["rank_correlation"] > 0.98
    assert int8["top_10_kept"] > 0.94
    assert int8["ndcg_at_10"] > exact["ndcg_at_10"] - 0.01
    assert all(one["seconds_per_100_pairs"] > 0 for one in figures.values())
    for name, one in figures.items():
        (row,) = [line for line in result.stdout.splitlines() if name in line]
        assert f"{one['largest_difference']:.3f}" in row
        assert f"{one['ndcg_at_10']:.3f}" in row
    assert "weights 45 MB, int8 graph 59 MB" in result.stdout
    assert result.stdout.endswith(f"next: set `checkpoint: {folder}` under `models`\n")


def test_the_folder_is_a_checkpoint_by_itself_with_its_notices(bundled: tuple[Path, Result]) -> None:
    folder, _ = bundled
    source = Path(checkpoint.location("bundled"))
    names = {file.name for file in source.iterdir()} - {checkpoint.ENCODER}  # of the bi-encoder, which is no part of it
    assert {file.name for file in folder.iterdir()} == names | {"model_int8.onnx", "model_int8.json"}
    there = ModelSettings(checkpoint=str(folder), device="cpu", backend="onnx")
    assert there.languages == ModelSettings().languages == ("en",)
    assert isinstance(loader.scorer_of(there, torch.device("cpu"), torch.float32), OnnxCrossEncoder)


def test_help_says_what_it_needs() -> None:
    result = run("--help")
    assert result.exit_code == 0
    for word in ("checkpoint", "folder", "--revision", "--label", "--max-length", "rerank-sidecar[onnx]"):
        assert word in result.stdout


# --- what is refused --------------------------------------------------------------------------------------------------


def refused(*arguments: object) -> str:
    """What a command that is refused says."""
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    return result.stderr.strip().splitlines()[-1]


def test_a_folder_that_is_not_empty_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    assert refused("bundled", tmp_path) == f"{tmp_path} exists and is not empty; name a new folder"
    assert refused("bundled", tmp_path / "mine.txt").endswith("exists and is not empty; name a new folder")
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    with export.finished(tmp_path) as made:
        (made / "a").touch()
    assert [file.name for file in tmp_path.iterdir()] == ["a"]


def test_what_fails_on_the_way_leaves_nothing(tmp_path: Path) -> None:
    writing = export.finished(tmp_path / "new")
    (writing.__enter__() / "half").touch()
    assert not writing.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert refused("bundled", tmp_path / "file" / "new").startswith(f"{tmp_path / 'file' / 'new'} cannot be written: ")


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_a_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    assert refused("bundled", tmp_path / "new") == graph.NOT_INSTALLED
    assert list(tmp_path.iterdir()) == []


def test_what_the_loader_refuses_is_refused_in_its_words(tmp_path: Path) -> None:
    two = build(tmp_path / "two", labels=2)
    assert "has two labels: set `label`" in refused(two, tmp_path / "new")
    assert "has one label: remove `label`" in refused("bundled", tmp_path / "new", "--label", 1)
    assert "no such" in refused("no such", tmp_path / "new") or "neither" in refused("no such", tmp_path / "new")
    assert "takes at most 512" in refused("bundled", tmp_path / "new", "--max-length", 600)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--label", "2"], "'--label': Input should be less than or equal to 1"),
        (["--max-length", "3"], "'--max-length': Input should be greater than or equal to 16"),
    ],
)
def test_options_out_of_range_are_usage_errors(tmp_path: Path, options: list[str], message: str) -> None:
    result = run("bundled", tmp_path / "new", *options)
    assert result.exit_code == 2
    assert message in result.stderr


@pytest.mark.parametrize(
    ("config", "changes", "message"),
    [
        (FNetConfig, {}, "'fnet' cannot be exported: UnsupportedOperatorError: .*fft_fftn"),
        (LongformerConfig, {"attention_window": 16}, "'longformer' cannot be exported: its graph does not run: "),
    ],
)
def test_an_architecture_without_a_graph_is_refused_in_a_sentence(
    tmp_path: Path, config: Any, changes: dict[str, Any], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    made = config(**shape, vocab_size=200, num_labels=1, max_position_embeddings=512, **changes)
    kind: Any = AutoModelForSequenceClassification
    kind.from_config(made).save_pretrained(tmp_path / "model")
    save_tokenizer(tmp_path / "model", "bert")
    with pytest.raises(checkpoint.CheckpointError, match=message), export.finished(tmp_path / "new") as folder:
        export.write(settings(tmp_path / "model", max_length=64), folder)
    assert not (tmp_path / "new").exists()
    assert capfd.readouterr().out == ""


def test_a_graph_that_scores_otherwise_is_refused(tmp_path: Path) -> None:
    one, other = (
        loader.scorer_of(
            settings(build(tmp_path / str(seed), seed=seed), threads=1), torch.device("cpu"), torch.float32
        )
        for seed in (0, 1)
    )
    export._check_equal(one, one)
    with pytest.raises(NoGraph, match="its graph's scores are off by"):
        export._check_equal(one, other)


def test_a_graph_whose_scores_are_no_numbers_is_refused() -> None:
    scorer = WordOverlapScorer()
    export._check_finite(scorer)
    scorer.score = lambda pairs: np.full(len(pairs), np.nan, np.float32)  # type: ignore[method-assign]
    with pytest.raises(NoGraph, match="not finite"):
        export._check_finite(scorer)


def test_a_downloaded_checkpoint_is_copied_from_its_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, commit = tmp_path / "cache", "0" * 40
    there = cache / "models--some--model"
    (there / "refs").mkdir(parents=True)
    (there / "refs" / "main").write_text(commit)
    build(there / "snapshots" / commit)
    (there / "snapshots" / commit / "model.onnx").touch()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    assert export._files_of(settings("some/model")) == there / "snapshots" / commit
    (tmp_path / "new").mkdir()
    export._copy(there / "snapshots" / commit, tmp_path / "new")
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {
        file.name for file in (tmp_path / "new").iterdir()
    }
    assert not (tmp_path / "new" / "model.onnx").exists()
    with pytest.raises(checkpoint.CheckpointError, match="export a local folder of it"):
        export._files_of(settings("other/model"))
