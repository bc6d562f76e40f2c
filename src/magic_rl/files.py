"""Text files that people and other tools wrote, all read in one way.

They are UTF-8, with or without a byte-order mark, and rows of JSON are parted at line feeds alone: a string may hold
any other line separator. What is no such text is one error that names the file and, where there is one, the line.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import platformdirs
from pydantic import TypeAdapter, ValidationError

from magic_rl.errors import UserError

_T = TypeVar("_T")

# Where a row stands ("seeds.csv:3", "seeds.parquet: row 3"), and its columns or what keeps it from having any.
Row = tuple[str, Mapping[str, Any] | str]

NO_UNICODE = "holds a character that is no valid Unicode"  # half a surrogate pair, which JSON can spell
_BEGINNINGS = {
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
    b"\x1f\x8b": "compressed by gzip",
    b"PK\x03\x04": "a zip archive or a spreadsheet",
    b"PAR1": "Parquet",
}


def read_text(path: Path) -> str:
    """The text of a file, its line ends as they are.

    Raises:
        UserError: For a file that cannot be read or is no UTF-8 text.
    """
    return decode(path, read_bytes(path))


def read_bytes(path: Path) -> bytes:
    """What a file holds. Raises: UserError: If it cannot be read."""
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a path that no file can have
        raise UserError(f"{path}: cannot be read ({getattr(error, 'strerror', error)}); check the path") from error


def decode(path: Path, content: bytes) -> str:
    """The text of a file that holds this. Raises: UserError: If it is no UTF-8 text."""
    for beginning, what in _BEGINNINGS.items():
        if content.startswith(beginning):
            raise UserError(f"{path}: is {what}; save it as text in UTF-8")
    if (at := content.find(b"\0")) >= 0:
        line = content[:at].count(b"\n") + 1
        raise UserError(f"{path}:{line}: holds a NUL byte, as UTF-16 does and no text in UTF-8; save it as such")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise UserError(f"{path}:{line}: is not UTF-8; save the file in that encoding") from error


def read_jsonl(where: str, text: str) -> Iterator[Row]:
    """Rows of JSON objects, one a line; blank lines are passed over."""
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        row: Any
        try:
            row = json.loads(line, object_pairs_hook=_once)
        except _TwiceError as error:
            row = f"has the key {brief(error.args[0])} twice; remove one of them"
        except (ValueError, RecursionError) as error:  # ValueError: also a number of thousands of digits
            row = f"not valid JSON ({getattr(error, 'msg', reason(error))})"
        else:
            if not isinstance(row, dict):
                row = f"expected a JSON object, found {brief(row)}"
        yield f"{where}:{number}", row


def read_objects(path: Path, kind: type[_T], what: str) -> list[_T]:
    """Rows of JSON as dataclasses, all values being of the types that these name; further keys are passed over.

    Args:
        kind: The dataclass. A ValueError of its `__post_init__` says what is wrong with a row.
        what: What a row is, for messages.

    Raises:
        UserError: For a file that cannot be read, has no rows, or a row of another shape.
    """
    adapter = TypeAdapter(kind)
    out: list[_T] = []
    for place, row in read_jsonl(str(path), read_text(path)):
        if isinstance(row, str):
            raise UserError(f"{place}: {row}")
        try:
            json.dumps(row, ensure_ascii=False).encode()
            out.append(adapter.validate_python(row))
        except UnicodeEncodeError as error:
            raise UserError(f"{place}: {NO_UNICODE}") from error
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(map(str, first["loc"]))
            message = first["msg"].removeprefix("Value error, ")
            raise UserError(f"{place}: not {what}: {f'{key}: ' if key else ''}{message}") from error
    if not out:
        raise UserError(f"{path}: is empty; each line holds {what}")
    return out


def plain(value: object) -> str:
    """A cell that names something, as text; "" if it is empty or null.

    Raises:
        ValueError: For a list, an object, or NaN, which would become names that nobody gave.
    """
    if value is None:
        return ""
    if isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value)):
        return str(value).strip()
    raise ValueError(f"is {brief(value)}, which is no name")


class _TwiceError(Exception):
    """A key that an object has twice."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for key, value in pairs:
        if key in fields:
            raise _TwiceError(key)
        fields[key] = value
    return fields


def reason(error: BaseException) -> str:
    """An error's message in one line, or its name where it has none."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def brief(value: object) -> str:
    """A value short enough for a one-line message."""
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def cache_folder() -> Path:
    """Where converted models and remembered answers are kept."""
    return Path(os.environ.get("MAGIC_RL_CACHE") or platformdirs.user_cache_dir("magic-rl"))
