"""A forward pass without padding: pairs packed end to end in one row of T tokens, each seeing only its own.

What works token by token (embeddings, linear layers, norms) runs on the row as it is. Attention is told where the pairs
begin, through transformers' attention interface; position ids restart at each pair; the head reads the first token, or
the mean, of each pair. Scores are those of the padded pass within rounding.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby
from operator import itemgetter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional
from transformers import AttentionInterface, PreTrainedModel

from sidecar.scoring.base import Pair

IMPLEMENTATION = "sidecar_packed"
"""Name of the attention in transformers' registry."""

_STEPS = 16
"""A CPU's row is filled up to one of so many lengths between a power of two and the next."""
_WIDTH = 16
"""On a CPU the attention of a pair is padded to a multiple of so many tokens: whole vectors, and fewer shapes."""


@dataclass(frozen=True)
class Run:
    """Neighbours in the row whose attention is computed in one call, ``width`` tokens each."""

    lengths: Sequence[int]
    width: int
    masks: dict[int | None, torch.Tensor | None] = field(default_factory=dict)

    def mask(self, window: int | None, dtype: torch.dtype, device: torch.device) -> torch.Tensor | None:
        """What is added to the attention's logits, of shape (pairs, 1, width, width); None where all may be seen."""
        if window not in self.masks:
            self.masks[window] = self._mask(window, dtype, device)
        return self.masks[window]

    def _mask(self, window: int | None, dtype: torch.dtype, device: torch.device) -> torch.Tensor | None:
        places = torch.arange(self.width, device=device)
        seen = (places < torch.tensor(self.lengths, device=device)[:, None])[:, None, None, :]
        if window is not None:
            seen = seen & ((places[:, None] - places).abs() < window)
        if bool(seen.all()):
            return None
        # A padding token that sees none would be NaN, and its NaN would spread: hence a finite number.
        hidden = torch.zeros(seen.shape, dtype=dtype, device=device).masked_fill_(~seen, torch.finfo(dtype).min)
        return hidden.expand(-1, 1, self.width, self.width)


