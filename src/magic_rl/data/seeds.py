"""Loading seeds, and refusing data that would spoil a run.

Every row is checked and nothing is skipped: a seed set is either usable as it stands, or it is one error that
names the first problems by file and line and says how many more there are.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from magic_rl.config import DataConfig
from magic_rl.errors import UserError
from magic_rl.types import Label, Seed

# Where a row stands ("seeds.csv:3", "seeds.parquet: row 3"), and its columns or what keeps it from having any.
Row = tuple[str, Mapping[str, Any] | str]

_SHOWN = 3  # problems spelled out in the error; the rest are counted


def load_seeds(data: DataConfig) -> tuple[Seed, ...]:
    """Read and check a seed set.

    A seed's id is its `id` column where it has one, else a hash of its text; both stay the same when rows move.

    Args:
        data: `seeds` is "demo", a .jsonl, .csv or .parquet file, or a `datasets` id; columns are mapped by name.

    Raises:
        UserError: For a source that cannot be read, a missing column, missing or empty text, an unknown label, a text
            (whatever its case and spacing) or id given twice, a wrong encoding, no rows, or a class without seeds.
    """
    both = set(data.harmful_values) & set(data.benign_values)
    if both:
        raise UserError(f"data.harmful_values: {min(both)!r} is among data.benign_values too; name it in one of them")
    where, rows = _read(data)
    seeds = _check(rows, data)
    if not seeds:
        raise UserError(f"{where}: holds no seeds; give one row a seed")
    for label in ("harmful", "benign"):
        if not any(seed.label == label for seed in seeds):
            raise UserError(f"{where}: holds no {label} seeds; the game needs both classes")
    return tuple(seeds)


def _check(rows: Iterable[Row], data: DataConfig) -> list[Seed]:
    """The seeds of all rows, or one error for all that is wrong with them."""
    seeds: list[Seed] = []
    problems: list[str] = []
    first_place: dict[tuple[str, str], str] = {}  # of every text and every id
    for place, row in rows:
        seed = _seed(row, data)
        if isinstance(seed, str):
            problems.append(f"{place}: {seed}")
            continue
        for what, key in (("text", " ".join(seed.text.casefold().split())), ("id", seed.id)):
            earlier = first_place.setdefault((what, key), place)
            if earlier is not place:
                problems.append(f"{place}: has the same {what} as {earlier}")
                break
        else:
            seeds.append(seed)
    if problems:
        more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise UserError("; ".join(problems[:_SHOWN]) + more)
    return seeds


def _seed(row: Mapping[str, Any] | str, data: DataConfig) -> Seed | str:
    """The row as a seed, or what is wrong with it."""
    if isinstance(row, str):
        return row
    for column in (data.text_column, data.label_column):
        if column not in row:
            return f"has no column {column!r}, only {_names(row)}"
    text, value = row[data.text_column], str(row[data.label_column]).strip()
    if text is None or (isinstance(text, str) and not text.strip()):
        return f"column {data.text_column!r} is empty"
    if not isinstance(text, str):
        return f"column {data.text_column!r} is {_brief(text)}, which is no text"
    label: Label
    if value in data.harmful_values:
        label = "harmful"
    elif value in data.benign_values:
        label = "benign"
    else:
        known = ", ".join((*data.harmful_values, *data.benign_values))
        return f"column {data.label_column!r} is {_brief(value)}, expected one of {known}"
    own_id, category = _text(row.get("id")), _text(row.get(data.category_column))
    try:
        (own_id + category + text).encode()
    except UnicodeEncodeError:  # JSON can spell half a surrogate pair, which no tokenizer or file takes
        return "holds a character that is no valid Unicode"
    return Seed(own_id or hashlib.sha256(text.encode()).hexdigest()[:12], text.strip(), label, category)


def _text(value: object) -> str:
    return "" if value is None else str(value).strip()


def _read(data: DataConfig) -> tuple[str, Iterator[Row]]:
    """Name of the source for messages, and its rows."""
    if data.seeds == "demo":
        text = resources.files("magic_rl.data").joinpath("demo_seeds.jsonl").read_text(encoding="utf-8")
        return "demo seeds", _jsonl("demo seeds", text)
    path = Path(data.seeds).expanduser()
    suffix = path.suffix.lower()
    if suffix not in (".jsonl", ".csv", ".parquet"):
        if path.exists():
            raise UserError(f"{path}: seeds are read from .jsonl, .csv or .parquet files; convert it to one of them")
        if path.is_absolute() or data.seeds.startswith("."):  # a path, so never ask the hub for it
            raise UserError(f"{path}: no such file; give a .jsonl, .csv or .parquet file, or a data set's id")
        return data.seeds, _hub(data)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check data.seeds") from error
    if not content.strip():
        raise UserError(f"{path}: is empty; give one row a seed")
    if suffix == ".parquet":
        return str(path), _parquet(path, content, data)
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UserError(f"{path}:{line}: is not UTF-8; save the file in that encoding") from error
    text = text.removeprefix("\N{ZERO WIDTH NO-BREAK SPACE}")  # byte-order mark of some spreadsheets and editors
    return str(path), _jsonl(str(path), text) if suffix == ".jsonl" else _csv(path, text, data)


def _jsonl(where: str, text: str) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:  # ValueError: also a number of thousands of digits
            row = f"not valid JSON ({getattr(error, 'msg', _reason(error))})"
        else:
            if not isinstance(row, dict):
                row = f"expected a JSON object, found {_brief(row)}"
        yield f"{where}:{number}", row


def _csv(path: Path, text: str, data: DataConfig) -> Iterator[Row]:
    """Rows by the line they begin on: a quoted field may run over several."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header: list[str] = []
    while True:
        begins = reader.line_num + 1
        try:
            fields = next(reader, None)
        except csv.Error as error:  # where the next row begins is unknown from here on
            yield f"{path}:{begins}", f"not valid CSV ({error})"
            return
        if fields is None:
            return
        if not fields:  # a blank line
            continue
        if not header:
            header = fields
            _require_columns(f"{path}:{begins}", header, data)
        elif len(fields) != len(header):
            yield f"{path}:{begins}", f"has {len(fields)} fields for {len(header)} columns; quote text with commas"
        else:
            yield f"{path}:{begins}", dict(zip(header, fields, strict=True))


