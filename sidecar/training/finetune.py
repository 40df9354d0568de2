"""Fine-tunes a cross-encoder on lists, with sentence-transformers' trainer: loop, checkpoints, device and number type
are its own."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from sidecar.scoring import hardware
from sidecar.scoring.checkpoint import location
from sidecar.training.losses import OBJECTIVES, ListLoss

_KEPT = 2
"""Checkpoints on disk at once."""
_SETTINGS = "run.json"


class RunError(Exception):
    """A run cannot be started or gone on with; the message says what to change."""


@dataclass(frozen=True)
class Run:
    """One training run. ``lists`` of a step, ``rate`` the highest learning rate, ``every`` so many steps a checkpoint.

    ``base`` is ``bundled``, a folder or a hub id of an encoder or a cross-encoder.
    """

    base: str
    objective: str
    epochs: float
    lists: int
    rate: float
    max_length: int
    seed: int
    every: int
    device: str


def remembered(work: Path, run: Run, content: dict[str, Any]) -> bool:
    """Whether ``work`` holds a part of the same run on the same data; an empty or new folder is taken for it.

    Raises:
        RunError: it is that of another run.
    """
    file = work / _SETTINGS
    said = json.loads(json.dumps({"run": asdict(run), **content}))
    if not file.exists():
        work.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(said, indent=2))
        return False
    before = json.loads(file.read_text())
    if before != said:
        flat = _differences(before, said)
        raise RunError(f"{work} holds another run ({', '.join(flat)} differ): remove it, or choose another --out")
    return True


def _differences(one: dict[str, Any], other: dict[str, Any], prefix: str = "") -> list[str]:
    found = []
    for key in sorted({*one, *other}):
        left, right = one.get(key), other.get(key)
        if isinstance(left, dict) and isinstance(right, dict):
            found += _differences(left, right, f"{prefix}{key}.")
        elif left != right:
            found.append(prefix + key)
    return found


def finetune(rows: Sequence[dict[str, Any]], run: Run, work: Path, out: Path) -> dict[str, Any]:
    """Train on ``rows`` and write the checkpoint to ``out``; goes on from the last checkpoint in ``work``, if any.

    Returns what the trainer says of the run: steps, seconds, mean loss.
    """
    from datasets import Dataset
    from sentence_transformers.cross_encoder import CrossEncoder, CrossEncoderTrainer, CrossEncoderTrainingArguments
    from transformers.trainer_utils import get_last_checkpoint

    torch.manual_seed(run.seed)
    base = location(run.base)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = CrossEncoder(base, num_labels=1, max_length=run.max_length, device=run.device)
        _without_dropout(model)
        arguments = CrossEncoderTrainingArguments(
            output_dir=str(work),
            num_train_epochs=run.epochs,
            per_device_train_batch_size=run.lists,
            learning_rate=run.rate,
            warmup_steps=0.1,
            bf16=_multiplies_bfloat16(run.device),
            use_cpu=run.device == "cpu",
            seed=run.seed,
            save_steps=run.every,
            save_total_limit=_KEPT,
            logging_steps=max(1, run.every // 5),
            report_to="none",
            dataloader_pin_memory=run.device != "cpu",
        )
        last = get_last_checkpoint(str(work))  # type: ignore[no-untyped-call]
        loss = ListLoss(model, OBJECTIVES[run.objective])
        trainer = CrossEncoderTrainer(
            model=model, args=arguments, train_dataset=Dataset.from_list(list(rows)), loss=loss
        )
        told = trainer.train(resume_from_checkpoint=last)
        model.save_pretrained(str(out), create_model_card=False)
    return {"steps": told.global_step, "mean_loss": round(told.training_loss, 4), **_seconds(told.metrics)}


def _seconds(metrics: dict[str, float]) -> dict[str, float]:
    return {"seconds": round(metrics["train_runtime"], 1)} if "train_runtime" in metrics else {}


def _without_dropout(model: torch.nn.Module) -> None:
    """Attention with dropout is many times slower on a CPU, and one or two epochs do not overfit."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0


def _multiplies_bfloat16(device: str) -> bool:
    return torch.cuda.is_bf16_supported() if device.startswith("cuda") else hardware.has_bfloat16()
