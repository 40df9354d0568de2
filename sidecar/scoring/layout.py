"""The layout of packed pairs: end to end in one row of T places, each padded to whole vectors for torch on a CPU."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby
from operator import itemgetter
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from sidecar.scoring.failures import losses_told

VARLEN_ON = ("cuda",)
"""Types of devices on which attention is always ``varlen``."""
Kernel = Literal["varlen", "native", "by_width"]
"""What computes the attention of a row: see :mod:`sidecar.scoring.attention`."""
_STEPS = 8
"""A row for oneDNN is filled up to one of this many lengths between a power of two and the next."""
VECTOR = 16
"""A padded pair takes a multiple of this many places: torch's attention runs on whole vectors, and few shapes occur."""


@dataclass(frozen=True)
class Run:
    """Adjacent pairs of ``width`` places each, so that one call computes their attention."""

    start: int
    lengths: Sequence[int]
    """Tokens of each pair."""
    width: int
    masks: dict[int | None, torch.Tensor | None] = field(default_factory=dict)

    @property
    def places(self) -> slice:
        """The slice of the row that they take."""
        return slice(self.start, self.start + len(self.lengths) * self.width)

    def mask(self, queries: int, window: int | None, dtype: torch.dtype) -> torch.Tensor | None:
        """The mask added to attention logits on a CPU, (pairs, 1, queries, width); None if all tokens may be seen.

        ``queries`` is either ``width`` or 1, for the first token alone.
        """
        if window not in self.masks:
            self.masks[window] = self._mask(window, dtype)
        mask = self.masks[window]
        return None if mask is None else mask[:, :, :queries].expand(-1, -1, queries, -1)

    def _mask(self, window: int | None, dtype: torch.dtype) -> torch.Tensor | None:
        places = torch.arange(self.width)
        seen = (places < torch.tensor(self.lengths)[:, None])[:, None, None, :]
        if window is not None:
            seen = seen & ((places[:, None] - places).abs() < window)
        if bool(seen.all()):
            return None
        # A padding token that sees none would be NaN, and its NaN would spread: hence a finite number.
        return torch.zeros(seen.shape, dtype=dtype).masked_fill_(~seen, torch.finfo(dtype).min)


@dataclass
class Layout:
    """A row of pairs, each with its own places, followed by filler that belongs to no pair."""

    lengths: Sequence[int]
    """Tokens of each pair."""
    widths: Sequence[int]
    """Places of each pair: its tokens, and padding behind them."""
    device: torch.device
    tokens: int
    """T, filler counted."""
    kernel: Kernel = "by_width"
    """What the row is laid out for: ``varlen`` has neither padding nor filler, ``native`` no padding."""

    @classmethod
    def of(
        cls, lengths: Sequence[int], device: torch.device, on_cpu: Kernel = "by_width", *, any_length: bool = False
    ) -> "Layout":
        """The layout for ``varlen`` on CUDA, for ``on_cpu`` on a CPU; sorted lengths make for few runs of one width.

        With ``any_length`` a CPU's row is filled up to whole vectors alone, not to one of few lengths as oneDNN's
        products would need: see :func:`row_length`.
        """
        if device.type in VARLEN_ON:
            return cls(lengths, lengths, device, sum(lengths), "varlen")
        widths = lengths if on_cpu == "native" else [whole_vectors(length) for length in lengths]
        places = sum(widths)
        return cls(lengths, widths, device, whole_vectors(places) if any_length else row_length(places), on_cpu)

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """Place of each pair's first token, and where the last pair ends; shape (pairs + 1,)."""
        return np.cumsum([0, *self.widths], dtype=np.int64)

    @cached_property
    def bounds(self) -> torch.Tensor:
        """:attr:`starts` as int32 on the device, as kernels for rows without padding require."""
        return to_device(self.starts.astype(np.int32), self.device)

    @cached_property
    def first(self) -> torch.Tensor:
        """Place of each pair's first token, int64 on the device; on a CPU filled up with 0 to :func:`row_length`."""
        pairs = len(self.lengths)
        rows = pairs if self.kernel == "varlen" else row_length(pairs)
        return to_device(np.pad(self.starts[:-1], (0, rows - pairs)), self.device)

    @cached_property
    def runs(self) -> Sequence[Run]:
        """The row's runs of adjacent pairs of one width."""
        numbered = groupby(zip(self.widths, self.starts.tolist(), self.lengths, strict=False), itemgetter(0))
        return [
            Run(pairs[0][1], [length for _, _, length in pairs], width)
            for width, pairs in ((width, list(pairs)) for width, pairs in numbered)
        ]


def whole_vectors(tokens: int) -> int:
    """``tokens`` rounded up to a multiple of :data:`VECTOR`."""
    return -(-tokens // VECTOR) * VECTOR


def row_length(tokens: int) -> int:
    """The length that a row of ``tokens`` places is filled up to for oneDNN, so that few lengths occur.

    It adds at most 15 places or 1/8, whichever is more. oneDNN builds a matrix product for each number of rows and
    keeps it: a pass of the bundled model in bfloat16 took 103 ms on two AMX cores at a length never seen, 67 ms at one
    seen before.

    >>> [row_length(tokens) for tokens in (1, 17, 300, 2400)]
    [16, 32, 320, 2560]
    """
    step = max(VECTOR, (1 << (tokens - 1).bit_length()) // (2 * _STEPS))
    return -(-tokens // step) * step


def row_lengths(longest: int) -> list[int]:
    """The lengths that rows of up to ``longest`` places are filled up to on a CPU, ascending.

    >>> row_lengths(100)
    [16, 32, 48, 64, 80, 96, 112]
    """
    return sorted({row_length(tokens) for tokens in range(1, longest + 1)})


def to_device(array: NDArray[np.generic], device: torch.device) -> torch.Tensor:
    """The array as a tensor on ``device``; to CUDA from pinned memory, so that the copy delays no kernel launch."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def to_host(rows: torch.Tensor) -> Callable[[], NDArray[np.float32]]:
    """A function that waits for a float32 tensor's copy on the host and returns it; on CUDA the copy starts here."""
    if rows.device.type != "cuda":
        return rows.numpy
    copy = torch.empty(rows.shape, dtype=rows.dtype, pin_memory=True)
    copy.copy_(rows, non_blocking=True)
    arrived = torch.cuda.Event(blocking=True)  # a wait that leaves the CPU to others
    arrived.record(torch.cuda.current_stream(rows.device))

    def wait() -> NDArray[np.float32]:
        with losses_told(rows.device):
            arrived.synchronize()
        return copy.numpy().copy()

    return wait