def _parquet(path: Path, content: bytes, data: DataConfig) -> Iterator[Row]:
    import pyarrow.parquet  # heavy, and only this format needs it

    try:
        table = pyarrow.parquet.read_table(io.BytesIO(content))
        table.validate(full=True)  # names the row of a text that is not UTF-8
        columns, rows = table.column_names, table.to_pylist()
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
        raise UserError(f"{path}: not valid Parquet ({_reason(error)}); write the file anew") from error
    return _numbered(str(path), columns, rows, data)


def _hub(data: DataConfig) -> Iterator[Row]:
    import datasets  # takes seconds to import

    try:
        rows = datasets.load_dataset(data.seeds, split=data.split)
    except Exception as error:  # network, hub and file readers raise what they like; the cause is chained
        raise UserError(
            f"data.seeds: {data.seeds!r} is no file, and cannot be fetched as a data set ({_reason(error)}); "
            "check the name, data.split and the connection"
        ) from error
    return _numbered(data.seeds, rows.column_names, rows, data)


def _numbered(where: str, columns: list[str], rows: Iterable[Mapping[str, Any]], data: DataConfig) -> Iterator[Row]:
    _require_columns(where, columns, data)
    return ((f"{where}: row {number}", row) for number, row in enumerate(rows, start=1))


def _require_columns(where: str, columns: list[str], data: DataConfig) -> None:
    for key in ("text_column", "label_column"):
        if getattr(data, key) not in columns:
            raise UserError(f"{where}: has no column {getattr(data, key)!r}, only {_names(columns)}; set data.{key}")
    twice = next((column for column in columns if columns.count(column) > 1), None)
    if twice is not None:
        raise UserError(f"{where}: has two columns {twice!r}; rename one of them")


def _names(columns: Iterable[str]) -> str:
    return ", ".join(_brief(column) for column in columns) or "none"


def _reason(error: BaseException) -> str:
    """First line of an error's message, or its name where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _brief(value: object) -> str:
    """A value short enough for a one-line message."""
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
