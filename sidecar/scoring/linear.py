"""Linear layers with what follows them: in one pass where oneDNN multiplies bfloat16 in hardware, else one by one."""

from typing import Protocol

import torch
from torch.nn import functional

from sidecar.scoring import hardware


class Operations(Protocol):
    """A linear layer of ``weight`` (out, in) and ``bias`` (out,) on rows (T, in), and what follows it."""

    def linear(self, rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """Nothing follows."""
        ...

    def gelu(self, rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """The exact GELU follows, not one of its approximations."""
        ...

    def added(
        self, rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, other: torch.Tensor
    ) -> torch.Tensor:
        """The sum with ``other`` (T, out) follows."""
        ...


class OneByOne:
    """torch's own operations, on any device and in any number type."""

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
    """oneDNN's product with bias, GELU or sum in it, as torch's own compiler calls it.

    Measured on two AMX cores in bfloat16, 4,608 rows, 384 to 1,536: 2.3 ms with GELU, against 2.4 ms + 1.5 ms; 1,536
    to 384 with a sum: 2.3 ms, against 2.5 ms + 0.4 ms. In float32 the plain ones are as fast.
    """

    def __init__(self) -> None:
        self._product = torch.ops.mkldnn._linear_pointwise

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


def operations(device: torch.device, dtype: torch.dtype) -> Operations:
    """The fastest ones here; the fused ones are no public part of torch, and not in every build of it."""
    if device.type == "cpu" and dtype == torch.bfloat16 and hardware.has_bfloat16() and _fuses():
        return Fused()
    return OneByOne()


@torch.inference_mode()
def _fuses() -> bool:
    """Whether this torch computes the fused operations, and rightly."""
    rows, weight = torch.randn(16, 32).bfloat16(), torch.randn(32, 32).bfloat16()
    bias, other = torch.randn(32).bfloat16(), torch.randn(16, 32).bfloat16()
    plain, fused = OneByOne(), Fused
    try:
        one = fused()
        got = [one.linear(rows, weight, bias), one.gelu(rows, weight, bias), one.added(rows, weight, bias, other)]
    except (AttributeError, RuntimeError):
        return False
    want = [plain.linear(rows, weight, bias), plain.gelu(rows, weight, bias), plain.added(rows, weight, bias, other)]
    return all(torch.allclose(x.float(), y.float(), rtol=0.05, atol=0.2) for x, y in zip(got, want, strict=True))
