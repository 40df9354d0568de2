"""Unit tests keep what the log says, as fault tests do: printing it, tracebacks and all, would take their time."""

from typing import Any

import pytest
import torch

from sidecar.scoring import attention
from tests.faults.conftest import logged as logged


def varlen(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    asking: torch.Tensor,
    bounds: torch.Tensor,
    most_asking: int,
    longest: int,
    *,
    scale: float,
    window_size: tuple[int, int],
) -> torch.Tensor:
    """What ``torch.nn.attention.varlen.varlen_attn`` computes, with one mask over the whole row.

    ``asking`` and ``bounds`` are the cumulated lengths of queries and keys; a window counts places to the left and to
    the right, and -1 stands for all of them.
    """
    assert (asking.dtype, bounds.dtype) == (torch.int32, torch.int32)
    assert (int(asking.diff().max()), int(bounds.diff().max())) == (most_asking, longest)
    assert (int(asking[-1]), int(bounds[-1])) == (len(query), len(key))
    of_query, of_key = (torch.repeat_interleave(torch.arange(len(ends) - 1), ends.diff()) for ends in (asking, bounds))
    ahead = (torch.arange(len(key)) - bounds[of_key]) - (torch.arange(len(query)) - asking[of_query])[:, None]
    seen = of_query[:, None] == of_key
    left, right = window_size
    if left >= 0:
        seen &= ahead >= -left
    if right >= 0:
        seen &= ahead <= right
    logits = torch.einsum("qhd,khd->hqk", query, key) * scale
    return torch.einsum("hqk,khd->qhd", logits.masked_fill(~seen, -torch.inf).softmax(-1), value)


@pytest.fixture
def like_cuda(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Rows without padding and their kernel, on a CPU; the list fills with the window of each call."""
    windows: list[tuple[int, int]] = []

    def kernel(*positional: Any, **named: Any) -> torch.Tensor:
        windows.append(named["window_size"])
        return varlen(*positional, **named)

    monkeypatch.setattr("sidecar.scoring.layout.VARLEN_ON", ("cpu",))
    monkeypatch.setattr(attention, "VARLEN", kernel)
    return windows
