"""Attention by our own kernel in ``native/``, without padding, on a CPU with AVX2 or AVX-512.

Whole passes of the bundled model (torch 2.15, 100 pairs, medians by turns), by torch's attention and by this one; with
AMX by an earlier version, which multiplied 16 rows by two tiles at a time:

| two cores of | 85 tokens, ms | 250 tokens, ms |
|---|---|---|
| an Intel Xeon with AMX, bfloat16 | 344, 270 | 1,240, 1,044 |
| an AMD EPYC, bfloat16 | 317, 224 | 1,087, 653 |
| the same, float32 | 596, 428 | 1,622, 1,251 |
| the same with AVX-512 hidden from all libraries, float32 | 1,020, 900 | 2,909, 2,624 |
"""

import ctypes
from functools import cache

import numpy as np
import torch
from torch import Tensor

from sidecar.scoring import hardware, native
from sidecar.scoring.layout import Layout
from sidecar.scoring.native import Library, Task, Way

_ELEMENTS = {torch.bfloat16: 32, torch.float32: 8}
"""A head's size is a multiple of this: DEPTH of ``native/blocks.h``, GROUP of ``native/native.h``."""
_NEAR = {torch.bfloat16: 0.02, torch.float32: 1e-5}
"""How far rounding may move a result of inputs between -1 and 1."""


class _Attention(Task):
    """``Attention`` of ``native/native.h``: the same fields in the same order."""

    _fields_ = (
        ("work", native.Work),
        *((name, ctypes.c_void_p) for name in ("query", "key", "value", "out")),
        *((f"{name}_stride", ctypes.c_int64) for name in ("query", "key", "value", "out")),
        *((name, ctypes.c_void_p) for name in ("starts", "lengths")),
        *((name, ctypes.c_int64) for name in ("pairs", "heads", "head_size", "longest", "first_only")),
        ("scale", ctypes.c_float),
    )
    function = "attention"


class Kernel:
    """Attention by the compiled library; raises what :class:`sidecar.scoring.native.Library` does.

    If the operating system does not permit AMX tiles to this process, vectors are used instead.
    """

    def __init__(self, library: Library, way: Way) -> None:
        library.check(_Attention)
        self.library = library
        self.way = Way.BY_VECTORS if way is Way.BY_TILES and not library.permits_tiles() else way

    @property
    def dtype(self) -> torch.dtype:
        """Number type of the rows."""
        return self.way.dtype

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, layout: Layout, scaling: float, *, first_only: bool
    ) -> Tensor:
        """See :func:`sidecar.scoring.attention.attend`; without padding or window, and with ``scaling`` above 0."""
        assert query.dtype == key.dtype == value.dtype == self.dtype
        query, key, value = (_contiguous_rows(rows) for rows in (query, key, value))
        out = torch.empty(query.shape, dtype=query.dtype)
        starts, lengths = layout.starts, np.array(layout.lengths, np.int64)
        (_, heads, head_size), longest = query.shape, int(lengths.max())
        rows = {"query": query, "key": key, "value": value, "out": out}
        task = _Attention(
            **{name: tensor.data_ptr() for name, tensor in rows.items()},
            **{f"{name}_stride": tensor.stride(0) for name, tensor in rows.items()},
            starts=starts.ctypes.data,
            lengths=lengths.ctypes.data,
            pairs=len(lengths),
            heads=heads,
            head_size=head_size,
            longest=longest,
            first_only=first_only,
            scale=scaling,
        )
        scratch_bytes = self.library.number("attention_scratch_bytes", self.way, longest, head_size)
        self.library.run(task, self.way, scratch_bytes)
        out[len(lengths) if first_only else int(starts[-1]) :] = 0.0  # filler
        return out


def _contiguous_rows(rows: Tensor) -> Tensor:
    """``rows`` (T, heads, head size), copied unless heads and elements of a row are contiguous."""
    return rows if rows.stride()[1:] == (rows.shape[2], 1) else rows.contiguous()


@cache
def kernel(dtype: torch.dtype) -> Kernel | None:
    """The kernel for rows of ``dtype``, looked for once; None if this CPU has no way, or it is missing or unusable."""
    way = _way(dtype)
    return None if way is None else native.made_by(lambda library: _checked(Kernel(library, way)))


def _checked(made: Kernel) -> Kernel | None:
    return made if _computes_rightly(made) else None


def _way(dtype: torch.dtype) -> Way | None:
    """The fastest way on this CPU for ``dtype``; None if there is none."""
    if not native.on_linux_x86_64():
        return None
    if dtype == torch.bfloat16 and hardware.has_avx512_bf16():
        return Way.BY_TILES if hardware.has_amx() else Way.BY_VECTORS
    if dtype == torch.float32 and hardware.has_avx2():
        return Way.FLOAT32_AVX512 if hardware.has_avx512() else Way.FLOAT32_AVX2
    return None


def _computes_rightly(made: Kernel) -> bool:
    """Whether the kernel is right on a sample of two heads and two pairs, one shorter and one longer than a block."""
    layout = Layout.of([3, 40], torch.device("cpu"), "native")
    numbers = torch.arange(layout.tokens * 2 * 32, dtype=torch.float32).view(layout.tokens, 2, 32)
    rows = numbers.sin().to(made.dtype)
    pairs = [rows[start : start + length].float() for start, length in zip(layout.starts, layout.lengths, strict=False)]
    weights = [torch.einsum("qhd,khd->hqk", pair, pair).softmax(-1) for pair in pairs]
    want = [torch.einsum("hqk,khd->qhd", weight, pair) for weight, pair in zip(weights, pairs, strict=True)]
    every = made.attend(rows, rows, rows, layout, 1.0, first_only=False).float()
    first = made.attend(rows[layout.first], rows, rows, layout, 1.0, first_only=True).float()
    return all(
        torch.allclose(got[: len(exact)], exact, atol=_NEAR[made.dtype])
        for got, exact in ((every, torch.cat(want)), (first, torch.stack([one[0] for one in want])))
    )


def serves(device: torch.device, dtype: torch.dtype, head_size: int) -> bool:
    """Whether there is a :func:`kernel` for attention of this number type and head size on ``device``."""
    whole = dtype in _ELEMENTS and head_size % _ELEMENTS[dtype] == 0
    return device.type == "cpu" and whole and kernel(dtype) is not None
