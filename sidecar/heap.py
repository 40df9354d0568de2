"""Returns memory that the C library keeps to the kernel."""

import ctypes


def trim() -> bool:
    """Return freed memory to the kernel; whether there was any (False without glibc).

    Loading and warming up the bundled model leaves 200 MiB behind, and each model that replaces another some tens of
    megabytes in the heap of the thread that loaded it.
    """
    give_back = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return bool(give_back(0)) if give_back else False
