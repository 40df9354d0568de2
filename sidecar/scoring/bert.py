"""The layers of BERT and its kin on a packed row, with fewer operations than transformers': the same numbers.

Query, key and value are one product; what follows a linear layer is fused with it where that is faster. The last layer
computes nothing but the first token of each pair, since no head of these families reads another: a sixth of a small
model's work less.
"""

from typing import Any

import torch

from sidecar.scoring.attention import attend
from sidecar.scoring.layout import Layout, row_lengths
from sidecar.scoring.linear import Fused, Operations, operations

_SHORT = 16
"""Tokens of the pairs that the lengths of a row are prepared with; their attention costs next to nothing."""


class Encoder:
    """Runs embeddings and layers of ``base``, a BERT, RoBERTa, ELECTRA or one of their kind, on a packed row."""

    def __init__(self, base: Any) -> None:
        self._base = base
        self._does = operations(base.device, base.dtype)
        is_gelu = base.config.hidden_act == "gelu"
        self._layers = [Layer(layer, self._does, is_gelu=is_gelu) for layer in base.encoder.layer]

    def __call__(self, inputs: dict[str, torch.Tensor], layout: Layout) -> torch.Tensor:
        """Hidden states of the first tokens, (rows of ``layout.first``, hidden); ``inputs`` of shape (1, T) each."""
        hidden = self._base.embeddings(**inputs)
        if hasattr(self._base, "embeddings_project"):  # ELECTRA, where embeddings are smaller than hidden states
            hidden = self._base.embeddings_project(hidden)
        hidden = hidden[0]  # (T, hidden)
        for layer in self._layers[:-1]:
            hidden = layer(hidden, layout)
        return self._layers[-1].first(hidden, layout)

    @torch.inference_mode()
    def prepare(self, tokens: int) -> None:
        """Have oneDNN make its products for each length of a row up to ``tokens``, so that no call waits for that.

        All layers but the last share them. Measured on two AMX cores with the bundled model: 2 s for 6,000 tokens.
        """
        for length in row_lengths(tokens) if isinstance(self._does, Fused) else []:
            layout = Layout.of([_SHORT] * (length // _SHORT), self._base.device)
            hidden = torch.zeros(length, self._base.config.hidden_size, dtype=self._base.dtype)
            self._layers[0](hidden, layout)
            self._layers[-1].first(hidden, layout)


class Layer:
    """One layer; its weights are those of the one that it is made of, which still works."""

    def __init__(self, layer: Any, does: Operations, *, is_gelu: bool) -> None:
        attention = layer.attention.self
        projections = [attention.query, attention.key, attention.value]
        self._heads, self._scaling = attention.num_attention_heads, attention.attention_head_size**-0.5
        self._weight = _joined(projections, "weight")  # (3 * all heads, hidden)
        self._bias = _joined(projections, "bias")
        self._layer, self._does, self._is_gelu = layer, does, is_gelu

    def __call__(self, hidden: torch.Tensor, layout: Layout) -> torch.Tensor:
        """The next hidden states of all tokens, (T, hidden)."""
        query, key, value = self._by_head(self._does.linear(hidden, self._weight, self._bias), 3)
        return self._after_attention(attend(query, key, value, layout, self._scaling, None), hidden)

    def first(self, hidden: torch.Tensor, layout: Layout) -> torch.Tensor:
        """The next hidden states of each pair's first token, (rows of ``layout.first``, hidden)."""
        asking, size = hidden[layout.first], len(self._weight) // 3
        (query,) = self._by_head(self._does.linear(asking, self._weight[:size], self._bias[:size]), 1)
        key, value = self._by_head(self._does.linear(hidden, self._weight[size:], self._bias[size:]), 2)
        return self._after_attention(attend(query, key, value, layout, self._scaling, None), asking)

    def _by_head(self, rows: torch.Tensor, parts: int) -> list[torch.Tensor]:
        """(T, parts * heads * head size) as so many parts of (T, heads, head size)."""
        return [part.reshape(len(rows), self._heads, -1) for part in rows.chunk(parts, 1)]

    def _after_attention(self, attended: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        layer, does = self._layer, self._does
        output, inner, outer = layer.attention.output, layer.intermediate, layer.output
        hidden = output.LayerNorm(does.added(attended.flatten(1), output.dense.weight, output.dense.bias, hidden))
        weight, bias = inner.dense.weight, inner.dense.bias
        if self._is_gelu:
            wide = does.gelu(hidden, weight, bias)
        else:
            wide = inner.intermediate_act_fn(does.linear(hidden, weight, bias))
        normed: torch.Tensor = outer.LayerNorm(does.added(wide, outer.dense.weight, outer.dense.bias, hidden))
        return normed


def _joined(layers: list[torch.nn.Linear], name: str) -> torch.Tensor:
    """Weights or biases end to end; the layers keep views of it, so that the memory holds them once."""
    joined = torch.cat([getattr(layer, name).detach() for layer in layers])
    for layer, part in zip(layers, joined.chunk(len(layers)), strict=True):
        setattr(layer, name, torch.nn.Parameter(part, requires_grad=False))
    return joined
