"""The recipe of the bundled weights: `python -m sidecar.training.bundled --data DIR --out DIR`.

collections -> pools (mined, cached) -> train (resumable) -> average -> calibrate -> safetensors in float16
"""

from __future__ import annotations

import argparse
import hashlib
import pickle
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console

from sidecar.training import datasets, mining, pools, pseudo, teacher
from sidecar.training.datasets import load_collection
from sidecar.training.export import calibrate, export
from sidecar.training.loop import Schedule, train, trainable
from sidecar.training.pools import PooledSet, Recipe, build_set
from sidecar.training.student import load_student
from sidecar.training.teacher import Teacher, base_folder

HELD_OUT = 25
_TEACHER_TOKENS = 96
_MINED_BY = (datasets, mining, pools, pseudo, teacher)
"""Modules whose code decides what is mined, the guards among them."""
_SPLIT = "train"
RECIPES: dict[str, Recipe] = {
    "squad-train": Recipe(labelled=14000, cloze=1500, keyword=1500, contrast=250, slack=0.2),
    "movies": Recipe(labelled=6000, cloze=600, keyword=800, contrast=200),
    "scifact-train": Recipe(labelled=800, title=2500, cloze=1000, keyword=800, contrast=100),
    "fairytaleqa": Recipe(labelled=3500, cloze=400, keyword=300, slack=0.2),
    "qed-nq": Recipe(labelled=1200, cloze=300, keyword=300),
    "ottqa": Recipe(labelled=1000, title=600, cloze=800, keyword=600, contrast=100),
    "foolmetwice": Recipe(labelled=2500, keyword=300),
    "fever-symmetric": Recipe(labelled=700, keyword=100),
    "tabfact": Recipe(labelled=1800, title=600, keyword=300),
    "strategyqa": Recipe(labelled=2200, keyword=200),
    "stackexchange": Recipe(labelled=1685, cloze=800, keyword=500, contrast=100),
    "banking77": Recipe(labelled=1200, keyword=0),
    "covidqa": Recipe(labelled=1078, title=300, cloze=600, keyword=400, contrast=50),
    "cdc-faq": Recipe(labelled=125, cloze=50, keyword=50),
    "tatqa": Recipe(labelled=689, cloze=400, keyword=300),
    "tldr": Recipe(labelled=3000, cloze=0, keyword=400, contrast=100),
    "powershell": Recipe(labelled=2186, cloze=400, keyword=300, contrast=50),
    "owasp": Recipe(labelled=1773, cloze=500, keyword=300, contrast=50),
    "code-rules": Recipe(labelled=1842, cloze=400, keyword=300),
    "tech-faq": Recipe(labelled=575, cloze=200, keyword=150),
    "peps": Recipe(labelled=538, cloze=200, keyword=150),
    "gov-pages": Recipe(labelled=2500, cloze=700, keyword=500, contrast=100),
    "recipes": Recipe(labelled=410, cloze=200, keyword=200, contrast=80),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the whole recipe; started again, a stopped run resumes from its last checkpoint."""
    options = _parser().parse_args(arguments)
    options.work.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(options.seed)
    sets = load_pools(options.data, options.work, options.seed, options.sets)
    kept, held_out = split(sets)
    Console().print(f"{sum(len(pooled.pools) for pooled in kept)} queries in {len(kept)} sets")
    start = options.start or base_folder()
    student = load_student(start, torch.float32, "cpu")
    initial = [parameter.detach().clone() for parameter in trainable(student)]
    student = load_student(start, torch.bfloat16, options.device)
    initial = [value.to(student.device) for value in initial]
    schedule = Schedule(
        options.steps,
        rate=options.rate,
        seed=options.seed,
        label_weight=options.label_weight,
        teacher_weight=options.teacher_weight,
        residual=options.residual,
        walked=options.walked,
        distil=0.0 if options.start else Schedule.distil,
    )
    weights = train(student, initial, kept, schedule, options.work)
    finish(weights, held_out, options.out, options.seed)


def finish(weights: list[torch.Tensor], held_out: list[PooledSet], out: Path, seed: int) -> None:
    """Put `weights` into a fresh float32 model, calibrate its head on the held-out queries and write it to `out`."""
    student = load_student(base_folder(), torch.float32, "cpu")
    with torch.no_grad():
        for parameter, value in zip(trainable(student), weights, strict=True):
            parameter.copy_(value)
    slope, offset = calibrate(student, held_out, seed)
    Console().print(f"calibration: logit * {slope:.4f} + {offset:+.4f}")
    export(student, out)


def load_pools(data: Path, work: Path, seed: int, names: Sequence[str]) -> list[PooledSet]:
    """The mined pools of the sets `names`, read from `work` if an earlier run left the same ones there."""
    folder = work / "pools"
    folder.mkdir(exist_ok=True)
    embedder: Teacher | None = None
    sets = []
    for name in names:
        file = folder / f"{name}-{seed}-{digest_of(data / name, RECIPES[name])}.pickle"
        if not file.exists():
            embedder = embedder or Teacher(max_tokens=_TEACHER_TOKENS)
            collection = load_collection(data / name, _SPLIT, tolerant=True)  # 18 ids of squad-train occur twice
            pooled = build_set(collection, RECIPES[name], embedder.embed, seed)
            file.write_bytes(pickle.dumps(pooled))
        sets.append(pickle.loads(file.read_bytes()))  # noqa: S301 - written by this module
    return sets


def digest_of(folder: Path, recipe: Recipe) -> str:
    """12 hex digits that change with all that decides a set's pools but the seed: recipe, data files and mining code.

    Even a changed comment in that code leads to new mining, which is better than pools of an older guard.
    """
    whole = hashlib.sha256(f"{recipe} {_TEACHER_TOKENS}".encode())
    code = [Path(str(module.__file__)) for module in _MINED_BY]
    data = [folder / "corpus.jsonl", folder / "queries.jsonl", folder / "qrels" / f"{_SPLIT}.tsv"]
    for file in (*code, *(one for one in data if one.is_file())):  # the loader reports a missing one
        with file.open("rb") as content:
            whole.update(f"{file.name} {hashlib.file_digest(content, 'sha256').hexdigest()}".encode())
    return whole.hexdigest()[:12]


def split(sets: list[PooledSet]) -> tuple[list[PooledSet], list[PooledSet]]:
    """Pools to train on, and the first 25 of each set, labelled ones first, held out for calibration."""
    kept, held_out = [], []
    for pooled in sets:
        usable = [pool for pool in pooled.pools if len(pool.positives)]
        kept.append(PooledSet(pooled.name, pooled.titles, pooled.bodies, pooled.facts, usable[HELD_OUT:]))
        held_out.append(PooledSet(pooled.name, pooled.titles, pooled.bodies, pooled.facts, usable[:HELD_OUT]))
    return kept, held_out


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Train the bundled cross-encoder.")
    parser.add_argument("--data", type=Path, required=True, help="folder with one BEIR-form folder per set")
    parser.add_argument("--out", type=Path, required=True, help="where the finished checkpoint is written")
    parser.add_argument("--work", type=Path, required=True, help="pools, checkpoints and log; reused when run again")
    parser.add_argument("--steps", type=int, default=1800, help="steps of 16 queries with 7 passages each")
    parser.add_argument("--rate", type=float, default=1.5e-4, help="highest learning rate")
    parser.add_argument("--label-weight", type=float, default=0.5, help="weight of the judgments")
    parser.add_argument("--teacher-weight", type=float, default=1.0, help="weight of the teacher")
    parser.add_argument("--residual", type=float, default=0.0, help="share of the judgments' that is fused first")
    parser.add_argument("--start", type=Path, help="checkpoint to go on from; default: all-MiniLM-L6-v2")
    parser.add_argument("--walked", type=int, default=0, help="steps of the run that made it")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--sets", nargs="+", default=sorted(RECIPES), choices=sorted(RECIPES))
    return parser


if __name__ == "__main__":
    main()
