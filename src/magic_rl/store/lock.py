"""One process at a time in a directory: a lock that the operating system drops when its holder ends, killed or not."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from magic_rl.errors import UserError
from magic_rl.store import atomic

_NAME = ".lock"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Be the one process that writes in a directory.

    Raises:
        UserError: If another process holds the lock, or the directory is not writable.
    """
    path = folder / _NAME
    with atomic.writing(path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        with atomic.writing(path):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                holder = os.read(descriptor, 20).decode() or "?"
                raise UserError(f"{folder}: in use by process {holder}; wait for it or stop it") from error
            os.truncate(descriptor, 0)
            os.write(descriptor, str(os.getpid()).encode())
        yield
    finally:
        os.close(descriptor)


def is_locked(folder: Path) -> bool:
    """Whether a process that is alive holds the lock of a directory."""
    try:
        descriptor = os.open(folder / _NAME, os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
