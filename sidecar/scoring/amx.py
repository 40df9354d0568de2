"""Attention by the kernel of ``amx.c``, on a CPU with AMX: pairs need no padding, and the softmax takes half as long.

Building this package compiles it, where there is a C compiler; without, and on other CPUs, torch's kernel serves.
Measured on two AMX cores, bundled model in bfloat16, 100 pairs, by turns: 85 tokens 396 ms by torch's kernel, 309 ms by
this one; 250 tokens 1,045 ms and 897 ms.
"""

import ctypes
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch

from sidecar.logs import log
from sidecar.scoring import hardware
from sidecar.scoring.layout import Layout

_MODULE = "sidecar.scoring._amx"
_DEPTH = 32
"""Elements in a row of a tile: a head has a multiple of them."""


class _Attention(ctypes.Structure):
    """``Attention`` of ``amx.c``."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("query", "key", "value", "out")),
        *((f"{name}_stride", ctypes.c_int64) for name in ("query", "key", "value", "out")),
        *((name, ctypes.c_void_p) for name in ("starts", "lengths")),
        *((name, ctypes.c_int64) for name in ("pairs", "heads", "size", "longest", "first_only")),
        ("scale", ctypes.c_float),
        ("memory", ctypes.c_void_p),
        *((name, ctypes.c_longlong) for name in ("threads", "taken")),
    )


class Kernel:
    """The compiled kernel, and the OpenMP that torch itself uses: a second one would fight it for the cores."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._attend, self._bytes = library.sidecar_amx_attend, library.sidecar_amx_bytes
        self._attend.argtypes, self._attend.restype = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint), None
        self._bytes.argtypes, self._bytes.restype = (ctypes.c_int64, ctypes.c_int64), ctypes.c_int64
        self._parallel = ctypes.cast(ctypes.CDLL(None).GOMP_parallel, ctypes.c_void_p)

    def attend(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        layout: Layout,
        scaling: float,
        *,
        first_only: bool,
    ) -> torch.Tensor:
        """See :func:`sidecar.scoring.attention.attend`; bfloat16, of a layout without padding and without a window."""
        query, key, value = (_by_token(rows) for rows in (query, key, value))
        out = torch.empty(query.shape, dtype=query.dtype)
        _, heads, size = query.shape
        threads, longest, pairs = torch.get_num_threads(), int(max(layout.lengths)), len(layout.lengths)
        memory = torch.empty(threads * self._bytes(longest, size), dtype=torch.uint8)  # torch aligns it to 64 bytes
        task = _Attention(
            *(rows.data_ptr() for rows in (query, key, value, out)),
            *(rows.stride(0) for rows in (query, key, value, out)),
            layout.starts.ctypes.data,
            layout.sizes.ctypes.data,
            *(pairs, heads, size, longest, first_only),
            scaling,
            memory.data_ptr(),
        )
        self._attend(ctypes.byref(task), self._parallel, threads)
        out[pairs if first_only else int(layout.starts[-1]) :] = 0.0  # filler
        return out


def _by_token(rows: torch.Tensor) -> torch.Tensor:
    """(T, heads, head size), with what a token has of it lying together."""
    return rows if rows.stride()[1:] == (rows.shape[2], 1) else rows.contiguous()


@cache
def kernel() -> Kernel | None:
    """The kernel, where this CPU has AMX, this process may use it, and it was compiled; looked for once."""
    if not hardware.has_amx():
        return None
    found = find_spec(_MODULE)
    if found is None or found.origin is None:
        log.info("amx_kernel_missing", hint="a C compiler at hand when this package is installed makes it faster here")
        return None
    try:
        library: Any = ctypes.CDLL(found.origin)
        return Kernel(library) if library.sidecar_amx_permitted() else None
    except (AttributeError, OSError) as error:  # not what was compiled, or torch runs with another OpenMP
        log.warning("amx_kernel_unusable", file=found.origin, reason=str(error))
        return None


def serves(device: torch.device, dtype: torch.dtype, head_size: int) -> bool:
    """Whether :func:`kernel` can compute such attention here."""
    return device.type == "cpu" and dtype == torch.bfloat16 and head_size % _DEPTH == 0 and kernel() is not None
