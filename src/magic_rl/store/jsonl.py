"""Rows of JSON, one a line, each with its `step`.

Lines are standard JSON in ASCII: a number that is not finite becomes null, and whatever a model wrote can neither
end a line nor steer a terminal. A process killed while it appends leaves at most a torn last line.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from magic_rl.errors import UserError
from magic_rl.store import atomic


def standard(value: Any) -> Any:
    """The same JSON value with null in place of every NaN and infinity."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: standard(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [standard(item) for item in value]
    return value


def dump(rows: Iterable[Mapping[str, Any]]) -> bytes:
    """Rows as lines.

    Raises:
        ValueError: If a row has no whole number as its `step`.
    """
    lines = []
    for row in rows:
        if not _has_step(row):
            raise ValueError(f"a row needs a whole number as its step: {row}")
        lines.append(json.dumps(standard(row), allow_nan=False) + "\n")
    return "".join(lines).encode("ascii")


def append(path: Path, row: Mapping[str, Any]) -> None:
    """Add one row and put it on the disk.

    Raises:
        UserError: If the file cannot be written.
    """
    line = dump([row])
    with atomic.writing(path), path.open("ab") as file:
        file.write(line)
        file.flush()
        os.fsync(file.fileno())


def read(path: Path) -> list[dict[str, Any]]:
    """All rows; none if there is no such file. A torn last line is left out.

    Raises:
        UserError: For any other line that is not a row; names file and line.
    """
    return [row for _, row in _rows(path)]


def rewind(path: Path, step: int) -> None:
    """Drop a torn last line and the rows of later steps, keeping the others byte for byte.

    Raises:
        UserError: As `read`.
    """
    kept = b"".join(line + b"\n" for line, row in _rows(path) if row["step"] <= step)
    if not path.exists() or path.read_bytes() != kept:
        atomic.write_file(path, kept)


def _rows(path: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    if not path.exists():
        return
    *lines, torn = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, start=1):
        row = _parse(line)
        if row is None:
            raise UserError(f"{path}:{number}: not a row of JSON with a step; fix or remove this line")
        yield line, row
    if (row := _parse(torn)) is not None:  # torn just before the end of the line: nothing is missing
        yield torn, row


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line.decode())
    except ValueError:
        return None
    return row if isinstance(row, dict) and _has_step(row) else None


def _has_step(row: Mapping[str, Any]) -> bool:
    return type(row.get("step")) is int
