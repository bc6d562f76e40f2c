"""What the C library does with memory that is given back.

A pass allocates and frees the same large tensors again and again. By default glibc returns such memory to the system
at once, which hands it out again page by page, each filled with zeros: a tenth of a learning pass on a CPU.
"""

from __future__ import annotations

import ctypes
import platform

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # mallopt(3)
_LARGE = 16 << 20  # bytes; larger blocks are few, and go back to the system


def keep_freed_memory() -> None:
    """Let freed memory stay with this process for its next allocations; nothing happens without glibc."""
    if libc := _glibc():
        libc.mallopt(_MMAP_THRESHOLD, _LARGE)
        libc.mallopt(_TRIM_THRESHOLD, 2**31 - 1)
        libc.mallopt(_ARENA_MAX, 1)  # a backward pass has a thread of its own, but is to reuse what forward gave back


def give_back_freed_memory() -> None:
    """Return what has been kept to the system, before work that allocates in other sizes: it would fit in badly."""
    if libc := _glibc():
        libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None
