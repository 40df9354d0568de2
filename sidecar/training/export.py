"""Calibrating the score and writing the finished checkpoint."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sidecar.training.groups import sample_group
from sidecar.training.objectives import pointwise_bce
from sidecar.training.pools import PooledSet
from sidecar.training.student import Student

LANGUAGES = ["en"]
"""Languages of the texts that the bundled weights learn from."""
_QUERIES_PER_SET = 10
_ACTIVATION = "torch.nn.modules.linear.Identity"
_TOKENIZER_LEFTOVERS = (
    "is_local",
    "local_files_only",
    "max_length",
    "pad_to_multiple_of",
    "pad_token_type_id",
    "stride",
    "truncation_strategy",
)


@torch.no_grad()
def calibrate(student: Student, held_out: list[PooledSet], seed: int) -> tuple[float, float]:
    """Fit sigmoid(slope * logit + offset) to held-out judgments and fold both into the head; returns (slope, offset).

    Ten queries a set, one positive and six mined negatives each, both classes weighted alike (Platt, 1999): above 0
    means "more likely relevant than a hard negative".
    """
    rng = random.Random(seed)
    groups = [sample_group(pooled, pool, 7, 96, rng) for pooled in held_out for pool in pooled.pools[:_QUERIES_PER_SET]]
    pairs = [(group.query, passage) for group in groups for passage in group.passages]
    labels = torch.tensor([label for group in groups for label in group.labels])
    slope, offset = fit_platt(student.scores(pairs, 160).cpu(), labels)
    head = student.model.classifier
    head.weight.mul_(slope)
    head.bias.mul_(slope).add_(offset)
    return slope, offset


@torch.enable_grad()
def fit_platt(logits: Tensor, labels: Tensor) -> tuple[float, float]:
    """The (slope, offset) of least class-balanced cross-entropy for float32 `logits` and `labels`, both (N,)."""
    slope, offset = torch.ones((), requires_grad=True), torch.zeros((), requires_grad=True)
    solver = torch.optim.LBFGS([slope, offset], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        solver.zero_grad()
        loss = pointwise_bce(slope * logits + offset, labels)
        loss.backward()
        return loss

    solver.step(closure)
    return slope.item(), offset.item()


def export(student: Student, out: Path) -> None:
    """Write config, float16 safetensors and tokenizer to `out`; loads in transformers and sentence-transformers.

    The base tokenizer cuts and pads to 128 tokens by itself; that is taken out, so that whoever loads it decides.
    """
    out.mkdir(parents=True, exist_ok=True)
    student.model.half().save_pretrained(out)
    student.tokenizer.save_pretrained(out)
    weights = out / "model.safetensors"
    weights.chmod(0o644)
    revision = hashlib.sha256(weights.read_bytes()).hexdigest()[:12]
    # Stored in float16, computed in float32 unless the loader asks for something else: float16 is slow on CPU.
    added = {
        "dtype": "float32",
        "sentence_transformers": {"activation_fn": _ACTIVATION},
        "sidecar": {"revision": revision, "languages": LANGUAGES},
    }
    _rewrite(out / "config.json", added, ())
    _rewrite(out / "tokenizer.json", {"truncation": None, "padding": None}, ())
    _rewrite(out / "tokenizer_config.json", {}, _TOKENIZER_LEFTOVERS)


def _rewrite(file: Path, added: dict[str, Any], removed: tuple[str, ...]) -> None:
    content = {key: value for key, value in json.loads(file.read_text(encoding="utf-8")).items() if key not in removed}
    file.write_text(json.dumps(content | added, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
