"""The layers of BERT-like models on a packed row: transformers' results with fewer operations.

Query, key and value are one matrix product; what follows a linear layer is computed with it where that is faster: see
:mod:`sidecar.scoring.operations`. For a classification head the last layer computes only the first token of each pair,
the only one that heads of these families read: a sixth less work for a small model.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from sidecar.scoring import native_attention
from sidecar.scoring.attention import attend
from sidecar.scoring.layout import Kernel, Layout, row_lengths
from sidecar.scoring.linear import Fused, Linear, Operations, Rest
from sidecar.scoring.native_linear import ByTiles
from sidecar.scoring.operations import operations

_SHORT = 16
"""Tokens of the dummy pairs that :meth:`Encoder.prepare` fills a row with; their attention costs next to nothing."""


class Encoder:
    """Runs embeddings and layers of ``base``, a BERT, RoBERTa, ELECTRA or similar model, on a packed row.

    Takes the weights of its linear layers, so that ``base`` does not run until :meth:`restore`. With ``first_only`` the
    last layer computes only the first token of each pair.
    """

    def __init__(self, base: Any, *, first_only: bool = True) -> None:
        self._base = base
        head_size = base.encoder.layer[0].attention.self.attention_head_size
        self._on_cpu: Kernel = "native" if native_attention.serves(base.device, base.dtype, head_size) else "by_width"
        self._does = operations(base.device, base.dtype, base.config)
        self._is_projected = hasattr(base, "embeddings_project")  # ELECTRA's, if smaller than hidden states
        is_gelu = base.config.hidden_act == "gelu"
        self._taken: list[Linear] = []
        *most, last = base.encoder.layer
        try:
            self._layers = [Layer(layer, self._does, self._take, is_gelu=is_gelu) for layer in most]
            kind = LastLayer if first_only else Layer
            self._last = kind(last, self._does, self._take, is_gelu=is_gelu)
        except Exception:
            self.restore()
            raise
        # The only products left to oneDNN, which is slow at each new length, are of as many rows as there are pairs.
        self._any_length = isinstance(self._does, ByTiles) and not self._is_projected

    def __call__(self, inputs: dict[str, torch.Tensor], layout: Layout) -> torch.Tensor:
        """Hidden states of the first tokens, (rows of ``layout.first``, hidden), or of all tokens, (T, hidden).

        ``inputs`` are of shape (1, T) each.
        """
        hidden = self._base.embeddings(**inputs)
        if self._is_projected:
            hidden = self._base.embeddings_project(hidden)
        hidden = hidden[0]  # (T, hidden)
        for layer in self._layers:
            hidden = layer(hidden, layout)
        return self._last(hidden, layout)

    def layout(self, lengths: Sequence[int]) -> Layout:
        """The layout of a row of texts with these numbers of tokens."""
        return Layout.of(lengths, self._base.device, self._on_cpu, any_length=self._any_length)

    def restore(self) -> None:
        """Give ``base`` its weights back, so that it runs again."""
        for linear in self._taken:
            linear.restore()

    def _take(self, *layers: torch.nn.Linear) -> Linear:
        self._taken.append(Linear(layers, self._does))
        return self._taken[-1]

    @torch.inference_mode()
    def prepare(self, tokens: int) -> None:
        """Have oneDNN build its products for each row length of up to ``tokens``, so that no call waits for that.

        Does nothing unless operations are fused. All layers but the last share the products. Measured on two AMX cores
        with the bundled model: 2 s for 6,000 tokens.
        """
        if not isinstance(self._does, Fused):
            return
        config, dtype = self._base.config, self._base.dtype
        for length in row_lengths(tokens):
            layout = self.layout([_SHORT] * (length // _SHORT))
            hidden = torch.zeros(length, config.hidden_size, dtype=dtype)
            for layer in (*self._layers[:1], self._last):
                layer(hidden, layout)


class Layer:
    """One layer, which takes the weights of the transformers layer it is made from."""

    _parts: Sequence[Sequence[str]] = (("query", "key", "value"),)
    """Names of the projections; each group is one matrix product."""

    def __init__(self, layer: Any, does: Operations, take: Callable[..., Linear], *, is_gelu: bool) -> None:
        attention = layer.attention.self
        self._heads, self._scaling = attention.num_attention_heads, attention.attention_head_size**-0.5
        self._does = does
        self._projections = [take(*(getattr(attention, name) for name in names)) for names in self._parts]
        self._rest = Rest(
            take(layer.attention.output.dense),
            layer.attention.output.LayerNorm,
            take(layer.intermediate.dense),
            None if is_gelu else layer.intermediate.intermediate_act_fn,
            take(layer.output.dense),
            layer.output.LayerNorm,
        )

    def __call__(self, hidden: torch.Tensor, layout: Layout) -> torch.Tensor:
        """The next hidden states of all tokens, (T, hidden)."""
        query, key, value = self._by_head(hidden, self._projections[0], 3)
        attended = attend(query, key, value, layout, self._scaling)
        return self._does.rest(attended.flatten(1), hidden, self._rest)

    def _by_head(self, hidden: torch.Tensor, projection: Linear, parts: int) -> list[torch.Tensor]:
        """Apply ``projection`` to (T, hidden) and split the result into ``parts`` of (T, heads, head size) each."""
        rows = self._does.linear(hidden, projection)
        return [part.view(len(part), self._heads, -1) for part in rows.chunk(parts, 1)]


class LastLayer(Layer):
    """A layer that computes only the first token of each pair."""

    _parts = (("query",), ("key", "value"))

    def __call__(self, hidden: torch.Tensor, layout: Layout) -> torch.Tensor:
        """The next hidden states of each pair's first token, (rows of ``layout.first``, hidden)."""
        asking, (of_query, of_others) = hidden[layout.first], self._projections
        (query,) = self._by_head(asking, of_query, 1)
        key, value = self._by_head(hidden, of_others, 2)
        attended = attend(query, key, value, layout, self._scaling, first_only=True)
        return self._does.rest(attended.flatten(1), asking, self._rest)
