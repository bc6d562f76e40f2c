"""Reads text files that people and other tools wrote, all in the same way.

They are UTF-8, with or without a byte-order mark, and rows of JSON are split only at line feeds, because a string may
hold any other line separator. `checked` turns rows into values and reports all their faults in one error.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import platformdirs
from pydantic import TypeAdapter, ValidationError

from magic_rl.errors import DataError

_T = TypeVar("_T")

# Where a row is ("seeds.jsonl:3", "seeds.csv: row 3"), and its columns or why it has none.
Row = tuple[str, Mapping[str, Any] | str]

NO_UNICODE = "holds a character that is no valid Unicode"  # half a surrogate pair, which JSON can spell


def read_text(path: Path) -> str:
    """The text of a file, line endings unchanged. Raises: DataError: If it cannot be read or is not UTF-8."""
    try:
        content = path.read_bytes()
        if (at := content.find(b"\0")) < 0:  # text in UTF-16 has it, with or without a mark
            return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        content, at = error.object, error.start
    except (OSError, ValueError) as error:  # ValueError: a path that no file can have
        raise DataError(f"{path}: cannot be read ({getattr(error, 'strerror', error)}); check the path") from error
    line = content[:at].count(b"\n") + 1
    raise DataError(f"{path}:{line}: is not UTF-8; save the file as plain text in that encoding, not compressed")


def read_jsonl(where: str, text: str) -> Iterator[Row]:
    """Rows of JSON objects, one per line; blank lines are skipped."""
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        row: Any
        try:
            row = json.loads(line, object_pairs_hook=without_doubles)
        except (ValueError, RecursionError) as error:  # ValueError: also a number of thousands of digits
            row = f"not valid JSON ({getattr(error, 'msg', reason(error))})"
        else:
            if not isinstance(row, dict):
                row = f"expected a JSON object, found {brief(row)}"
        yield f"{where}:{number}", row


def read_json(where: str, text: str) -> Iterator[Row]:
    """Rows of one JSON list of objects. Raises: DataError: If the text is not such a list."""
    try:
        found = json.loads(text, object_pairs_hook=without_doubles)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not valid JSON ({reason(error)}); write it again") from error
    if not isinstance(found, list):
        raise DataError(f"{where}: expected a list of JSON objects, found {brief(found)}")
    for number, row in enumerate(found, start=1):
        whole = isinstance(row, dict)
        yield f"{where}: row {number}", row if whole else f"expected a JSON object, found {brief(row)}"


def without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, as `object_pairs_hook` of `json.loads`. Raises: ValueError: If it has a key twice."""
    fields: dict[str, Any] = {}
    for key, value in pairs:
        if key in fields:
            raise ValueError(f"it has the key {brief(key)} twice; remove one of them")
        fields[key] = value
    return fields


def read_objects(path: Path, kind: type[_T], what: str) -> list[_T]:
    """Read rows of JSON as dataclasses. Values must be of the types of the fields; other keys are ignored.

    Args:
        kind: The dataclass. A ValueError of its `__post_init__` says what is wrong with a row.
        what: What a row is, for messages.

    Raises:
        DataError: For a file that cannot be read, has no rows, or has rows of another shape.
    """
    adapter = TypeAdapter(kind)

    def read(_: str, row: Mapping[str, Any]) -> _T:
        json.dumps(row, ensure_ascii=False).encode()
        try:
            return adapter.validate_python(row)
        except ValidationError as error:
            raise ValueError(f"not {what}: {problem(error)}") from error

    found = checked(read_jsonl(str(path), read_text(path)), read)
    if not found:
        raise DataError(f"{path}: is empty; each line holds {what}")
    return found


def checked(rows: Iterable[Row], read: Callable[[str, Mapping[str, Any]], _T]) -> list[_T]:
    """Call `read` with the place and the columns of each row.

    Raises:
        DataError: Names each row that could not be read, or for which `read` raised a ValueError.
    """
    out: list[_T] = []
    faults: list[str] = []
    for place, row in rows:
        if isinstance(row, str):
            faults.append(f"{place}: {row}")
            continue
        try:
            out.append(read(place, row))
        except UnicodeEncodeError:
            faults.append(f"{place}: {NO_UNICODE}")
        except ValueError as error:
            faults.append(f"{place}: {error}")
    if faults:
        raise DataError(*faults)
    return out


def problem(error: ValidationError) -> str:
    """The first of pydantic's complaints in one line, with the value that it is about."""
    first = error.errors()[0]
    key = ".".join(map(str, first["loc"]))
    said = first["msg"].removeprefix("Value error, ")
    found = f", found {brief(first['input'])}" if first["type"] not in ("missing", "value_error") else ""
    return f"{key}: {said}{found}" if key else said


def name_of(folder: Path) -> str:
    """A folder's name; its final one if it is still being written under a temporary one (`store.atomic`)."""
    return re.sub(r"^\.tmp-w\d+-", "", folder.name)


def plain(value: object) -> str:
    """A cell that names something, as text; "" if it is empty or null.

    Raises:
        ValueError: For a list, an object, infinity or NaN, which would become names that nobody gave.
    """
    if value is None:
        return ""
    if isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value)):
        return str(value).strip()
    raise ValueError(f"{brief(value)} is no name")


def reason(error: BaseException) -> str:
    """An error's message in one line, or its name where it has none."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def disk_full(error: BaseException) -> bool:
    """Whether an error says, by its number or only in its text, that the disk or the user's quota is full."""
    codes = (errno.ENOSPC, errno.EDQUOT)
    return getattr(error, "errno", None) in codes or any(os.strerror(code) in str(error) for code in codes)


def brief(value: object) -> str:
    """A value short enough for a one-line message."""
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def digits(number: float) -> str:
    """A number to three digits, never with an exponent where it is large."""
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def user_path(name: str) -> Path:
    """A path with a leading ~ expanded, or left as it is if there is no such user."""
    with contextlib.suppress(RuntimeError):
        return Path(name).expanduser()
    return Path(name)


def cache_folder() -> Path:
    """Where converted models and remembered answers are kept."""
    return Path(os.environ.get("MAGIC_RL_CACHE") or platformdirs.user_cache_dir("magic-rl"))
