"""What a failed forward pass says about the device."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from sidecar.scoring.base import DeviceLost

_OF_CUDA_ITSELF = "CUDA error:"
"""How the text of CUDA's own errors begins; torch has a class for them only since 2.8."""


def is_out_of_memory(error: Exception) -> bool:
    """Whether a pass failed for want of memory; CUDA has a class for that, the CPU's allocator only a message."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(
        said in str(error)
        for said in ("DefaultCPUAllocator", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
    )


@contextmanager
def losses_told(device: torch.device) -> Iterator[None]:
    """Turn a CUDA error after which ``device`` no longer works into :class:`~sidecar.scoring.base.DeviceLost`.

    Such errors are an assertion in a kernel, an illegal access, a card that fell off the bus. Others are raised as is.
    """
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith(_OF_CUDA_ITSELF) or is_out_of_memory(error) or _still_works(device):
            raise
        raise DeviceLost(str(error).split("\n")[0]) from error


def _still_works(device: torch.device) -> bool:
    """Whether a tiny computation succeeds on this card, whatever the state of others.

    After some errors, such as a launch with too large a grid, the device still works.
    """
    try:
        torch.cuda.synchronize(device)
        return bool((torch.ones(2, device=device) + 1).sum().item() == 4)
    except (RuntimeError, AssertionError):  # the latter where torch was built without CUDA
        return False
