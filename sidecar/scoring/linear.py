"""Linear layers and the operation after them: fused by oneDNN on CPUs where that is faster, else one by one."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch.nn import functional

from sidecar.scoring import hardware

_ROWS = 1024
"""Rows that oneDNN is told to lay out a weight for; it chose the same layout for 16 to 4,096."""


class Operations(Protocol):
    """A linear layer of ``weight`` (out, in) and ``bias`` (out,) on rows (T, in), and the operation after it."""

    def packed(self, weight: torch.Tensor) -> torch.Tensor:
        """``weight`` (out, in) in the layout that the other methods take."""
        ...

    def linear(self, rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """The linear layer alone, (T, out)."""
        ...

    def gelu(self, rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """The linear layer, then the exact GELU, not one of its approximations; (T, out)."""
        ...

    def added(
        self, rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, other: torch.Tensor
    ) -> torch.Tensor:
        """The linear layer, then the sum with ``other`` (T, out)."""
        ...


class OneByOne:
    """torch's own operations, on any device and in any number type."""

    def packed(self, weight: torch.Tensor) -> torch.Tensor:
        """See :class:`Operations`."""
        return weight

    def linear(self, rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """See :class:`Operations`."""
        return functional.linear(rows, weight, bias)

    def gelu(self, rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """See :class:`Operations`."""
        return functional.gelu(functional.linear(rows, weight, bias))

    def added(
        self, rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, other: torch.Tensor
    ) -> torch.Tensor:
        """See :class:`Operations`."""
        return functional.linear(rows, weight, bias) + other


class Fused:
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
        """See :class:`Operations`; only ``to_dense`` can read the result again."""
        packed: torch.Tensor = self._reorder(weight.contiguous(), _ROWS)
        return packed

    def linear(self, rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """See :class:`Operations`."""
        out: torch.Tensor = self._product(rows, weight, bias, "none", [], "")
        return out

    def gelu(self, rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """See :class:`Operations`."""
        out: torch.Tensor = self._product(rows, weight, bias, "gelu", [], "none")
        return out

    def added(
        self, rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, other: torch.Tensor
    ) -> torch.Tensor:
        """See :class:`Operations`."""
        out: torch.Tensor = self._product.binary(rows, other, weight, bias, "add")
        return out


class Linear:
    """Linear layers of the same input joined into one product; it takes their weights until :meth:`restore`."""

    def __init__(self, layers: Sequence[torch.nn.Linear], does: Operations) -> None:
        self._layers = layers
        self.bias = torch.cat([layer.bias.detach() for layer in layers])  # (out of all layers,)
        self.weight = does.packed(torch.cat([layer.weight.detach() for layer in layers]))  # (out of all layers, in)
        self._give([self.bias.new_empty(0)] * len(layers))

    def restore(self) -> None:
        """Give the layers their weights back, so that they work again."""
        dense = self.weight.to_dense() if self.weight.is_mkldnn else self.weight
        self._give(torch.split(dense, [layer.out_features for layer in self._layers]))

    def _give(self, weights: Sequence[torch.Tensor]) -> None:
        for layer, weight in zip(self._layers, weights, strict=True):
            layer.weight = torch.nn.Parameter(weight, requires_grad=False)


def operations(device: torch.device, dtype: torch.dtype) -> Operations:
    """The fastest operations here; the fused ones are not a public part of torch, and not in every build of it."""
    faster = {torch.float32: hardware.has_avx512(), torch.bfloat16: hardware.has_bfloat16()}
    return Fused() if device.type == "cpu" and faster.get(dtype, False) and _fuses(dtype) else OneByOne()


@torch.inference_mode()
def _fuses(dtype: torch.dtype) -> bool:
    """Whether this torch computes the fused operations correctly, and can restore a weight that it laid out."""
    rows, weight = torch.randn(16, 32).to(dtype), torch.randn(32, 32).to(dtype)
    bias, other = torch.randn(32).to(dtype), torch.randn(16, 32).to(dtype)
    plain = OneByOne()
    try:
        one = Fused()
        packed = one.packed(weight)
        got = [one.linear(rows, packed, bias), one.gelu(rows, packed, bias), one.added(rows, packed, bias, other)]
        got.append(packed.to_dense())
    except (AttributeError, RuntimeError):
        return False
    want = [plain.linear(rows, weight, bias), plain.gelu(rows, weight, bias), plain.added(rows, weight, bias, other)]
    near = 1e-3 if dtype == torch.float32 else 0.1
    return all(
        torch.allclose(x.float(), y.float(), rtol=near, atol=near) for x, y in zip(got, [*want, weight], strict=True)
    )
