"""Fine-tunes a cross-encoder on lists with sentence-transformers' trainer, which runs the loop and the checkpoints."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from sidecar.model_files import location, say_languages
from sidecar.scoring import hardware
from sidecar.training.losses import OBJECTIVES, ListLoss

_KEPT = 2
"""Most checkpoints on disk at once."""
_SETTINGS = "run.json"


class RunError(Exception):
    """A run cannot be started or resumed; the message says what to change."""


@dataclass(frozen=True)
class Run:
    """One training run.

    ``base`` is ``bundled``, a folder or a hub id of an encoder or a cross-encoder; ``lists`` the lists of a step;
    ``rate`` the highest learning rate; ``max_length`` the most tokens of a pair; ``every`` the steps from checkpoint to
    checkpoint.
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


def digest_of(rows: Sequence[dict[str, Any]]) -> str:
    """12 hex digits of SHA-256 over the lists, in their order."""
    return hashlib.sha256(json.dumps(list(rows), sort_keys=True).encode()).hexdigest()[:12]


def work_of(out: Path) -> Path:
    """The folder beside ``out`` that holds the run's settings and its checkpoints under way."""
    return out.with_name(out.name + ".work")


def may_write(out: Path) -> bool:
    """Whether ``out`` is not there, is an empty folder, or is of a run that :func:`begin` wrote down."""
    return not out.exists() or (out.is_dir() and not any(out.iterdir())) or (work_of(out) / _SETTINGS).exists()


def begun(work: Path, run: Run, digest: str) -> bool:
    """Whether ``work`` holds the same run on the same lists, begun earlier.

    Raises:
        RunError: it holds another run.
    """
    file = work / _SETTINGS
    if not file.exists():
        return False
    before = json.loads(file.read_text())
    if differing := _differences(before, _identity(run, digest)):
        raise RunError(f"{work} holds another run ({', '.join(differing)} differ): remove it, or choose another folder")
    return True


def begin(work: Path, run: Run, digest: str) -> None:
    """Record in ``work`` which run it is for."""
    work.mkdir(parents=True, exist_ok=True)
    (work / _SETTINGS).write_text(json.dumps(_identity(run, digest), indent=2))


def _identity(run: Run, digest: str) -> dict[str, Any]:
    identity: dict[str, Any] = json.loads(json.dumps({**asdict(run), "lists_digest": digest}))
    return identity


def _differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    return [key for key in sorted({*one, *other}) if one.get(key) != other.get(key)]


def finetune(
    rows: Sequence[dict[str, Any]], run: Run, work: Path, out: Path, languages: Sequence[str] | None = None
) -> dict[str, Any]:
    """Train on ``rows`` and write the checkpoint to ``out``; resumes from the last checkpoint in ``work``, if any.

    ``languages`` are those that the model is for; None: any. Returns facts of the run: ``steps`` and, unless it was
    resumed, ``seconds``.
    """
    from datasets import Dataset
    from sentence_transformers.cross_encoder import CrossEncoder, CrossEncoderTrainer
    from transformers.trainer_utils import get_last_checkpoint

    torch.manual_seed(run.seed)
    hardware.keep_from_cudnn_attention()
    base = location(run.base)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = CrossEncoder(base, num_labels=1, max_length=run.max_length, device=run.device)
        _without_dropout(model)
        arguments = arguments_of(run, work)
        last = get_last_checkpoint(str(work))
        loss = ListLoss(model, OBJECTIVES[run.objective])
        trainer = CrossEncoderTrainer(
            model=model, args=arguments, train_dataset=Dataset.from_list(list(rows)), loss=loss
        )
        told = trainer.train(resume_from_checkpoint=last)
        model.save_pretrained(str(out), create_model_card=False)
        say_languages(out, languages)
    whole = {} if last else {"seconds": round(told.metrics["train_runtime"], 1)}
    return {"steps": told.global_step, **whole}


def arguments_of(run: Run, work: Path) -> Any:
    """The trainer's arguments for a run: only the run's own device, with all the lists of a step on it."""
    from sentence_transformers.cross_encoder import CrossEncoderTrainingArguments

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
    if run.device.startswith("cuda"):
        _use_only(arguments, torch.device("cuda", torch.device(run.device).index or 0))
    return arguments


def _use_only(arguments: Any, device: torch.device) -> None:
    """Have the trainer use this GPU alone.

    By itself it takes the first GPU, and all of them for each step, each with as many lists as a step should have. No
    option changes that: it goes by `_n_gpu` and the cached value of `device`, and accelerate by the current device.
    """
    torch.cuda.set_device(device)
    arguments._n_gpu = 1
    arguments.__dict__["_setup_devices"] = device


def _without_dropout(model: torch.nn.Module) -> None:
    """Set all dropout to 0: with it attention is many times slower on a CPU, and one or two epochs do not overfit."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0


def _multiplies_bfloat16(device: str) -> bool:
    on_cuda = device.startswith("cuda")
    return hardware.multiplies_bfloat16(torch.device(device)) if on_cuda else hardware.gains_by_bfloat16()
