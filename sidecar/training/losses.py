"""The objectives of :mod:`sidecar.training.objectives` as losses for sentence-transformers' trainer.

That library has losses for some of them; one class for all keeps one form of data, lists of one length, for every
objective, with the same scaling of each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sidecar.training import objectives

Objective = Callable[[Tensor, Tensor], Tensor]
"""The loss of scores (G, P) for labels (G, P): grades, or a teacher's scores."""

MARGIN = 1.0
OBJECTIVES: Mapping[str, Objective] = {
    "margin": partial(objectives.pairwise_margin, margin=MARGIN),
    "logistic": objectives.pairwise_logistic,
    "bce": objectives.pointwise_bce,
    "mse": objectives.pointwise_mse,
    "softmax": objectives.listwise_softmax,
    "margin-mse": objectives.margin_mse,
    "kl": objectives.listwise_kl,
}
"""Objectives by the name that the command takes."""
OF_TEACHER = ("margin-mse", "kl")
"""Names of the objectives whose labels are a teacher's scores."""


class ListLoss(nn.Module):
    """Scores all pairs of a batch of lists in one pass, and applies an objective."""

    def __init__(self, model: Any, objective: Objective) -> None:
        """``model`` is a ``sentence_transformers.CrossEncoder`` with one label."""
        super().__init__()
        self.model = model
        self._objective = objective

    def forward(
        self, inputs: list[Any], labels: list[Tensor], prompt: str | None = None, task: str | None = None
    ) -> Tensor:
        """The loss, a scalar; ``inputs`` are the queries and the documents of each, ``labels`` those of each list."""
        queries, lists = inputs
        pairs = [(query, document) for query, documents in zip(queries, lists, strict=True) for document in documents]
        features = self.model.preprocess(pairs, prompt=prompt, task=task)
        on_device = {
            name: value.to(self.model.device) if isinstance(value, Tensor) else value
            for name, value in features.items()
        }
        scores = self.model(on_device)["scores"].float().view(len(queries), -1)  # (G, P)
        return self._objective(scores, torch.stack(list(labels)).to(scores))
