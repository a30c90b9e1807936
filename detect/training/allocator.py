"""Keep freed memory in the process: training on a CPU then takes a third less time.

glibc's malloc takes every large tensor from the system and gives it back when it is freed, so each step faults in and clears
the same pages again. A training step of EfficientNet-Lite0 on 8 images of 320 x 320 spends 1.6 of 6.4 CPU seconds in the
system with malloc's defaults, and .1 of 3.8 without.
"""

from __future__ import annotations

import ctypes
import platform

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # malloc.h
LARGEST = 2**31 - 1
GROWTH = 2**28  # bytes that the heap grows by


def keep_freed_memory() -> bool:
    """Let malloc reuse large blocks instead of mapping each anew; False where the C library is not glibc.

    The process keeps the largest amount of memory that it has used.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    options = ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, LARGEST), (M_TOP_PAD, GROWTH))
    return all([mallopt(option, value) == 1 for option, value in options])