@dataclass
class Layout:
    """Where the pairs lie in the row, shortest first."""

    lengths: Sequence[int]
    """Tokens of each pair."""
    bounds: torch.Tensor
    """int32 of shape (pairs + 1,), on the model's device: where each pair begins, and where the last one ends."""
    filler: int = 0
    """Tokens behind the last pair that belong to none."""

    @property
    def first(self) -> torch.Tensor:
        """Place of each pair's first token, int32 of shape (pairs,)."""
        return self.bounds[:-1]

    @cached_property
    def padded(self) -> tuple[list[Run], torch.Tensor, torch.Tensor]:
        """The row with each pair padded to its width: its runs, which place of the row stands at each of its places,
        and at which of its places each place of the row stands; int64 both."""
        widths = [-(-length // _WIDTH) * _WIDTH for length in self.lengths]
        runs = [
            Run([length for length, _ in run], width)
            for width, run in groupby(zip(self.lengths, widths, strict=True), itemgetter(1))
        ]
        lengths, ends = np.array(self.lengths), np.cumsum(widths)
        kept = np.arange(lengths.sum()) + np.repeat(ends - widths - (np.cumsum(lengths) - lengths), lengths)
        places = np.zeros(ends[-1], np.int64)
        places[kept] = np.arange(len(kept))
        kept = np.append(kept, np.zeros(self.filler, np.int64))  # a filler's attention is anything that is finite
        device = self.bounds.device
        return runs, torch.from_numpy(places).to(device), torch.from_numpy(kept).to(device)


Head = Callable[[Any, torch.Tensor, Layout], torch.Tensor]
"""From (model, hidden states of shape (T, hidden), layout) to logits of shape (pairs, labels)."""


def _pooler(base: str) -> Head:
    return lambda model, hidden, layout: model.classifier(getattr(model, base).pooler(hidden[layout.first, None]))


def _first_token(model: Any, hidden: torch.Tensor, layout: Layout) -> torch.Tensor:
    logits: torch.Tensor = model.classifier(hidden[layout.first, None])
    return logits


def _modernbert(model: Any, hidden: torch.Tensor, layout: Layout) -> torch.Tensor:
    pooled = hidden[layout.first]
    if model.config.classifier_pooling == "mean":
        pooled = torch.stack([pair.mean(0) for pair in torch.split(hidden, list(layout.lengths))])
    logits: torch.Tensor = model.classifier(model.head(pooled))
    return logits


HEADS: dict[str, Head] = {
    "bert": _pooler("bert"),
    "camembert": _first_token,
    "electra": _first_token,
    "modernbert": _modernbert,
    "roberta": _first_token,
    "xlm-roberta": _first_token,
}
"""How each family that can be packed reads its scores, by ``config.model_type``."""
_NUMBERED_FROM_PADDING = {"camembert", "roberta", "xlm-roberta"}
"""Families whose positions begin behind the padding's own id, and which take a padding token inside a text for none."""


def can_pack(model: PreTrainedModel) -> bool:
    """Whether this model, on its device and in its number type, has a way to be packed."""
    if model.config.model_type not in HEADS or getattr(model.config, "is_decoder", False):
        return False
    return model.device.type == "cpu" or (
        model.device.type == "cuda" and _VARLEN is not None and model.dtype in (torch.bfloat16, torch.float16)
    )


class PackedModel:
    """Runs a model on packed pairs. The model's attention is switched for good: it can only be run packed from then on.

    Raises:
        Exception: whatever transformers raises where this version of it has no attention interface for the model.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        AttentionInterface.register(IMPLEMENTATION, _attention)
        model.set_attn_implementation(IMPLEMENTATION)
        self._model = model
        self._head = HEADS[model.config.model_type]
        base = model.base_model
        self._takes_types = "token_type_ids" in inspect.signature(base.forward).parameters
        numbered = model.config.model_type in _NUMBERED_FROM_PADDING
        self._padding_id = int(model.config.pad_token_id) if numbered else None

    def logits(self, pairs: Sequence[Pair]) -> torch.Tensor:
        """Logits of shape (pairs, labels) in the order of ``pairs``, on the model's device."""
        order = sorted(range(len(pairs)), key=lambda place: pairs[place].tokens)
        packed = [pairs[place] for place in order]
        inputs, layout = self._packed(packed)
        hidden = self._model.base_model(**inputs, packing=layout).last_hidden_state[0]  # (T, hidden)
        hidden = hidden[: sum(layout.lengths)]
        logits = self._head(self._model, hidden, layout)  # (pairs, labels)
        return logits[torch.from_numpy(np.argsort(order)).to(logits.device)]

    def _packed(self, pairs: Sequence[Pair]) -> tuple[dict[str, torch.Tensor], Layout]:
        """Inputs of shape (1, T), int64, in one copy to the device, and where the pairs lie in them."""
        lengths = [pair.tokens for pair in pairs]
        rows = {
            "input_ids": np.concatenate([np.asarray(pair.input_ids, np.int64) for pair in pairs]),
            "position_ids": np.concatenate([self._positions(pair) for pair in pairs]),
        }
        if self._takes_types:
            types = [pair.token_type_ids for pair in pairs]
            rows["token_type_ids"] = np.concatenate(
                [
                    np.zeros(length, np.int64) if ids is None else np.asarray(ids, np.int64)
                    for length, ids in zip(lengths, types, strict=True)
                ]
            )
        tokens = sum(lengths)
        filler = 0 if self._model.device.type == "cuda" else row_length(tokens) - tokens
        table = self._on_device(np.pad(np.stack(list(rows.values())), ((0, 0), (0, filler))))
        bounds = self._on_device(np.cumsum([0, *lengths], dtype=np.int32))
        return dict(zip(rows, table[:, None], strict=True)), Layout(lengths, bounds, filler)

    def _positions(self, pair: Pair) -> NDArray[np.int64]:
        if self._padding_id is None:
            return np.arange(pair.tokens, dtype=np.int64)
        counts = np.asarray(np.asarray(pair.input_ids) != self._padding_id, np.int64)
        return np.asarray(np.cumsum(counts) * counts + self._padding_id, np.int64)

    def _on_device(self, array: NDArray[Any]) -> torch.Tensor:
        return to_device(array, self._model.device)


def row_length(tokens: int) -> int:
    """The length that a row of so many tokens is filled up to on a CPU, at most 1/16 more, so that few lengths occur.

    oneDNN makes a matrix product anew for each number of rows and keeps it: on two AMX cores the three products of a
    layer of the bundled model took 17 ms in bfloat16 at a length never seen, 5 ms at one seen before.

    >>> [row_length(tokens) for tokens in (1, 17, 300, 2400)]
    [16, 32, 304, 2432]
    """
    step = max(_STEPS, (1 << (tokens - 1).bit_length()) // (2 * _STEPS))
    return -(-tokens // step) * step


def to_device(array: NDArray[Any], device: torch.device) -> torch.Tensor:
    """The array as a tensor; to CUDA from pinned memory, so that the copy does not hold up the kernels' launches."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def _attention(
    _module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    _attention_mask: torch.Tensor | None,
    *,
    packing: Layout,
    scaling: float,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of each pair to itself; query, key and value of shape (1, heads, T, head size).

    ``sliding_window`` is transformers': a token sees those less than so many places away.

    Returns:
        A tensor of shape (1, T, heads, head size), and no attention weights.
    """
    kernel = _varlen if query.is_cuda and _VARLEN else _by_length
    return kernel(query, key, value, packing, scaling, sliding_window), None


def _by_length(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, packing: Layout, scaling: float, window: int | None
) -> torch.Tensor:
    """One call for each run of pairs of about equal length, padded for this step alone.

    Measured on a Xeon with AMX in bfloat16, 16 pairs, one thread: 2.9 ms for 73 tokens each, 1.7 ms padded to 80.
    """
    heads, size = query.shape[1], query.shape[3]
    runs, places, kept = packing.padded
    spread = (tensor[0].transpose(0, 1).flatten(1).index_select(0, places) for tensor in (query, key, value))
    sizes = [len(run.lengths) * run.width for run in runs]
    parts = []
    for run, *rows in zip(runs, *(torch.split(tensor, sizes) for tensor in spread), strict=True):
        q, k, v = (row.view(-1, run.width, heads, size).transpose(1, 2) for row in rows)  # (pairs, heads, width, size)
        mask = run.mask(window, query.dtype, query.device)
        out = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scaling)
        parts.append(out.transpose(1, 2).flatten(0, 1))  # (pairs * width, heads, size)
    return torch.cat(parts).flatten(1).index_select(0, kept).view(1, -1, heads, size)


def _varlen(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, packing: Layout, scaling: float, window: int | None
) -> torch.Tensor:
    """One call of torch's kernel for all pairs; its window counts the places on either side."""
    assert _VARLEN is not None
    rows = (tensor[0].transpose(0, 1) for tensor in (query, key, value))  # (T, heads, head size)
    longest, side = max(packing.lengths), -1 if window is None else window - 1
    out: torch.Tensor = _VARLEN(
        *rows, packing.bounds, packing.bounds, longest, longest, scale=scaling, window_size=(side, side)
    )
    return out[None]


def _varlen_of_torch() -> Callable[..., Any] | None:
    """``torch.nn.attention.varlen.varlen_attn``, where this torch has it with the arguments that are needed."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return varlen_attn if {"scale", "window_size"} <= set(inspect.signature(varlen_attn).parameters) else None


_VARLEN = _varlen_of_torch()
