"""Linear layers and all that follows attention by our own kernel in ``native/``, in bfloat16 on a CPU with AMX.

Whole passes of the bundled model on two cores of an Intel Xeon (torch 2.15, 100 pairs, medians by turns): 344 ms by
torch's attention and oneDNN's products, 214 ms by our own (85 tokens); 1,240 and 800 ms (250). Alone, what follows
attention in a layer took 36 ms by oneDNN, which ran each product and each norm over all 8,448 rows, and 20 ms here.
"""

import ctypes
from typing import Any

import torch
from torch import Tensor

from sidecar.scoring import native
from sidecar.scoring.layout import VECTOR
from sidecar.scoring.linear import Linear, Rest
from sidecar.scoring.native import Library, Task, Way

_WIDE, _DEPTH = 32, 32
"""A weight's sizes are multiples of these: WIDE and DEPTH of ``native/blocks.h``."""


class _Weights(ctypes.Structure):
    """``Weights`` of ``native/native.h``: the same fields in the same order."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("panels", "bias")),
        *((name, ctypes.c_int64) for name in ("into", "out")),
    )


class _Norm(ctypes.Structure):
    """``Norm`` of ``native/native.h``: the same fields in the same order."""

    _fields_ = (*((name, ctypes.c_void_p) for name in ("weight", "bias")), ("epsilon", ctypes.c_float))


class _Linear(Task):
    """``Linear`` of ``native/native.h``: the same fields in the same order."""

    _fields_ = (
        ("work", native.Work),
        *((name, ctypes.c_void_p) for name in ("rows", "out")),
        *((name, ctypes.c_int64) for name in ("count", "rows_stride", "out_stride")),
        ("layer", _Weights),
    )
    function = "linear"


class _Rest(Task):
    """``Rest`` of ``native/native.h``: the same fields in the same order."""

    _fields_ = (
        ("work", native.Work),
        *((name, ctypes.c_void_p) for name in ("rows", "other", "out")),
        *((name, ctypes.c_int64) for name in ("count", "rows_stride", "other_stride", "out_stride")),
        *((name, _Weights) for name in ("output", "inner", "outer")),
        *((name, _Norm) for name in ("output_norm", "outer_norm")),
    )
    function = "rest"


class ByTiles:
    """:class:`sidecar.scoring.linear.Operations` by AMX tiles, for rows and weights in bfloat16.

    The process must be permitted to use tiles. Raises what :class:`sidecar.scoring.native.Library` does.
    """

    def __init__(self, library: Library) -> None:
        library.check(_Linear)
        library.check(_Rest)
        self._library = library

    def packed(self, weight: Tensor) -> Tensor:
        """See :class:`Operations`; of shape (out / 32, in / 32, 2, 16, 16, 2): panels, steps, two blocks of each."""
        out, into = weight.shape
        return weight.view(out // _WIDE, 2, 16, into // _DEPTH, 16, 2).permute(0, 3, 1, 4, 2, 5).contiguous()

    def dense(self, packed: Tensor) -> Tensor:
        """See :class:`Operations`."""
        panels, steps = packed.shape[:2]
        return packed.permute(0, 2, 4, 1, 3, 5).reshape(panels * _WIDE, steps * _DEPTH)

    def linear(self, rows: Tensor, layer: Linear) -> Tensor:
        """See :class:`Operations`."""
        weights = _weights(layer)
        assert rows.shape[1] == weights.into
        out = rows.new_empty(len(rows), weights.out)
        task = _Linear(**_addresses(rows=rows, out=out), count=len(rows), layer=weights)
        self._library.run(task, Way.BY_TILES)
        return out

    def rest(self, attended: Tensor, hidden: Tensor, rest: Rest) -> Tensor:
        """See :class:`Operations`; sums are not rounded before a norm."""
        assert attended.shape == hidden.shape
        out = torch.empty_like(hidden, memory_format=torch.contiguous_format)
        task = _Rest(
            **_addresses(rows=attended, other=hidden, out=out),
            count=len(hidden),
            **{name: _weights(getattr(rest, name)) for name in ("output", "inner", "outer")},
            **{name: _norm(getattr(rest, name)) for name in ("output_norm", "outer_norm")},
        )
        scratch_bytes = self._library.number("rest_scratch_bytes", hidden.shape[1], task.inner.out)
        self._library.run(task, Way.BY_TILES, scratch_bytes)
        return out


def fits(config: Any) -> bool:
    """Whether :class:`ByTiles` knows the sizes and the activation of the layers of a ``config`` of transformers."""
    whole = config.hidden_size % _WIDE == 0 and config.intermediate_size % _WIDE == 0
    return bool(whole and config.hidden_act == "gelu")


def _addresses(**rows: Tensor) -> dict[str, int]:
    """Address and stride of each of these matrices of bfloat16, as fields of a task.

    They have whole blocks of rows, ROWS of ``native/blocks.h``, as every row of a :class:`Layout` is of whole vectors.
    """
    assert all(one.dtype == torch.bfloat16 and one.stride(1) == 1 and len(one) % VECTOR == 0 for one in rows.values())
    strides = {f"{name}_stride": one.stride(0) for name, one in rows.items()}
    return {name: one.data_ptr() for name, one in rows.items()} | strides


def _weights(layer: Linear) -> _Weights:
    panels, steps = layer.weight.shape[:2]
    assert layer.weight.dtype == layer.bias.dtype == torch.bfloat16
    return _Weights(layer.weight.data_ptr(), layer.bias.data_ptr(), steps * _DEPTH, panels * _WIDE)


def _norm(norm: torch.nn.LayerNorm) -> _Norm:
    assert norm.weight.dtype == norm.bias.dtype == torch.bfloat16
    return _Norm(norm.weight.data_ptr(), norm.bias.data_ptr(), norm.eps)
