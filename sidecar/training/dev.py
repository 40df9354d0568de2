"""Offline check of a checkpoint on the development sets: `python -m sidecar.training.dev --data DIR --model DIR`.

BM25's top 40 of each set are re-ordered by the model, by the cosine of all-MiniLM-L6-v2, and by min-max fusion of
either with BM25. Prints nDCG@10 (ir-measures), one row a system. This is a tool for choosing recipes; the product is
measured through its server.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import ir_measures
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from sidecar.training.datasets import load_collection, positives
from sidecar.training.mining import Bm25, FloatArray
from sidecar.training.student import load_student
from sidecar.training.teacher import Teacher

SETS = {"squad-dev": "dev", "movies": "dev", "cranfield": "test", "cacm": "test", "npl": "test"}
WEIGHTS = (0.3, 0.5, 0.7, 0.8, 0.9)


@dataclass(frozen=True)
class Candidates:
    """BM25's best documents for one query: ids, texts and scores, float32 (candidates,), the best first."""

    query_id: str
    query: str
    doc_ids: list[str]
    texts: list[str]
    bm25: FloatArray


def candidates(folder: Path, split: str, most: int, depth: int) -> tuple[list[Candidates], dict[str, dict[str, int]]]:
    """Candidates of at most `most` judged queries (a sample with a fixed seed), and their judgments."""
    collection = load_collection(folder, split, tolerant=True)  # document 471 of cranfield is empty
    judged = sorted(query_id for query_id in collection.qrels if positives(collection, query_id))
    chosen = sorted(random.Random(0).sample(judged, min(most, len(judged))))
    doc_ids = list(collection.documents)
    texts = [document.full_text for document in collection.documents.values()]
    index = Bm25(texts)
    found = []
    for query_id in chosen:
        numbers, scores = index.top(collection.queries[query_id], depth)
        found.append(
            Candidates(
                query_id,
                collection.queries[query_id],
                [doc_ids[number] for number in numbers],
                [texts[number] for number in numbers],
                scores,
            )
        )
    return found, {query_id: collection.qrels[query_id] for query_id in chosen}


def fuse(model: FloatArray, bm25: FloatArray, weight: float) -> FloatArray:
    """weight * minmax(model) + (1 - weight) * minmax(bm25); both float32 (candidates,); equal scores count 0."""
    return np.asarray(weight * _minmax(model) + (1 - weight) * _minmax(bm25), dtype=np.float32)


def ndcg(found: Sequence[Candidates], scores: Sequence[FloatArray], qrels: dict[str, dict[str, int]]) -> float:
    """Mean nDCG@10 over all queries; one without candidates counts 0. Ties fall back to BM25's order."""
    run: dict[str, dict[str, float]] = {query_id: {"none": 0.0} for query_id in qrels}
    for one, values in zip(found, scores, strict=True):
        order = np.argsort(-values, kind="stable")
        if len(order):
            run[one.query_id] = {one.doc_ids[place]: float(len(order) - rank) for rank, place in enumerate(order)}
    measure = ir_measures.nDCG @ 10
    return float(ir_measures.calc_aggregate([measure], qrels, run)[measure])


def systems(
    found: Sequence[Candidates], model: list[FloatArray], cosine: list[FloatArray]
) -> dict[str, list[FloatArray]]:
    """Every system of the table by name, each a list of scores parallel to `found`."""
    bm25 = [one.bm25 for one in found]
    table = {"BM25": bm25, "model": model, "cosine": cosine}
    for weight in WEIGHTS:
        pairs = zip(model, bm25, strict=True)
        table[f"model {weight} + BM25 {1 - weight:.1f}"] = [fuse(own, other, weight) for own, other in pairs]
    pairs = zip(cosine, bm25, strict=True)
    table["cosine 0.8 + BM25 0.2"] = [fuse(own, other, 0.8) for own, other in pairs]
    table["model 0.4 + cosine 0.4 + BM25 0.2"] = [
        0.4 * _minmax(own) + 0.4 * _minmax(near) + 0.2 * _minmax(other)
        for own, near, other in zip(model, cosine, bm25, strict=True)
    ]
    return table


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table for one checkpoint."""
    options = _parser().parse_args(arguments)
    dtype = torch.bfloat16 if options.bf16 else torch.float32
    student = load_student(options.model, dtype, "cpu")
    student.model.eval()
    teacher = Teacher(options.max_tokens, dtype)
    rows: dict[str, list[float]] = {}
    for name, split in SETS.items():
        found, qrels = candidates(options.data / name, split, options.queries, 40)
        with torch.inference_mode():
            model = _per_query(found, lambda pairs: student.scores(pairs, options.max_tokens).numpy())
        for system, scores in systems(found, model, _cosines(found, teacher)).items():
            rows.setdefault(system, []).append(ndcg(found, scores, qrels))
    _print(rows)


def _per_query(found: Sequence[Candidates], score: Callable[[list[tuple[str, str]]], FloatArray]) -> list[FloatArray]:
    pairs = [(one.query, text) for one in found for text in one.texts]
    flat = score(pairs)
    return np.split(flat, np.cumsum([len(one.texts) for one in found])[:-1])


def _cosines(found: Sequence[Candidates], teacher: Teacher) -> list[FloatArray]:
    texts = sorted({text for one in found for text in one.texts})
    place = {text: number for number, text in enumerate(texts)}
    documents = teacher.embed(texts)
    queries = teacher.embed([one.query for one in found])
    return [documents[[place[text] for text in one.texts]] @ query for one, query in zip(found, queries, strict=True)]


def _minmax(scores: FloatArray) -> FloatArray:
    if len(scores) == 0 or scores.max() == scores.min():
        return np.zeros_like(scores)
    return np.asarray((scores - scores.min()) / (scores.max() - scores.min()), dtype=np.float32)


def _print(rows: dict[str, list[float]]) -> None:
    table = Table("system", *SETS, "mean")
    for system, values in rows.items():
        table.add_row(system, *(f"{value:.3f}" for value in values), f"{sum(values) / len(values):.3f}")
    Console(width=120).print(table)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Measure a cross-encoder on the development sets.")
    parser.add_argument("--data", type=Path, required=True, help="folder with one BEIR-form folder per set")
    parser.add_argument("--model", type=Path, required=True, help="checkpoint to measure")
    parser.add_argument("--queries", type=int, default=120, help="most queries a set")
    parser.add_argument("--max-tokens", type=int, default=256, help="most tokens of a pair")
    parser.add_argument("--bf16", action="store_true", help="compute in bfloat16")
    return parser


if __name__ == "__main__":
    main()
