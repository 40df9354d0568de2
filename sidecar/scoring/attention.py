"""Attention of packed pairs, each within itself: one kernel call for all pairs, or one call for each width."""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from sidecar.scoring import native_attention
from sidecar.scoring.layout import Layout


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: Layout,
    scaling: float,
    window: int | None = None,
    *,
    first_only: bool = False,
) -> Tensor:
    """Compute attention of each token over the tokens of its own pair.

    Args:
        query: (T, heads, head size); with ``first_only`` (rows of ``layout.first``, heads, head size).
        key, value: (T, heads, head size).
        scaling: factor of the logits.
        window: transformers' ``sliding_window``: a token attends to tokens less than this many places away; None: to
            all. Must be None for a ``native`` layout.
        first_only: whether only the first token of each pair is a query.

    Returns:
        A tensor of the shape of ``query``.
    """
    kernel = {"varlen": _varlen, "native": _native, "by_width": _by_width}[layout.kernel]
    return kernel(query, key, value, layout, scaling, window, first_only)


def _by_width(
    query: Tensor, key: Tensor, value: Tensor, layout: Layout, scaling: float, window: int | None, first_only: bool
) -> Tensor:
    """Call torch's attention once for each run of pairs of one width."""
    done = 0
    out = torch.empty_like(query, memory_format=torch.contiguous_format)
    for run in layout.runs:
        each = 1 if first_only else run.width
        asking = slice(done, done + each * len(run.lengths))
        q = _by_pair(query[asking], each)
        k, v = _by_pair(key[run.places], run.width), _by_pair(value[run.places], run.width)
        into = _by_pair(out[asking], each)
        mask = run.mask(each, window, query.dtype)
        into.copy_(functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scaling))
        done = asking.stop
    out[done:] = 0.0
    return out


def _by_pair(rows: Tensor, width: int) -> Tensor:
    """Reshape (pairs * width, heads, head size) to (pairs, heads, width, head size)."""
    return rows.reshape(-1, width, *rows.shape[1:]).transpose(1, 2)


def _native(
    query: Tensor, key: Tensor, value: Tensor, layout: Layout, scaling: float, window: int | None, first_only: bool
) -> Tensor:
    """Call our own kernel once for all pairs."""
    kernel = native_attention.kernel(query.dtype)
    assert kernel is not None
    assert window is None
    return kernel.attend(query, key, value, layout, scaling, first_only=first_only)


def _varlen(
    query: Tensor, key: Tensor, value: Tensor, layout: Layout, scaling: float, window: int | None, first_only: bool
) -> Tensor:
    """Call torch's kernel once for all pairs; its window counts the places on each side."""
    assert VARLEN is not None
    longest, side = max(layout.lengths), -1 if window is None else window - 1
    asking, most = layout.bounds, longest
    if first_only:
        asking, most = torch.arange(len(query) + 1, dtype=torch.int32, device=query.device), 1
    out: Tensor = VARLEN(
        query, key, value, asking, layout.bounds, most, longest, scale=scaling, window_size=(side, side)
    )
    return out


def _varlen_of_torch() -> Callable[..., Any] | None:
    """``torch.nn.attention.varlen.varlen_attn``; None if this torch lacks it or the arguments needed here."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return varlen_attn if {"scale", "window_size"} <= set(inspect.signature(varlen_attn).parameters) else None


VARLEN = _varlen_of_torch()
