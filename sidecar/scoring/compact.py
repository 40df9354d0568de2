"""Weights in a quarter of their size: linear layers in int8, with a scale for each output channel, the rest in float16.

They are unpacked before they are computed with: this saves space in a file, not time.
"""

from collections.abc import Mapping

import torch

_SCALE = ".scale"
_LARGEST = 127
_MATRICES = (".dense.weight", ".query.weight", ".key.weight", ".value.weight")


def packed(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Float32 ``weights`` as stored: matrices in int8, each with a float32 scale (out, 1) named ``NAME.scale``."""
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
    """The float32 weights that :func:`packed` was given, up to rounding."""
    return {
        name: weight.float() * written[name + _SCALE] if weight.dtype == torch.int8 else weight.float()
        for name, weight in written.items()
        if not name.endswith(_SCALE)
    }
