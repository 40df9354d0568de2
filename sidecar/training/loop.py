"""The training loop: resumable and seeded by step, so that a resumed run sees the same data as one never stopped."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.progress import track
from torch import Tensor

from sidecar.training.groups import Group, sample_group
from sidecar.training.objectives import correct_teacher, listwise_kl, listwise_softmax, margin_mse, pointwise_bce
from sidecar.training.pools import Pool, PooledSet
from sidecar.training.student import MasterWeights, RunningMean, Student

_CAPS = (32, 48, 64, 96, 128, 192, 256)
_CAP_WEIGHTS = (6, 14, 20, 24, 18, 11, 7)
_WORDS_PER_TOKEN = 0.7
_MAX_TOKENS = 352


@dataclass(frozen=True)
class Schedule:
    """Length and pace of a run: the rate rises over `warmup`, stays, and falls to 0 over `decay` (shares of steps).

    In the first `distil` (share of steps) pairs are short and labels weigh only 0.1: the encoder has never seen a pair.
    Weights are averaged over the last `average` (share of steps).
    """

    steps: int
    rate: float = 1.5e-4
    groups: int = 16
    passages: int = 7
    warmup: float = 0.04
    decay: float = 0.5
    distil: float = 0.1
    average: float = 0.12
    label_weight: float = 0.5
    teacher_weight: float = 1.0
    residual: float = 0.0
    """Share of the labels' weight that goes to the sum of the student's and the teacher's scores: what the teacher
    knows already need not be learnt if both are fused in the end."""
    walked: int = 0
    """Steps of an earlier run with the same sets and seed: this one begins with the queries that come next."""
    seed: int = 0

    def rate_at(self, step: int) -> float:
        """Learning rate of `step`, counted from 0."""
        done = step / self.steps
        return self.rate * min(1.0, (done + 1 / self.steps) / self.warmup, max(0.0, (1 - done) / self.decay))


@dataclass(frozen=True)
class Objective:
    """The parts of one step's loss, each a scalar tensor."""

    labels: Tensor
    residual: Tensor
    divergence: Tensor
    margins: Tensor
    level: Tensor

    def total(self, label_weight: float, teacher_weight: float, residual: float = 0.0) -> Tensor:
        """Weighted sum; the level term (weight 0.3 of the labels') keeps logits comparable between queries."""
        distilled = teacher_weight * (self.divergence + 0.04 * self.margins)
        labels = (1 - residual) * self.labels + residual * self.residual
        return label_weight * (labels + 0.3 * self.level) + distilled


def train(
    student: Student, initial: list[Tensor], sets: list[PooledSet], schedule: Schedule, work: Path
) -> list[Tensor]:
    """Train, from the checkpoint in `work` if any; return averaged float32 weights in the order of `trainable`.

    Leaves a checkpoint and a log in `work`.
    """
    masters = MasterWeights(trainable(student), initial)
    optimiser = torch.optim.AdamW(masters.masters, lr=schedule.rate, weight_decay=0.01, betas=(0.9, 0.98))
    mean = RunningMean()
    first = _resume(work / "checkpoint.pt", masters, optimiser, mean)
    with (work / "log.jsonl").open("a") as log:
        for step in track(range(first, schedule.steps), "training"):
            for slot in optimiser.param_groups:
                slot["lr"] = schedule.rate_at(step)
            parts = _step(student, batch(sets, schedule, step), schedule, step)
            masters.collect()
            torch.nn.utils.clip_grad_norm_(masters.masters, 1.0)
            optimiser.step()
            masters.publish()
            if step >= schedule.steps * (1 - schedule.average) and step % 10 == 0:
                mean.add(masters.masters)
            if step % 20 == 0:
                log.write(json.dumps({"step": step, **parts}) + "\n")
                log.flush()
            if (step + 1) % 100 == 0:
                _save(work / "checkpoint.pt", masters, optimiser, mean, step + 1)
    return mean.values or [master.detach() for master in masters.masters]


