"""Loading seeds, and refusing data that would spoil a run.

Every row is checked. Whatever is wrong is reported with file and line, all of it at once, and nothing is
skipped: a seed set is either usable as it stands or it is an error.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from magic_rl.config import DataConfig
from magic_rl.errors import UserError
from magic_rl.types import Label, Seed

Row = tuple[int, Mapping[str, Any]]  # line (or row) number, columns


def load_seeds(data: DataConfig) -> tuple[Seed, ...]:
    """Read and check a seed set.

    Args:
        data: `seeds` is "demo", a .jsonl, .csv or .parquet file, or a `datasets` id; columns are mapped by name.

    Raises:
        UserError: For a file that cannot be read, a missing column, missing or empty text, an unknown label, a
            duplicate, a wrong encoding, an empty file or an empty class; names file and line.
    """
    where, rows = _read(data)
    problems: list[str] = []
    seeds: list[Seed] = []
    lines_by_text: dict[str, int] = {}
    for line, row in rows:
        text, label = row.get(data.text_column), row.get(data.label_column)
        category = row.get(data.category_column) or ""
        known = _label(label, data)
        key = " ".join(str(text).lower().split())
        if not isinstance(text, str) or not text.strip():
            problems.append(f"{where}:{line}: column {data.text_column!r} is missing or empty")
        elif known is None:
            values = ", ".join((*data.harmful_values, *data.benign_values))
            problems.append(f"{where}:{line}: column {data.label_column!r} is {label!r}, expected one of {values}")
        elif key in lines_by_text:
            problems.append(f"{where}:{line}: the same text as line {lines_by_text[key]}")
        else:
            lines_by_text[key] = line
            own_id = str(row.get("id") or hashlib.sha256(text.encode()).hexdigest()[:12])
            seeds.append(Seed(own_id, text.strip(), known, str(category)))
    if problems:
        more = f" (and {len(problems) - 1} more such lines)" if len(problems) > 1 else ""
        raise UserError(problems[0] + more)
    for label in ("harmful", "benign"):
        if not any(seed.label == label for seed in seeds):
            raise UserError(f"{where}: holds no {label} seeds; the game needs both classes")
    if len({seed.id for seed in seeds}) < len(seeds):
        raise UserError(f"{where}: two seeds share an id")
    return tuple(seeds)


def _label(value: object, data: DataConfig) -> Label | None:
    text = str(value).strip()
    if text in data.harmful_values:
        return "harmful"
    return "benign" if text in data.benign_values else None


def _read(data: DataConfig) -> tuple[str, Iterator[Row]]:
    """Name of the source for messages, and its rows."""
    if data.seeds == "demo":
        text = resources.files("magic_rl.data").joinpath("demo_seeds.jsonl").read_text(encoding="utf-8")
        return "demo seeds", _jsonl("demo seeds", text)
    path = Path(data.seeds).expanduser()
    suffix = path.suffix.lower()
    if suffix not in (".jsonl", ".csv", ".parquet"):
        if path.exists():
            raise UserError(f"{path}: seeds are read from .jsonl, .csv or .parquet files")
        return data.seeds, _hub(data)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    if not content.strip():
        raise UserError(f"{path}: is empty")
    if suffix == ".parquet":
        return str(path), _parquet(path, content)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UserError(f"{path}:{line}: is not UTF-8; save the file in that encoding") from error
    return str(path), _jsonl(str(path), text) if suffix == ".jsonl" else _csv(path, text, data)


def _jsonl(where: str, text: str) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{where}:{number}: not valid JSON ({error.msg})") from error
        if not isinstance(row, dict):
            raise UserError(f"{where}:{number}: expected an object with columns")
        yield number, row


def _csv(path: Path, text: str, data: DataConfig) -> Iterator[Row]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    _require_columns(str(path), reader.fieldnames or (), data)
    try:
        for row in reader:
            yield reader.line_num, row
    except csv.Error as error:
        raise UserError(f"{path}:{reader.line_num}: not valid CSV ({error})") from error


def _parquet(path: Path, content: bytes) -> Iterator[Row]:
    import pyarrow.parquet  # heavy, and only this format needs it
    from pyarrow import ArrowException

    try:
        rows = pyarrow.parquet.read_table(io.BytesIO(content)).to_pylist()
    except ArrowException as error:
        raise UserError(f"{path}: not valid Parquet ({str(error).splitlines()[0]})") from error
    yield from enumerate(rows, start=1)


def _hub(data: DataConfig) -> Iterator[Row]:
    import datasets  # takes seconds to import
    from datasets.exceptions import DatasetNotFoundError
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        rows = datasets.load_dataset(data.seeds, split=data.split)
    except (DatasetNotFoundError, HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise UserError(
            f"data.seeds: {data.seeds!r} is no file and cannot be fetched as a data set ({reason})"
        ) from error
    _require_columns(data.seeds, rows.column_names, data)
    yield from enumerate(rows, start=1)


def _require_columns(where: str, columns: object, data: DataConfig) -> None:
    present = list(columns) if isinstance(columns, list | tuple) else []
    for column in (data.text_column, data.label_column):
        if column not in present:
            raise UserError(f"{where}: has no column {column!r}, only {', '.join(map(str, present)) or 'none'}")
