"""A checkpoint whose scores would mean nothing is refused with a sentence that names it and what is allowed."""

import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sidecar.scoring import checkpoint
from sidecar.scoring.checkpoint import CheckpointError
from tests.checkpoints import FAMILIES, WORDS, build, edit, scorer, settings


def refused(folder: Path | str, **changes: Any) -> str:
    """The one sentence that a checkpoint is refused with."""
    with pytest.raises(CheckpointError) as caught:
        scorer(Path(folder), **changes)
    message = str(caught.value)
    assert repr(str(folder)) in message
    assert "\n" not in message
    return message


# --- heads ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_a_bare_encoder_is_refused_and_never_scored_with_a_random_head(tmp_path: Path, family: str) -> None:
    message = refused(build(tmp_path, family, head=False))
    assert "holds no fitting weights for classifier" in message
    assert "random weights would score at random" in message


@pytest.mark.parametrize("family", FAMILIES)
def test_a_head_of_another_shape_than_the_config_says_is_refused(tmp_path: Path, family: str) -> None:
    build(tmp_path, family, labels=3)
    message = refused(edit(tmp_path, id2label={"0": "relevant"}, label2id={"relevant": 0}))
    assert "holds no fitting weights for classifier" in message


def test_an_encoder_of_another_shape_than_the_config_says_is_refused(tmp_path: Path) -> None:
    build(tmp_path)
    assert "holds no fitting weights for bert.encoder" in refused(edit(tmp_path, intermediate_size=48))


def test_three_labels_are_refused_and_one_or_two_are_named_as_allowed(tmp_path: Path) -> None:
    assert refused(build(tmp_path, labels=3)).endswith("has 3 labels; a cross-encoder has one, or two")


def test_two_labels_need_a_choice(tmp_path: Path) -> None:
    assert "set `label` to the one that means relevant, 0 or 1" in refused(build(tmp_path, labels=2))


def test_one_label_leaves_no_choice(tmp_path: Path) -> None:
    assert refused(build(tmp_path), label=1).endswith("has one label: remove `label`")


# --- files ------------------------------------------------------------------------------------------------------------


def halved(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda folder: (folder / "config.json").unlink(), "config.json"),
        (lambda folder: (folder / "config.json").write_text("{"), "not a valid JSON file"),
        (lambda folder: (folder / "config.json").write_text("[]"), "config.json"),
        (halved, "a file is damaged or of an unknown kind (SafetensorError"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"junk" * 9), "a file is damaged"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b""), "a file is damaged"),
        (lambda folder: (folder / "model.safetensors").unlink(), "no file named model.safetensors"),
        (
            lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"),
            "a file is damaged or of an unknown kind (",
        ),
        (lambda folder: (folder / "tokenizer.json").write_text("{"), "cannot be loaded"),
        (
            lambda folder: (folder / "tokenizer.json").unlink(),
            "has no tokenizer: its files (tokenizer.json) are missing",
        ),
        (lambda folder: edit(folder, model_type="nosuch"), "has model type `nosuch`"),
        (lambda folder: edit(folder, model_type="vit"), "Unrecognized configuration class"),
    ],
    ids=[
        "no config",
        "half a config",
        "config is a list",
        "half the weights",
        "weights are junk",
        "weights are empty",
        "no weights",
        "weights of another format",
        "half a tokenizer",
        "no tokenizer",
        "unknown architecture",
        "not a text model",
    ],
)
def test_missing_and_damaged_files_are_refused_with_the_reason(
    tmp_path: Path, damage: Callable[[Path], object], reason: str
) -> None:
    damage(build(tmp_path))
    assert reason in refused(tmp_path)


def test_no_tokenizer_files_at_all_is_refused_not_replaced_by_an_empty_vocabulary(tmp_path: Path) -> None:
    build(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "tokenizer_config.json").unlink()
    assert "has no tokenizer" in refused(tmp_path)


def test_a_tokenizer_larger_than_the_models_vocabulary_is_refused(tmp_path: Path) -> None:
    assert "but a model of 20: they do not match" in refused(build(tmp_path, vocab_size=20))


