"""How many floating-point operations a forward pass needs. Pure, but for counting a model's weights.

A matrix product of (n, a) by (a, b) takes 2 n a b operations. For one token the encoder's linear layers take twice
their weights, and attention 4 * layers * hidden * length (queries by keys, then weights by values): the forward third
of "PaLM: Scaling Language Modeling with Pathways" (Chowdhery et al., 2022), appendix B. The head sees one token of a
pair. Softmax, norms, activations, embeddings and padding do no useful operations and are not counted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification


@dataclass(frozen=True)
class Shape:
    """What decides a model's operations; the weights are those of linear layers, run for each token or once a pair."""

    layers: int
    hidden: int
    weights_per_token: int
    weights_per_pair: int

    def operations(self, lengths: Sequence[int]) -> float:
        """Floating-point operations for scoring pairs of these lengths in tokens."""
        each_token = 2.0 * self.weights_per_token * sum(lengths)
        attention = 4.0 * self.layers * self.hidden * sum(length**2 for length in lengths)
        return each_token + attention + 2.0 * self.weights_per_pair * len(lengths)


def shape_of(folder: str | Path) -> Shape:
    """The shape of a checkpoint; its weights are counted, not loaded."""
    config = AutoConfig.from_pretrained(folder)
    with torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(config)
    linear = {name: part.weight.numel() for name, part in model.named_modules() if isinstance(part, torch.nn.Linear)}
    each_token = sum(weights for name, weights in linear.items() if ".layer" in f".{name}")
    layers, hidden = int(config.num_hidden_layers), int(config.hidden_size)
    return Shape(layers, hidden, each_token, sum(linear.values()) - each_token)
