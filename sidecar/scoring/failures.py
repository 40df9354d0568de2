"""What a failed pass says of the device."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from sidecar.scoring.base import DeviceLost

_ACCELERATOR_ERROR: type[RuntimeError] | tuple[()] = getattr(torch, "AcceleratorError", ())
"""Of CUDA itself; torch has a class for it from 2.8 on."""


def is_out_of_memory(error: Exception) -> bool:
    """Whether a pass failed for want of memory. CUDA has a class for it; the CPU's allocator says it in words only."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(
        said in str(error) for said in ("DefaultCPUAllocator", "CUDA error: out of memory")
    )


@contextmanager
def losses_told() -> Iterator[None]:
    """Raises :class:`~sidecar.scoring.base.DeviceLost` in place of an error of CUDA itself: after an assertion in a
    kernel, an illegal access, a card that fell off the bus, no call of this process comes through any more."""
    try:
        yield
    except _ACCELERATOR_ERROR as error:
        if is_out_of_memory(error):
            raise
        raise DeviceLost(str(error).split("\n")[0]) from error
