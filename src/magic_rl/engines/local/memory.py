"""What the C library does with memory that is given back.

A pass allocates and frees the same large tensors again and again. By default glibc returns such memory to the system
at once, which hands it out anew page by page, each filled with zeros: a tenth of a learning pass on a CPU.
"""

from __future__ import annotations

import ctypes
import platform

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # mallopt(3)
_LARGE = 1 << 30  # bytes; larger blocks still go back to the system


def keep_freed_memory() -> None:
    """Let freed memory stay with this process for its next allocations; nothing happens without glibc."""
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_MMAP_THRESHOLD, _LARGE)
        libc.mallopt(_TRIM_THRESHOLD, 2**31 - 1)
