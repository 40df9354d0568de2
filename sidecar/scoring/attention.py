"""Attention of packed pairs, each to itself alone: by a kernel for all of them at once, else one width at once."""

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
    """What each token takes from the tokens of its own pair.

    Args:
        query: (T, heads, head size); with ``first_only`` (rows of ``layout.first``, heads, head size).
        key, value: (T, heads, head size).
        scaling: factor of the logits.
        window: transformers' ``sliding_window``: a token sees those less than so many places away; None: all. Not for
            a layout of ``native``.
        first_only: whether only the first token of each pair asks.

    Returns:
        A tensor of the shape of ``query``.
    """
    kernel = {"varlen": _varlen, "native": _native, "by_width": _by_width}[layout.kernel]
    return kernel(query, key, value, layout, scaling, window, first_only)


def _by_width(
    query: Tensor, key: Tensor, value: Tensor, layout: Layout, scaling: float, window: int | None, first_only: bool
) -> Tensor:
    """One call for each run of pairs of one width."""
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
    """(pairs * width, heads, head size) as (pairs, heads, width, head size)."""
    return rows.reshape(-1, width, *rows.shape[1:]).transpose(1, 2)


def _native(
    query: Tensor, key: Tensor, value: Tensor, layout: Layout, scaling: float, window: int | None, first_only: bool
) -> Tensor:
    """Our own kernel, for all pairs."""
    kernel = native_attention.kernel(query.dtype)
    assert kernel is not None
    assert window is None
    return kernel.attend(query, key, value, layout, scaling, first_only=first_only)


def _varlen(
    query: Tensor, key: Tensor, value: Tensor, layout: Layout, scaling: float, window: int | None, first_only: bool
) -> Tensor:
    """One call of torch's kernel for all pairs; its window counts the places on either side."""
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
    """``torch.nn.attention.varlen.varlen_attn``, where this torch has it with the arguments that are needed."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return varlen_attn if {"scale", "window_size"} <= set(inspect.signature(varlen_attn).parameters) else None


VARLEN = _varlen_of_torch()
