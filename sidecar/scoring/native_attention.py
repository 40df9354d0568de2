"""Attention by our own kernel in ``native/``, without padding, on a CPU with AVX2 or AVX-512.

Building this package compiles it if there is a C compiler; without it, and on other CPUs, torch's attention is used.
Whole passes of the bundled model (torch 2.15, 100 pairs, medians by turns), by torch's attention and by this one; with
AMX by an earlier version, which multiplied one tile after the other:

| two cores of | 85 tokens, ms | 250 tokens, ms |
|---|---|---|
| an Intel Xeon with AMX, bfloat16 | 505, 376 | 1,411, 1,110 |
| an AMD EPYC, bfloat16 | 317, 224 | 1,087, 653 |
| the same, float32 | 596, 428 | 1,622, 1,251 |
| the same with AVX-512 hidden from all libraries, float32 | 1,020, 900 | 2,909, 2,624 |
"""

import ctypes
import os
import platform
import sys
from enum import IntEnum
from functools import cache
from importlib.util import find_spec

import numpy as np
import torch
from torch import Tensor

from sidecar.logs import log
from sidecar.scoring import hardware
from sidecar.scoring.layout import Layout

_MODULE = "sidecar.scoring._native_attention"
_VERSION = 1
"""VERSION of ``native/attention.h``: a library compiled from another one is refused."""
_ELEMENTS = {torch.bfloat16: 32, torch.float32: 8}
"""A head's size is a multiple of this: DEPTH of ``native/bfloat16.h``, GROUP of ``native/attention.h``."""
_NEAR = {torch.bfloat16: 0.02, torch.float32: 1e-5}
"""How far rounding may move a result of inputs between -1 and 1."""
_ALIGNMENT = 64


class Way(IntEnum):
    """Number type of the rows, and how they are multiplied: the names and numbers of ``native/attention.h``."""

    BY_TILES = 0
    BY_VECTORS = 1
    FLOAT32_AVX512 = 2
    FLOAT32_AVX2 = 3


class _Attention(ctypes.Structure):
    """``Attention`` of ``native/attention.h``: the same fields in the same order."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("query", "key", "value", "out")),
        *((f"{name}_stride", ctypes.c_int64) for name in ("query", "key", "value", "out")),
        *((name, ctypes.c_void_p) for name in ("starts", "lengths")),
        *((name, ctypes.c_int64) for name in ("pairs", "heads", "head_size", "longest", "first_only", "way")),
        ("scale", ctypes.c_float),
        ("scratch", ctypes.c_void_p),
        *((name, ctypes.c_longlong) for name in ("next_thread", "next_item")),
    )


class Kernel:
    """The compiled kernel, run by the OpenMP that torch itself uses: a second one would compete with it for the cores.

    If the operating system does not permit AMX tiles to this process, vectors are used instead.

    Raises:
        AttributeError: the library lacks a function of the kernel, or torch's OpenMP has no ``GOMP_parallel``.
        ValueError: the library was compiled from another version of its source.
    """

    def __init__(self, library: ctypes.CDLL, way: Way) -> None:
        self._attend, self._scratch_bytes = library.sidecar_attend, library.sidecar_attention_scratch_bytes
        self._attend.argtypes, self._attend.restype = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint), None
        self._scratch_bytes.argtypes, self._scratch_bytes.restype = (ctypes.c_int64,) * 3, ctypes.c_int64
        self._parallel = ctypes.cast(ctypes.CDLL(None).GOMP_parallel, ctypes.c_void_p)
        library.sidecar_attention_version.restype = library.sidecar_attention_task_bytes.restype = ctypes.c_int64
        made_of = library.sidecar_attention_version(), library.sidecar_attention_task_bytes()
        if made_of != (_VERSION, ctypes.sizeof(_Attention)):
            raise ValueError("compiled from another version of its source: install the package again")
        self.way = way
        if way is Way.BY_TILES and library.sidecar_request_tiles() != 0:
            log.warning("amx_not_permitted", reason=os.strerror(ctypes.get_errno()), hint="by a sandbox, perhaps")
            self.way = Way.BY_VECTORS

    @property
    def dtype(self) -> torch.dtype:
        """Number type of the rows."""
        return torch.bfloat16 if self.way in (Way.BY_TILES, Way.BY_VECTORS) else torch.float32

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, layout: Layout, scaling: float, *, first_only: bool
    ) -> Tensor:
        """See :func:`sidecar.scoring.attention.attend`; without padding or window, and with ``scaling`` above 0."""
        assert query.dtype == key.dtype == value.dtype == self.dtype
        query, key, value = (_contiguous_rows(rows) for rows in (query, key, value))
        out = torch.empty(query.shape, dtype=query.dtype)
        starts, lengths = layout.starts, np.array(layout.lengths, np.int64)
        (_, heads, head_size), longest, threads = query.shape, int(lengths.max()), torch.get_num_threads()
        scratch_bytes = threads * self._scratch_bytes(self.way, longest, head_size)
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
            way=self.way,
            scale=scaling,
            scratch=-(-scratch.data_ptr() // _ALIGNMENT) * _ALIGNMENT,
        )
        self._attend(ctypes.byref(task), self._parallel, threads)
        out[len(lengths) if first_only else int(starts[-1]) :] = 0.0  # filler
        return out


def _contiguous_rows(rows: Tensor) -> Tensor:
    """``rows`` (T, heads, head size), copied unless heads and elements of a row are contiguous."""
    return rows if rows.stride()[1:] == (rows.shape[2], 1) else rows.contiguous()


@cache
def kernel(dtype: torch.dtype) -> Kernel | None:
    """The kernel for rows of ``dtype``, looked for once; None if this CPU has no way, or it is missing or unusable."""
    way = _way(dtype)
    if way is None:
        return None
    found = find_spec(_MODULE)
    if found is None or found.origin is None:
        log.info("native_attention_missing", hint="faster here with gcc 11, clang 12 or newer when it is installed")
        return None
    try:
        made = Kernel(ctypes.CDLL(found.origin, use_errno=True), way)
        if _computes_rightly(made):
            return made
        why = "its numbers are wrong"
    except (AttributeError, OSError, ValueError) as error:
        why = str(error)
    log.warning("native_attention_unusable", file=found.origin, reason=why)
    return None


def _way(dtype: torch.dtype) -> Way | None:
    """The fastest way on this CPU for ``dtype``; None if there is none."""
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
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
