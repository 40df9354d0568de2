"""Linear layers and what follows them: fused by oneDNN on CPUs where that is faster, else one by one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch.nn import functional

_ROWS = 1024
"""Rows that oneDNN is told to lay out a weight for; it chose the same layout for 16 to 4,096."""


class Operations(Protocol):
    """How the linear layers of an encoder run, all of them on rows (T, in)."""

    def packed(self, weight: torch.Tensor) -> torch.Tensor:
        """``weight`` (out, in) in the layout that the other methods take."""
        ...

    def dense(self, packed: torch.Tensor) -> torch.Tensor:
        """The weight (out, in) that was packed."""
        ...

    def linear(self, rows: torch.Tensor, layer: "Linear") -> torch.Tensor:
        """A linear layer alone, (T, out)."""
        ...

    def rest(self, attended: torch.Tensor, hidden: torch.Tensor, rest: "Rest") -> torch.Tensor:
        """All that follows attention in a layer that began with ``hidden``; all three are (T, hidden)."""
        ...


class OneByOne:
    """torch's own operations, on any device and in any number type."""

    def packed(self, weight: torch.Tensor) -> torch.Tensor:
        """See :class:`Operations`."""
        return weight

    def dense(self, packed: torch.Tensor) -> torch.Tensor:
        """See :class:`Operations`."""
        return packed

    def linear(self, rows: torch.Tensor, layer: "Linear") -> torch.Tensor:
        """See :class:`Operations`."""
        return functional.linear(rows, layer.weight, layer.bias)

    def gelu(self, rows: torch.Tensor, layer: "Linear") -> torch.Tensor:
        """The linear layer, then the exact GELU, not one of its approximations; (T, out)."""
        return functional.gelu(self.linear(rows, layer))

    def added(self, rows: torch.Tensor, layer: "Linear", other: torch.Tensor) -> torch.Tensor:
        """The linear layer, then the sum with ``other`` (T, out)."""
        return self.linear(rows, layer) + other

    def rest(self, attended: torch.Tensor, hidden: torch.Tensor, rest: "Rest") -> torch.Tensor:
        """See :class:`Operations`."""
        hidden = rest.output_norm(self.added(attended, rest.output, hidden))
        if rest.activation is None:
            wide = self.gelu(hidden, rest.inner)
        else:
            wide = rest.activation(self.linear(hidden, rest.inner))
        normed: torch.Tensor = rest.outer_norm(self.added(wide, rest.outer, hidden))
        return normed


class Fused(OneByOne):
    """oneDNN's product fused with bias, GELU or sum, on weights laid out once, as torch's own compiler calls it.

    Measured on two AMX cores in bfloat16, 4,608 rows, 384 to 1,536: 2.3 ms with GELU, against 2.4 ms + 1.5 ms; 1,536
    to 384 with a sum: 2.3 ms, against 2.5 ms + 0.4 ms. Two AVX-512 BF16 cores of an AMD EPYC took 690 ms for 100 pairs
    of 85 tokens of the bundled model with weights as they are, 650 ms with weights laid out; in float32 1.51 s by
    torch's own products and 1.10 s by these. On two cores with only AVX2 these are slower, most of all with GELU:
    1.32 s by torch's own, 1.54 s by these.
    """

    def __init__(self) -> None:
        self._product = torch.ops.mkldnn._linear_pointwise
        self._reorder = torch.ops.mkldnn._reorder_linear_weight

    def packed(self, weight: torch.Tensor) -> torch.Tensor:
        """See :class:`Operations`."""
        packed: torch.Tensor = self._reorder(weight.contiguous(), _ROWS)
        return packed

    def dense(self, packed: torch.Tensor) -> torch.Tensor:
        """See :class:`Operations`."""
        return packed.to_dense()

    def linear(self, rows: torch.Tensor, layer: "Linear") -> torch.Tensor:
        """See :class:`Operations`."""
        out: torch.Tensor = self._product(rows, layer.weight, layer.bias, "none", [], "")
        return out

    def gelu(self, rows: torch.Tensor, layer: "Linear") -> torch.Tensor:
        """See :class:`OneByOne`."""
        out: torch.Tensor = self._product(rows, layer.weight, layer.bias, "gelu", [], "none")
        return out

    def added(self, rows: torch.Tensor, layer: "Linear", other: torch.Tensor) -> torch.Tensor:
        """See :class:`OneByOne`."""
        out: torch.Tensor = self._product.binary(rows, other, layer.weight, layer.bias, "add")
        return out


class Linear:
    """Linear layers of the same input joined into one product; it takes their weights until :meth:`restore`."""

    def __init__(self, layers: Sequence[torch.nn.Linear], does: Operations) -> None:
        self._layers, self._does = layers, does
        self.bias = torch.cat([layer.bias.detach() for layer in layers])  # (out of all layers,)
        self.weight = does.packed(torch.cat([layer.weight.detach() for layer in layers]))  # (out of all layers, in)
        self._give([self.bias.new_empty(0)] * len(layers))

    def restore(self) -> None:
        """Give the layers their weights back, so that they work again."""
        self._give(torch.split(self._does.dense(self.weight), [layer.out_features for layer in self._layers]))

    def _give(self, weights: Sequence[torch.Tensor]) -> None:
        for layer, weight in zip(self._layers, weights, strict=True):
            layer.weight = torch.nn.Parameter(weight, requires_grad=False)


@dataclass(frozen=True)
class Rest:
    """What follows attention in an encoder's layer: a linear layer, a norm, two linear layers, a norm."""

    output: Linear
    output_norm: torch.nn.LayerNorm
    inner: Linear
    activation: Callable[[torch.Tensor], torch.Tensor] | None
    """What follows ``inner``; None: the exact GELU."""
    outer: Linear
    outer_norm: torch.nn.LayerNorm
