"""Hashes that tell an intact saved directory from a damaged one.

`MANIFEST.json` names every file of the directory with its SHA-256, says what the directory is (`about`), and
holds a hash of itself, so a flipped byte anywhere is detected.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from magic_rl.store import atomic

_NAME = "MANIFEST.json"


class CorruptedError(Exception):
    """What is wrong with a saved directory, in a few words."""


def seal(directory: Path, about: Mapping[str, Any]) -> None:
    """Hash everything in `directory` into its manifest.

    Args:
        about: JSON values that say what the directory is.
    """
    files = {}
    for path in sorted(directory.rglob("*")):
        if path.is_file():
            files[path.relative_to(directory).as_posix()] = _hash_file(path)
    document = {"about": dict(about), "files": files, "sha256": _hash_json([about, files])}
    atomic.write_file(directory / _NAME, json.dumps(document, indent=2, allow_nan=False).encode() + b"\n")


def verify(directory: Path) -> dict[str, Any]:
    """Check every file of a sealed directory.

    Returns:
        What the directory is, as given to `seal`.

    Raises:
        CorruptedError: If a file is missing or changed, or the manifest is.
    """
    about, files = _read(directory)
    for name, expected in files.items():
        try:
            actual = _hash_file(directory / name)
        except OSError as error:
            raise CorruptedError(f"{name}: {error.strerror}") from error
        if actual != expected:
            raise CorruptedError(f"{name} does not match its hash")
    return about


def read_about(directory: Path) -> dict[str, Any]:
    """What the directory is; its files are not read. Raises: CorruptedError: If the manifest is missing or changed."""
    return _read(directory)[0]


def fingerprint(directory: Path) -> str:
    """One hash of a sealed directory; its files are not read. Raises as `read_about`."""
    return _hash_json(_read(directory))


def _read(directory: Path) -> tuple[dict[str, Any], dict[str, str]]:
    try:
        document = json.loads((directory / _NAME).read_bytes())
        about, files = document["about"], document["files"]
        intact = document["sha256"] == _hash_json([about, files])
    except OSError as error:
        raise CorruptedError(f"{_NAME}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptedError(f"{_NAME} is broken") from error
    if not intact:
        raise CorruptedError(f"{_NAME} does not match its hash")
    return about, files


def _hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _hash_json(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
