"""What a failed pass says of the device."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from sidecar.scoring.base import DeviceLost

_OF_CUDA_ITSELF = "CUDA error:"
"""How their text begins; a class for them has torch only from 2.8 on."""


def is_out_of_memory(error: Exception) -> bool:
    """Whether a pass failed for want of memory. CUDA has a class for it; the CPU's allocator says it in words only."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(
        said in str(error)
        for said in ("DefaultCPUAllocator", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
    )


@contextmanager
def losses_told(device: torch.device) -> Iterator[None]:
    """Raises :class:`~sidecar.scoring.base.DeviceLost` in place of an error of CUDA itself after which ``device`` does
    nothing more: an assertion in a kernel, an illegal access, a card that fell off the bus. Other errors pass."""
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith(_OF_CUDA_ITSELF) or is_out_of_memory(error) or _still_works(device):
            raise
        raise DeviceLost(str(error).split("\n")[0]) from error


def _still_works(device: torch.device) -> bool:
    """Whether a trifle comes through on this card, be others well or not: after some errors, such as a launch with too
    large a grid, all goes on."""
    try:
        torch.cuda.synchronize(device)
        return bool((torch.ones(2, device=device) + 1).sum().item() == 4)
    except (RuntimeError, AssertionError):  # the latter where torch was built without CUDA
        return False
