"""Fine-tuning: each objective teaches what its labels say, on the one device that it is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from sidecar.training import finetune
from sidecar.training.finetune import Run
from sidecar.training.losses import OBJECTIVES, OF_TEACHER
from tests import checkpoints

DOCS = ["a slow fire of oak", "green tea in baskets", "late apple in cellars", "car engine repair"]
TOPICS = ("apple", "car", "phones", "winter", "orchard", "engine", "cherry", "wood")


def rows(objective: str) -> list[dict[str, Any]]:
    """Lists whose first document is the right one for each query: with grades, or as a teacher scores them."""
    labels = [3.0, -1.0, 0.0, 1.0] if objective in OF_TEACHER else [1.0, 0.0, 0.0, 0.0]
    return [{"query": topic, "docs": DOCS, "labels": labels} for topic in TOPICS]


def run(objective: str = "logistic", device: str = "cpu", **changes: Any) -> Run:
    small = {"base": "", "epochs": 5, "lists": 2, "rate": 2e-3, "max_length": 32, "seed": 0, "every": 1000}
    return Run(objective=objective, device=device, **{**small, **changes})


def scores(checkpoint: Path) -> torch.Tensor:
    """Of each query's documents, (queries, documents)."""
    scorer = checkpoints.scorer(checkpoint)
    return torch.stack([torch.from_numpy(scorer.score(scorer.encode(topic, DOCS))) for topic in TOPICS])


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.build(tmp_path_factory.mktemp("base") / "model")


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_each_objective_teaches_what_its_labels_say(tmp_path: Path, base: Path, objective: str) -> None:
    data = rows(objective)
    told = finetune.finetune(data, run(objective, base=str(base)), tmp_path, tmp_path / "out")
    assert told["steps"] == 20
    labels = torch.tensor([row["labels"] for row in data])
    before, after = scores(base), scores(tmp_path / "out")
    loss = OBJECTIVES[objective]
    assert loss(after, labels) < loss(before, labels) / 2
    assert (after.argmax(dim=1) == 0).all(), "the right document comes first"
    assert not (before.argmax(dim=1) == 0).all(), "which it did not by chance"


def test_a_run_stays_on_the_gpu_that_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four GPUs, as far as the trainer can see; what it would do there by itself is seen in its arguments."""
    current: list[torch.device] = []
    monkeypatch.setenv("ACCELERATE_TORCH_DEVICE", "cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_, **__: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 0))
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    for device, place in (("cuda:2", 2), ("cuda", 0)):
        arguments = finetune.arguments_of(run(device=device, lists=16), tmp_path)
        assert arguments.device == current[-1] == torch.device("cuda", place)
        assert (arguments.n_gpu, arguments.train_batch_size) == (1, 16)
        assert arguments.parallel_mode.name == "NOT_PARALLEL", "else it would split each step between all of them"


def test_a_run_on_the_cpu_has_no_gpu(tmp_path: Path) -> None:
    arguments = finetune.arguments_of(run(lists=16), tmp_path)
    assert (arguments.device, arguments.n_gpu, arguments.train_batch_size) == (torch.device("cpu"), 0, 16)
