"""How the C library handles freed memory.

A pass allocates and frees the same large tensors again and again. By default glibc returns such memory to the system at
once, and the system hands it out again page by page, filled with zeros. That costs a tenth of a learning pass on a CPU.
"""

from __future__ import annotations

import ctypes
import platform

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # mallopt(3)
_LARGE = 16 << 20  # bytes; larger blocks are few, and go back to the system


def keep_freed_memory() -> None:
    """Keep freed memory in this process for later allocations. Does nothing without glibc."""
    if libc := _glibc():
        libc.mallopt(_MMAP_THRESHOLD, _LARGE)
        libc.mallopt(_TRIM_THRESHOLD, 2**31 - 1)
        libc.mallopt(_ARENA_MAX, 1)  # so that backward, in a thread of its own, reuses forward's memory


def give_back_freed_memory() -> None:
    """Return kept memory to the system, before work that allocates other sizes, for which it would fit badly."""
    if libc := _glibc():
        libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None
