"""Attention by the kernel of ``native_attention.c``: bfloat16 on a CPU with AVX-512 BF16, where pairs need no padding.

Building this package compiles it where there is a C compiler; without, and on other CPUs, torch's attention serves.
Whole passes of the bundled model (torch 2.15, 100 pairs, medians by turns), by torch's attention and by this one: two
AMX cores, 85 tokens 505 ms and 376 ms, 250 tokens 1,411 ms and 1,110 ms; two cores of an AMD EPYC 315 ms and 224 ms,
1,052 ms and 671 ms.
"""

import ctypes
import os
from functools import cache
from importlib.util import find_spec

import numpy as np
import torch
from torch import Tensor

from sidecar.logs import log
from sidecar.scoring import hardware
from sidecar.scoring.layout import Layout

_MODULE = "sidecar.scoring._native_attention"
_DEPTH = 32
"""Elements in a row of a block: a head has a multiple of them."""
_ALIGNMENT = 64


class _Attention(ctypes.Structure):
    """``Attention`` of ``native_attention.c``: the same fields in the same order."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("query", "key", "value", "out")),
        *((f"{name}_stride", ctypes.c_int64) for name in ("query", "key", "value", "out")),
        *((name, ctypes.c_void_p) for name in ("starts", "lengths")),
        *((name, ctypes.c_int64) for name in ("pairs", "heads", "head_size", "longest", "first_only", "by_tiles")),
        ("scale", ctypes.c_float),
        ("scratch", ctypes.c_void_p),
        *((name, ctypes.c_longlong) for name in ("next_thread", "next_item")),
    )


class Kernel:
    """The compiled kernel, run by the OpenMP that torch itself uses: a second one would fight it for the cores.

    With ``by_tiles`` it multiplies by AMX, where the operating system lets this process.

    Raises:
        AttributeError: the library is another one, or torch runs with an OpenMP that has no ``GOMP_parallel``.
        ValueError: the library was compiled from another source than this module is of.
    """

    def __init__(self, library: ctypes.CDLL, *, by_tiles: bool) -> None:
        self._attend, self._scratch_bytes = library.sidecar_attend, library.sidecar_attention_scratch_bytes
        self._attend.argtypes, self._attend.restype = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint), None
        self._scratch_bytes.argtypes, self._scratch_bytes.restype = (ctypes.c_int64, ctypes.c_int64), ctypes.c_int64
        self._parallel = ctypes.cast(ctypes.CDLL(None).GOMP_parallel, ctypes.c_void_p)
        library.sidecar_attention_task_bytes.restype = ctypes.c_int64
        if library.sidecar_attention_task_bytes() != ctypes.sizeof(_Attention):
            raise ValueError("compiled from another version of native_attention.c: install the package again")
        self.by_tiles = by_tiles and library.sidecar_request_tiles() == 0
        if by_tiles and not self.by_tiles:
            log.warning("amx_not_permitted", reason=os.strerror(ctypes.get_errno()), hint="by a sandbox, perhaps")

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, layout: Layout, scaling: float, *, first_only: bool
    ) -> Tensor:
        """See :func:`sidecar.scoring.attention.attend`: bfloat16, no padding, no window, ``scaling`` above 0."""
        query, key, value = (_contiguous_rows(rows) for rows in (query, key, value))
        out = torch.empty(query.shape, dtype=query.dtype)
        starts, lengths = layout.starts, np.array(layout.lengths, np.int64)
        (_, heads, head_size), longest, threads = query.shape, int(lengths.max()), torch.get_num_threads()
        scratch_bytes = threads * self._scratch_bytes(longest, head_size)
        scratch = torch.empty(scratch_bytes + _ALIGNMENT, dtype=torch.uint8)
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
            by_tiles=self.by_tiles,
            scale=scaling,
            scratch=-(-scratch.data_ptr() // _ALIGNMENT) * _ALIGNMENT,
        )
        self._attend(ctypes.byref(task), self._parallel, threads)
        out[len(lengths) if first_only else int(starts[-1]) :] = 0.0  # filler
        return out


def _contiguous_rows(rows: Tensor) -> Tensor:
    """(T, heads, head size), with heads and elements of a row contiguous."""
    return rows if rows.stride()[1:] == (rows.shape[2], 1) else rows.contiguous()


@cache
def kernel() -> Kernel | None:
    """The kernel, where this CPU has AVX-512 BF16, it was compiled, and it works; looked for once."""
    if not hardware.has_avx512_bf16():
        return None
    found = find_spec(_MODULE)
    if found is None or found.origin is None:
        log.info("native_attention_missing", hint="faster here with gcc 11, clang 12 or newer when it is installed")
        return None
    try:
        made = Kernel(ctypes.CDLL(found.origin, use_errno=True), by_tiles=hardware.has_amx())
        if _computes_rightly(made):
            return made
        why = "its numbers are wrong"
    except (AttributeError, OSError, ValueError) as error:
        why = str(error)
    log.warning("native_attention_unusable", file=found.origin, reason=why)
    return None


def _computes_rightly(made: Kernel) -> bool:
    """On a sample of two heads and two pairs, one shorter and one longer than a block."""
    layout = Layout.of([3, 40], torch.device("cpu"), "native")
    numbers = torch.arange(layout.tokens * 2 * _DEPTH, dtype=torch.float32).view(layout.tokens, 2, _DEPTH)
    rows = numbers.sin().bfloat16()
    got = made.attend(rows, rows, rows, layout, 1.0, first_only=False).float()
    pairs = [rows[start : start + length].float() for start, length in zip(layout.starts, layout.lengths, strict=False)]
    weights = [torch.einsum("qhd,khd->hqk", pair, pair).softmax(-1) for pair in pairs]
    want = [torch.einsum("hqk,khd->qhd", weight, pair) for weight, pair in zip(weights, pairs, strict=True)]
    return torch.allclose(got[: sum(layout.lengths)], torch.cat(want), atol=0.02)


def serves(device: torch.device, dtype: torch.dtype, head_size: int) -> bool:
    """Whether :func:`kernel` can compute such attention here."""
    return device.type == "cpu" and dtype == torch.bfloat16 and head_size % _DEPTH == 0 and kernel() is not None
