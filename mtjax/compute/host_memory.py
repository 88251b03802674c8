"""The host's memory allocator."""

import ctypes
import os

KEPT_BYTES = 1 << 30
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of <malloc.h>


def keep_freed() -> None:
    """Tells glibc's allocator to keep up to `KEPT_BYTES` of what is freed; elsewhere, or where the user has set it up, nothing.

    XLA asks for a step's temporary memory anew at each step. Handed back in between, the kernel clears every page of it each
    time, a fifth of the step of a small 3D network on a CPU (docs/benchmarks.md).
    """
    if "malloc" in os.environ.get("GLIBC_TUNABLES", "") or any(name.startswith("MALLOC_") for name in os.environ):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, TypeError, AttributeError):  # not on Linux, or another C library
        return
    mallopt(M_MMAP_THRESHOLD, KEPT_BYTES)
    mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
