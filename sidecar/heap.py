"""Returns memory that the C library keeps to the kernel."""

import ctypes


def trim() -> bool:
    """Return freed memory to the kernel; whether there was any (False without glibc).

    Without it each model that replaces another leaves some tens of megabytes in the heap of the thread that loaded it.
    """
    give_back = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return bool(give_back(0)) if give_back else False
