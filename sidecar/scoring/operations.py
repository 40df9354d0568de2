"""Which operations run the linear layers of an encoder here: the fastest that compute rightly."""

from collections.abc import Callable
from typing import Any

import torch

from sidecar.scoring import hardware, native_attention, native_linear
from sidecar.scoring.linear import Fused, Linear, OneByOne, Operations, Rest
from sidecar.scoring.native import Way
from sidecar.scoring.native_linear import ByTiles

_TOKENS, _HIDDEN, _INNER = 48, 64, 96
"""Sizes of the sample by which operations are compared."""


def operations(device: torch.device, dtype: torch.dtype, config: Any) -> Operations:
    """The fastest operations here for layers of this ``config`` of transformers.

    Those of oneDNN are not a public part of torch, and not in every build of it.
    """
    if device.type != "cpu":
        return OneByOne()
    kernel = native_attention.kernel(dtype)
    if kernel is not None and kernel.way is Way.BY_TILES and native_linear.fits(config):
        by_tiles = _working(lambda: ByTiles(kernel.library), dtype)
        if by_tiles is not None:
            return by_tiles
    faster = {torch.float32: hardware.has_avx512(), torch.bfloat16: hardware.has_bfloat16()}
    return (_working(Fused, dtype) if faster.get(dtype, False) else None) or OneByOne()


@torch.inference_mode()
def _working(make: Callable[[], Operations], dtype: torch.dtype) -> Operations | None:
    """What ``make`` makes, None if that fails or does not compute what torch does on a sample."""
    layers = [torch.nn.Linear(_HIDDEN, _INNER), torch.nn.Linear(_INNER, _HIDDEN), torch.nn.Linear(_HIDDEN, _HIDDEN)]
    norm = torch.nn.LayerNorm(_HIDDEN, dtype=dtype)
    before = [layer.to(dtype).weight.detach() for layer in layers]
    rows, other = torch.randn(2, _TOKENS, _HIDDEN).to(dtype)

    def results(does: Operations) -> list[torch.Tensor]:
        inner, outer, output = taken = [Linear([layer], does) for layer in layers]
        computed = [does.linear(rows, inner), does.rest(rows, other, Rest(output, norm, inner, None, outer, norm))]
        for linear in taken:
            linear.restore()
        return computed + [layer.weight.detach() for layer in layers]

    want = [*results(OneByOne())[:2], *before]
    near = 1e-3 if dtype == torch.float32 else 0.1
    try:
        made = make()
        got = results(made)
    except (AttributeError, RuntimeError, ValueError):
        return None
    right = (torch.allclose(x.float(), y.float(), rtol=near, atol=near) for x, y in zip(got, want, strict=True))
    return made if all(right) else None
