"""Attention of packed pairs, each to itself alone: one kernel for all on CUDA, pairs of one width at once on a CPU."""

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.nn import functional

from sidecar.scoring import hardware
from sidecar.scoring.layout import VECTOR, Layout, Run

_WIDEST = {torch.float32: 160, torch.bfloat16: 512 if hardware.has_bfloat16() else 0}
"""Pairs of more places than this are left to torch's kernel, which keeps their logits in the cache."""
_LOGITS_BYTES = 2 * 2**20
"""Logits of so many bytes are made at once, so that they are still in the cache when they are read."""
_MOST_PAIRS = 16


def attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, layout: Layout, scaling: float, window: int | None
) -> torch.Tensor:
    """What each token takes from the tokens of its own pair.

    Args:
        query: (T, heads, head size); or (rows of ``layout.first``, heads, head size) to ask for first tokens alone.
        key, value: (T, heads, head size).
        scaling: factor of the logits.
        window: transformers' ``sliding_window``: a token sees those less than so many places away; None: all.

    Returns:
        A tensor of the shape of ``query``.
    """
    kernel = _varlen if query.is_cuda and VARLEN else _by_width
    return kernel(query, key, value, layout, scaling, window)


@torch.inference_mode()
def prepare(heads: int, size: int, dtype: torch.dtype, tokens: int) -> None:
    """Have oneDNN make the products of a CPU's attention for up to ``tokens``, so that no call waits for that.

    Measured on two AVX-512 BF16 cores of an AMD EPYC with the bundled model: 0.2 s for 5,000 tokens.
    """
    for width in range(VECTOR, min(_WIDEST.get(dtype, 0), tokens) + 1, VECTOR):
        pairs = _at_once(heads * width**2 * dtype.itemsize)
        while pairs:
            if pairs * width <= tokens:
                layout = Layout.of([width] * pairs, torch.device("cpu"))
                rows = torch.zeros(layout.tokens, heads, size, dtype=dtype)
                attend(rows, rows, rows, layout, 1.0, None)
            pairs //= 2


def _by_width(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, layout: Layout, scaling: float, window: int | None
) -> torch.Tensor:
    """One call for each run of pairs of one width."""
    first_only, done = len(query) != len(key), 0
    out = torch.empty_like(query, memory_format=torch.contiguous_format)
    for run in layout.runs:
        each = 1 if first_only else run.width
        asking = slice(done, done + each * len(run.lengths))
        q = _by_pair(query[asking], each)
        k, v = _by_pair(key[run.places], run.width), _by_pair(value[run.places], run.width)
        into = _by_pair(out[asking], each)
        if window is None and not first_only and run.width <= _WIDEST.get(query.dtype, 0):
            _by_products(q, k, v, run, scaling, into)
        else:
            mask = run.mask(each, window, query.dtype)
            into.copy_(functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scaling))
        done = asking.stop
    out[done:] = 0.0
    return out


def _by_products(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, run: Run, scaling: float, into: torch.Tensor
) -> None:
    """Attention as its formula says, a few pairs at a time; all tensors of shape (pairs, heads, places, head size).

    torch's kernel goes through short pairs a head at a time: on two AVX-512 BF16 cores of an AMD EPYC, 16 pairs of 96
    tokens with 12 heads of 32 took it 5.4 ms in bfloat16, and 2.3 ms this way. The whole pass of the bundled model
    over 100 pairs of 85 tokens took 650 ms and 621 ms; with a busy neighbour on the two cores 1.20 s and 1.27 s, since
    there are more operations after which threads wait for each other.
    """
    heads, size = query.shape[1], query.shape[3]
    at_once = _at_once(heads * run.width**2 * query.element_size())
    scaled = query.new_empty(1, 1, 1)  # multiplied by 0, unread
    for pairs in _pieces(len(query), at_once):
        q, k, v = (part[pairs].reshape(-1, part.shape[2], size) for part in (query, key, value))
        logits = torch.baddbmm(scaled, q, k.mT, beta=0, alpha=scaling)  # (pairs * heads, queries, width)
        run.hide_padding(logits.view(-1, heads, *logits.shape[1:]), pairs)
        into[pairs] = torch.bmm(logits.softmax(-1), v).view(-1, heads, q.shape[1], size)


def _at_once(logits_bytes: int) -> int:
    """How many pairs with so many bytes of logits each: a power of two."""
    return 1 << (min(max(_LOGITS_BYTES // logits_bytes, 1), _MOST_PAIRS).bit_length() - 1)


def _pieces(count: int, most: int) -> Iterator[slice]:
    """``count`` neighbours in pieces of ``most`` and then of ever smaller powers of two, so that few shapes occur."""
    start = 0
    while start < count:
        while most > count - start:
            most //= 2
        yield slice(start, start + most)
        start += most


def _by_pair(rows: torch.Tensor, width: int) -> torch.Tensor:
    """(pairs * width, heads, head size) as (pairs, heads, width, head size)."""
    return rows.reshape(-1, width, *rows.shape[1:]).transpose(1, 2)


def _varlen(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, layout: Layout, scaling: float, window: int | None
) -> torch.Tensor:
    """One call of torch's kernel for all pairs; its window counts the places on either side."""
    assert VARLEN is not None
    longest, side = max(layout.lengths), -1 if window is None else window - 1
    asking, most = layout.bounds, longest
    if len(query) != len(key):
        asking, most = torch.arange(len(query) + 1, dtype=torch.int32, device=query.device), 1
    out: torch.Tensor = VARLEN(
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
