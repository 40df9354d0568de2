"""Weights in a quarter of their size: the linear layers' in int8, a scale for each output channel, the rest in float16.

They are computed with as they were before: this saves room in a file, not time.
"""

from collections.abc import Mapping

import torch

_SCALE = ".scale"
_LARGEST = 127
_MATRICES = (".dense.weight", ".query.weight", ".key.weight", ".value.weight")


def packed(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """``weights``, float32, as they are written; matrices become int8 of the same name, with a scale (out, 1)."""
    written: dict[str, torch.Tensor] = {}
    for name, weight in weights.items():
        if name.endswith(_MATRICES):
            scale = weight.abs().amax(1, keepdim=True).clamp_min(torch.finfo(torch.float16).tiny) / _LARGEST
            written[name] = (weight / scale).round().to(torch.int8)
            written[name + _SCALE] = scale.float()
        else:
            written[name] = weight.half()
    return written


def unpacked(written: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What :func:`packed` was given, in float32, rounded."""
    return {
        name: weight.float() * written[name + _SCALE] if weight.dtype == torch.int8 else weight.float()
        for name, weight in written.items()
        if not name.endswith(_SCALE)
    }
