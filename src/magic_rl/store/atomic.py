"""Atomic writes: even after a kill at any instant, a file or folder is there completely or not at all.

What is being written or removed lies beside its target, under a name that begins with `.tmp-`. New content is synced
to the disk and then renamed, so the worst that a kill can leave is such a leftover, which `clean` removes.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import Field, asdict
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

from magic_rl.errors import StoreError
from magic_rl.files import disk_full

_PREFIX = ".tmp-"


class _Dataclass(Protocol):
    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]


def write_file(path: Path, data: bytes) -> None:
    """Write a file, replacing what was there.

    Raises:
        StoreError: If the disk is full or the place is not writable; the old file is then untouched.
    """
    aside = _aside(path)
    with writing(path):
        try:
            with aside.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)
        sync(path.parent)


def write_rows(path: Path, rows: Iterable[_Dataclass]) -> None:
    """Write dataclasses as lines of JSON, replacing what was there. Raises: StoreError: See `write_file`."""
    make_folder(path.parent)
    write_file(path, "".join(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in rows).encode())


@contextmanager
def new_directory(target: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield a new directory to fill. It is synced and renamed to `target` if the block succeeds, else removed.

    Args:
        replace: Whether to replace an existing `target`. A kill between its removal and the renaming leaves
            neither, so use this only for what can be made again.

    Raises:
        StoreError: If the disk is full, the place is not writable, or `target` exists and is not replaced.
    """
    aside = _aside(target)
    with writing(target):
        try:
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir(parents=True)
            yield aside
            for path in (*aside.rglob("*"), aside):
                if path.is_file():  # some libraries let only the owner read
                    path.chmod(aside.stat().st_mode & 0o666)
                sync(path)
            if replace:
                remove(target)
            aside.rename(target)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        sync(target.parent)


def remove(path: Path) -> None:
    """Remove a file or directory if it exists. A directory is renamed first, so a kill never leaves a part at `path`.

    Raises:
        StoreError: If it cannot be removed.
    """
    with writing(path):
        if not path.is_dir():
            path.unlink(missing_ok=True)
            return
        aside = _aside(path, "r")
        shutil.rmtree(aside, ignore_errors=True)
        path.rename(aside)
        sync(path.parent)
        shutil.rmtree(aside)


def clean(folder: Path, name: str | None = None) -> None:
    """Remove what killed processes left in `folder` while writing or removing `name` (None: anything)."""
    ours = re.compile(re.escape(_PREFIX) + r"(w|r)\d+-" + (".*" if name is None else re.escape(name)))
    for leftover in folder.iterdir() if folder.is_dir() else ():
        if ours.fullmatch(leftover.name) and leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        elif ours.fullmatch(leftover.name):
            leftover.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Flush a file's bytes, or a directory's entries, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn errors of the operating system into a StoreError of one line about `path`."""
    try:
        yield
    except Exception as error:  # for a full disk libraries raise their own errors, tokenizers a bare Exception
        if not isinstance(error, OSError) and not disk_full(error):
            raise
        why = error.strerror or str(error) if isinstance(error, OSError) else "No space left on device"
        raise StoreError(f"{path}: cannot be written ({why}); check free space and permissions") from error


def make_folder(path: Path) -> None:
    """Make a folder and its parents if they do not exist. Raises: StoreError: If it cannot be made."""
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)


def _aside(path: Path, verb: Literal["w", "r"] = "w") -> Path:
    """A name beside `path`, unique to this process, for what is being written or removed."""
    return path.with_name(f"{_PREFIX}{verb}{os.getpid()}-{path.name}")
