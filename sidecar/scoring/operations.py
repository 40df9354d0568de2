"""Which operations run the linear layers of an encoder here: the fastest that compute rightly."""

from collections.abc import Callable
from typing import Any

import torch

from sidecar.logs import log
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
    attention = native_attention.kernel(dtype)  # has asked for the tiles, and proven the library
    if attention is not None and attention.way is Way.BY_TILES and native_linear.fits(config):
        library = attention.library
        by_tiles = _working("by_tiles", lambda: ByTiles(library), dtype)
        if by_tiles is not None:
            return by_tiles
    faster = {torch.float32: hardware.has_avx512(), torch.bfloat16: hardware.has_bfloat16()}
    return (_working("fused_by_onednn", Fused, dtype) if faster.get(dtype, False) else None) or OneByOne()


def _working(name: str, make: Callable[[], Operations], dtype: torch.dtype) -> Operations | None:
    """What ``make`` makes; None, with a line in the log, if that fails or does not compute what torch does."""
    try:
        made = make()
        if _computes_rightly(made, dtype):
            return made
        why = "their numbers are wrong"
    except (AttributeError, RuntimeError, ValueError) as error:
        why = str(error)
    log.warning("operations_unusable", operations=name, reason=why)
    return None


@torch.inference_mode()
def _computes_rightly(does: Operations, dtype: torch.dtype) -> bool:
    """Whether these operations are right on a sample, and give back the weights that they took."""
    sizes = ((_HIDDEN, _INNER), (_INNER, _HIDDEN), (_HIDDEN, _HIDDEN))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = [torch.nn.Linear(into, out, dtype=dtype) for into, out in sizes]
        norms = [torch.nn.LayerNorm(_HIDDEN, dtype=dtype) for _ in range(2)]
        for norm in norms:
            torch.nn.init.uniform_(norm.weight, 0.5, 1.5)
            torch.nn.init.uniform_(norm.bias, -0.5, 0.5)
        rows, hidden = torch.randn(2, _TOKENS, _HIDDEN).to(dtype)

    def results(by: Operations) -> list[torch.Tensor]:
        inner, outer, output = taken = [Linear([layer], by) for layer in layers]
        rest = Rest(output, norms[0], inner, None, outer, norms[1])
        computed = [by.linear(rows, inner), by.rest(rows, hidden, rest)]
        for linear in taken:
            linear.restore()
        return computed + [layer.weight.detach() for layer in layers]

    near = 1e-3 if dtype == torch.float32 else 0.1
    want = results(OneByOne())
    return all(
        torch.allclose(x.float(), y.float(), rtol=near, atol=near) for x, y in zip(results(does), want, strict=True)
    )
