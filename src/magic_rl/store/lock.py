"""One writer per directory: a lock that the operating system releases when its holder ends, even if it is killed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from magic_rl.errors import StoreError
from magic_rl.store import atomic

_NAME = ".lock"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a directory's lock, so that no other process writes in it.

    Raises:
        StoreError: If there is no such directory, another process holds its lock, or it is not writable.
    """
    if not folder.is_dir():  # FileLock would create it
        raise StoreError(f"{folder}: no such directory")
    path = folder / _NAME
    lock = FileLock(path, timeout=0)
    with atomic.writing(path):
        try:
            lock.acquire()
        except Timeout as error:
            holder = "another process"
            with suppress(OSError, ValueError):  # on some systems only the holder can read a locked file
                holder = f"process {int(path.read_text())}"
            raise StoreError(f"{folder}: in use by {holder}; wait for it or stop it") from error
    try:
        with suppress(OSError):
            path.write_text(str(os.getpid()))
        yield
    finally:
        lock.release()


def is_locked(folder: Path) -> bool:
    """Whether a living process holds a directory's lock."""
    try:
        with FileLock(folder / _NAME, timeout=0) if (folder / _NAME).exists() else nullcontext():
            return False
    except OSError as error:
        return isinstance(error, Timeout)
