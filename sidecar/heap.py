"""Memory that the C library keeps."""

import ctypes


def trim() -> bool:
    """Give what is freed back to the kernel; whether there was any (glibc only). Without it each model that takes the
    place of another one leaves some tens of megabytes behind in the heap of the thread that has loaded it."""
    give_back = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return bool(give_back(0)) if give_back else False