def trainable(student: Student) -> list[torch.nn.Parameter]:
    """Freeze the word embeddings (half of the weights, and faster without), and return all other parameters."""
    student.model.bert.embeddings.word_embeddings.weight.requires_grad_(False)
    return [parameter for parameter in student.model.parameters() if parameter.requires_grad]


def batch(sets: list[PooledSet], schedule: Schedule, step: int) -> list[Group]:
    """The groups of one step, passages of about one length; a function of seed and step alone."""
    rng = random.Random(f"{schedule.seed}/{step}")
    cap = rng.choices(_CAPS, _CAP_WEIGHTS)[0]
    if step < schedule.distil * schedule.steps:
        cap = min(cap, 48)
    chosen = _walk(sets, schedule.seed, (schedule.walked + step) * schedule.groups, schedule.groups)
    words = int(cap * _WORDS_PER_TOKEN)
    return [sample_group(pooled, pool, schedule.passages, words, rng) for pooled, pool in chosen]


def _walk(sets: list[PooledSet], seed: int, start: int, count: int) -> Iterator[tuple[PooledSet, Pool]]:
    """Pools number `start` onwards of an endless walk that shuffles all pools anew each epoch."""
    everything = [(pooled, pool) for pooled in sets for pool in pooled.pools]
    for place in range(start, start + count):
        epoch, offset = divmod(place, len(everything))
        yield everything[_shuffled(len(everything), seed, epoch)[offset]]


_orders: dict[tuple[int, int, int], list[int]] = {}


def _shuffled(size: int, seed: int, epoch: int) -> list[int]:
    key = (size, seed, epoch)
    if key not in _orders:
        _orders[key] = list(range(size))
        random.Random(f"{seed}/epoch{epoch}").shuffle(_orders[key])
    return _orders[key]


def _step(student: Student, groups: list[Group], schedule: Schedule, step: int) -> dict[str, float]:
    pairs = [(group.query, passage) for group in groups for passage in group.passages]
    scores = student.scores(pairs, _MAX_TOKENS, batch=28).view(len(groups), -1)  # (G, P)
    parts = objective(scores, groups)
    early = step < schedule.distil * schedule.steps
    loss = parts.total(0.1 if early else schedule.label_weight, schedule.teacher_weight, schedule.residual)
    loss.backward()
    hit = (scores.argmax(dim=1) == 0).float().mean()
    return {"loss": loss.item(), "labels": parts.labels.item(), "kl": parts.divergence.item(), "hit": hit.item()}


def objective(scores: Tensor, groups: list[Group]) -> Objective:
    """All parts of the loss for `scores` (G, P) of `groups`; the teacher is corrected by the labels first."""
    labels = scores.new_tensor([group.labels for group in groups])
    trusted = scores.new_tensor([group.trusted for group in groups])
    known = scores.new_tensor([group.teacher for group in groups])
    teacher = correct_teacher(known, labels, margin=1.0)
    return Objective(
        listwise_softmax(scores, labels),
        listwise_softmax(scores + trusted[:, None] * known, labels),
        listwise_kl(scores, teacher, trusted),
        margin_mse(scores, teacher, trusted),
        pointwise_bce(scores, labels),
    )


def _save(file: Path, masters: MasterWeights, optimiser: torch.optim.AdamW, mean: RunningMean, step: int) -> None:
    state = {
        "masters": [master.detach() for master in masters.masters],
        "optimiser": optimiser.state_dict(),
        "mean": mean.values,
        "count": mean.count,
        "step": step,
    }
    torch.save(state, file.with_suffix(".tmp"))
    file.with_suffix(".tmp").replace(file)


def _resume(file: Path, masters: MasterWeights, optimiser: torch.optim.AdamW, mean: RunningMean) -> int:
    if not file.exists():
        return 0
    state = torch.load(file, weights_only=True)
    with torch.no_grad():
        for master, saved in zip(masters.masters, state["masters"], strict=True):
            master.copy_(saved)
    masters.publish()
    optimiser.load_state_dict(state["optimiser"])
    mean.values, mean.count = state["mean"], state["count"]
    return int(state["step"])
