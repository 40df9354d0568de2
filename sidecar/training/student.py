"""The student: a BERT sequence classifier with one logit, trained in bfloat16 with a float32 master copy."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging as transformers_logging

MAX_QUERY_TOKENS = 80


@dataclass(frozen=True)
class Student:
    """A model, its tokenizer and the device it lives on."""

    model: Any
    tokenizer: Any
    device: torch.device

    def scores(self, pairs: Sequence[tuple[str, str]], max_tokens: int, batch: int = 32) -> Tensor:
        """Logits, float32 (pairs,), with a graph when gradients are on; passages are cut, to `max_tokens` a pair.

        Queries of more than 80 tokens are cut to 80, so that `max_tokens` of more than 83 always leaves a passage.
        Pairs are run in batches of similar length, since padding costs as much as text; lengths are rounded up to a
        multiple of 16, since on CPU each new shape costs the making of its kernels.
        """
        queries = self._cut_queries([query for query, _ in pairs])
        passages = [passage for _, passage in pairs]
        encoded = self.tokenizer(queries, passages, truncation="only_second", max_length=max_tokens)
        order = sorted(range(len(pairs)), key=lambda place: len(encoded["input_ids"][place]))
        parts = []
        for start in range(0, len(order), batch):
            chosen = order[start : start + batch]
            inputs = {key: [encoded[key][place] for place in chosen] for key in encoded}
            padded = self.tokenizer.pad(inputs, pad_to_multiple_of=16, return_tensors="pt").to(self.device)
            parts.append(self.model(**padded).logits.float().squeeze(1))  # (B,)
        return torch.cat(parts)[torch.argsort(torch.tensor(order)).to(self.device)]

    def _cut_queries(self, queries: list[str]) -> list[str]:
        encoded = self.tokenizer(
            queries, add_special_tokens=False, truncation=True, max_length=MAX_QUERY_TOKENS, return_offsets_mapping=True
        )
        return [
            query[: offsets[-1][1]] if offsets else query
            for query, offsets in zip(queries, encoded["offset_mapping"], strict=True)
        ]


def load_student(folder: Path, dtype: torch.dtype, device: str) -> Student:
    """Load a checkpoint with dropout 0 (attention with dropout is many times slower on CPU)."""
    transformers_logging.set_verbosity_error()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = AutoModelForSequenceClassification.from_pretrained(
            folder,
            num_labels=1,
            dtype=dtype,
            attn_implementation="eager",
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
    return Student(model.to(device), AutoTokenizer.from_pretrained(folder), torch.device(device))


class MasterWeights:
    """float32 copies of a model's parameters: the optimiser moves these, the model computes in its own dtype."""

    def __init__(self, parameters: Iterable[torch.nn.Parameter], initial: Iterable[Tensor]) -> None:
        """`initial` are the float32 values the parameters were rounded from, in the same order."""
        self._live = list(parameters)
        self.masters = [torch.nn.Parameter(value.detach().float().clone()) for value in initial]
        self.publish()

    def collect(self) -> None:
        """Move the model's gradients to the masters and clear them in the model."""
        for live, master in zip(self._live, self.masters, strict=True):
            master.grad = None if live.grad is None else live.grad.float()
            live.grad = None

    @torch.no_grad()
    def publish(self) -> None:
        """Round the masters into the model."""
        for live, master in zip(self._live, self.masters, strict=True):
            live.copy_(master)


class RunningMean:
    """The mean of weights seen over the last part of training, float32."""

    def __init__(self) -> None:
        """Nothing seen yet: `count` is 0 and `values` is empty."""
        self.count = 0
        self.values: list[Tensor] = []

    @torch.no_grad()
    def add(self, weights: Sequence[Tensor]) -> None:
        """Take one more set of weights into the mean."""
        self.count += 1
        if not self.values:
            self.values = [weight.detach().clone() for weight in weights]
        for mean, weight in zip(self.values, weights, strict=True):
            mean += (weight - mean) / self.count