def test_a_tokenizer_that_is_not_a_fast_one_is_refused(tmp_path: Path) -> None:
    build(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    edit(tmp_path, "tokenizer_config.json", tokenizer_class="CanineTokenizer")
    assert "has no fast tokenizer (tokenizer.json)" in refused(tmp_path)


@pytest.mark.parametrize("name", ["/no/such/folder", "a/b/c", "../nowhere"])
def test_a_folder_that_is_not_there_is_refused_at_once(name: str) -> None:
    with pytest.raises(CheckpointError, match=f"'{re.escape(name)}' is neither a folder on this machine nor a hub id"):
        checkpoint.load(settings(name), torch.device("cpu"), torch.float32)


def test_a_model_in_pytorch_model_bin_is_loaded_as_well(tmp_path: Path) -> None:
    want = scorer(build(tmp_path)).version
    model, _ = checkpoint.load(settings(tmp_path), torch.device("cpu"), torch.float32)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    assert scorer(tmp_path).version == want


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        ("tokenizer_config.json", {"truncation_side": "left"}),
        ("config.json", {"layer_norm_eps": 0.5}),
        ("config.json", {"hidden_act": "relu"}),
        ("config.json", {"num_attention_heads": 1}),
    ],
)
def test_what_changes_scores_changes_the_version(tmp_path: Path, file: str, changes: dict[str, Any]) -> None:
    before = scorer(build(tmp_path)).version
    assert scorer(edit(tmp_path, file, **changes)).version != before


# --- the hub ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:9", "http://no-such-host.invalid"])
def test_a_hub_id_without_a_hub_is_refused_in_seconds_not_after_a_minute_of_retries(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, endpoint: str
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", endpoint)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    started = time.perf_counter()
    with pytest.raises(CheckpointError, match="not among the downloaded models, and the hub cannot be reached"):
        checkpoint.load(settings("no/such-model"), torch.device("cpu"), torch.float32)
    assert time.perf_counter() - started < 8


# --- code -------------------------------------------------------------------------------------------------------------

REMOTE = {"AutoConfig": "evil.Config", "AutoModelForSequenceClassification": "evil.Model"}


def with_code(folder: Path, **changes: Any) -> Path:
    """A checkpoint that brings a module, which leaves a mark when it is run."""
    build(folder)
    (folder / "evil.py").write_text(f"open({str(folder / 'ran')!r}, 'w')\nraise SystemExit('ran')\n")
    return edit(folder, auto_map=REMOTE, **changes)


def test_a_checkpoint_that_needs_its_own_code_is_refused_without_running_or_asking(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", None)  # any question on the terminal would raise
    with_code(tmp_path, model_type="evil")
    assert "it needs code of its own, which is never run" in refused(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_a_checkpoint_that_brings_code_it_does_not_need_is_loaded_without_it(tmp_path: Path) -> None:
    model = scorer(with_code(tmp_path))
    assert type(model._model).__module__.startswith("transformers.")
    assert not (tmp_path / "ran").exists()


def test_the_code_of_a_tokenizer_is_not_run(tmp_path: Path) -> None:
    with_code(tmp_path)
    edit(tmp_path, "tokenizer_config.json", tokenizer_class="Evil", auto_map={"AutoTokenizer": ["evil.T", "evil.T"]})
    scorer(tmp_path)
    assert not (tmp_path / "ran").exists()


# --- length -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "changes", "tokenizer_limit", "most"),
    [
        ("bert", {}, 10**30, 512),
        ("bert", {}, 300, 300),
        ("electra", {"max_position_embeddings": 100}, 512, 100),
        ("roberta", {}, 10**30, 512),
        ("xlm-roberta", {}, 10**30, 512),
        ("roberta", {"max_position_embeddings": 100}, 512, 98),
        ("deberta-v2", {"max_position_embeddings": 100}, 1024, 1024),
        ("deberta-v2", {"position_biased_input": True, "type_vocab_size": 2}, 1024, 512),
        ("modernbert", {}, 10**30, 2048),
    ],
)
def test_the_longest_pair_is_what_tokenizer_and_positions_allow_and_no_more(
    tmp_path: Path, family: str, changes: dict[str, Any], tokenizer_limit: int, most: int
) -> None:
    build(tmp_path, family, **changes)
    edit(tmp_path, "tokenizer_config.json", model_max_length=tokenizer_limit)
    assert scorer(tmp_path).max_length == min(most, 512)
    model = scorer(tmp_path, max_length=most)
    (pair,) = model.encode("apple", [" ".join(WORDS * 100)])
    assert pair.tokens == most
    assert torch.isfinite(torch.from_numpy(model.score([pair]))).all()
    message = refused(tmp_path, max_length=most + 1)
    assert message == f"`max_length` is {most + 1}, but checkpoint {str(tmp_path)!r} takes at most {most}"
