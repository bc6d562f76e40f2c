"""Replies that people labelled, to compare a judge with.

As with seeds nothing is skipped silently: a row is used, left out because it bears no label (and counted), or a fault
that is named by its place.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from magic_rl.data.rows import CheckedRow, Name, Text, names, read_file
from magic_rl.errors import DataError
from magic_rl.files import brief, checked
from magic_rl.types import Exchange, Label, Seed

_YES, _NO = frozenset({"yes", "true", "1", "1.0"}), frozenset({"no", "false", "0", "0.0"})
_HARM = (_YES | {"harmful", "unsafe"}, _NO | {"benign", "harmless", "unharmful", "safe"})
# Of every question, the values that mean yes and no.
_VALUES = {
    "label": _HARM,
    "refused": (
        _YES | {"refusal", "refused", "refuses", "full_refusal"},
        _NO | {"compliance", "complied", "complies", "full_compliance"},
    ),
    "harmful": _HARM,
}
_RANK = re.compile(r"^\d+_(?=\D)")  # "2_full_refusal"


@dataclass(frozen=True, slots=True)
class Columns:
    """Names of the columns. Empty: the first of the usual names that the file has, or none.

    Attributes:
        request: What was asked. Usual names: prompt, seed.
        reply: What the model answered. Usual names: response, reply.
        label: Whether the request is harmful or benign. Usual name: label.
        refused: Whether the reply refuses. Usual name: refused.
        harmful: Whether the reply is harmful. Usual name: harmful.
    """

    request: str = ""
    reply: str = ""
    label: str = ""
    refused: str = ""
    harmful: str = ""


_USUAL = {"request": ("prompt", "seed"), "reply": ("response", "reply")}


class _ReplyRow(CheckedRow):
    request: Text
    reply: Text
    label: Name = ""
    refused: Name = ""
    harmful: Name = ""


@dataclass(frozen=True, slots=True)
class Labelled:
    """One reply and what people say of it.

    Attributes:
        place: File and line or row.
        exchange: As a judge is shown it; the attack is the request itself.
        refused: Whether it refuses; None if not labelled.
        harmful: Whether it is harmful; None if not labelled.
    """

    place: str
    exchange: Exchange
    refused: bool | None
    harmful: bool | None


@dataclass(frozen=True, slots=True)
class LabelledSet:
    """All of a file.

    Attributes:
        rows: Those with a label, in order.
        left_out: How many have none.
    """

    rows: tuple[Labelled, ...]
    left_out: int


def load_labelled(
    path: Path, columns: Columns | None = None, *, requests: Label = "harmful", skip: Collection[str] = ()
) -> LabelledSet:
    """Read labelled replies.

    Args:
        path: A .jsonl, .csv, .tsv or .parquet file.
        columns: Names of its columns.
        requests: What requests are where no column says so.
        skip: Label values that are no answer, such as "3_partial_refusal": as an empty cell, no label.

    Raises:
        DataError: For a file that cannot be read, missing columns, bad rows, or no labelled row.
    """
    skipped = {_plain(value) for value in skip}
    rows = list(read_file(path))
    # Lines of .jsonl name their own columns, and a label may first come late.
    found = list(dict.fromkeys(column for _, row in rows if not isinstance(row, str) for column in row))
    used = _columns(str(path), found, columns or Columns()) if found else {}

    def read(place: str, row: Mapping[str, Any]) -> Labelled:
        cells = _ReplyRow.read(row, used)
        (cells.request + cells.reply).encode()
        if not (request := cells.request.strip()):
            raise ValueError(f"column {used['request']!r} is empty")
        answers: dict[str, bool | None] = {}
        for question, (yes, no) in _VALUES.items():
            value = _plain(getattr(cells, question))
            if value and value not in yes | no | skipped:
                given = brief(row[used[question]])
                raise ValueError(
                    f"column {used[question]!r} is {given}, expected one of {', '.join(sorted(yes | no))}, or a value "
                    "that is skipped"
                )
            answers[question] = None if not value or value in skipped else value in yes
        label: Label = requests if answers["label"] is None else "harmful" if answers["label"] else "benign"
        exchange = Exchange(Seed(place, request, label), request, cells.reply)
        return Labelled(place, exchange, answers["refused"], answers["harmful"])

    everything = checked(rows, read)
    labelled = tuple(row for row in everything if row.refused is not None or row.harmful is not None)
    if not labelled:
        raise DataError(f"{path}: holds no labelled reply; give it one row per reply, with its label")
    return LabelledSet(labelled, len(everything) - len(labelled))


def _columns(where: str, found: Sequence[str], wanted: Columns) -> dict[str, str]:
    """The column of each field that has one, as named or by the usual names."""
    chosen: dict[str, str] = {}
    for field, name in asdict(wanted).items():
        if name and name not in found:
            raise DataError(f"{where}: has no column {name!r}, only {names(found)}", about=field)
        if column := name or next((usual for usual in _USUAL.get(field, (field,)) if usual in found), ""):
            chosen[field] = column
        elif field in _USUAL:
            raise DataError(f"{where}: which of {names(found)} holds the {field}? Name it", about=field)
    if not {"refused", "harmful"} & set(chosen):
        raise DataError(
            f"{where}: which of {names(found)} holds the label, refused or harmful? Name it", about="refused"
        )
    return chosen


def _plain(value: str) -> str:
    """A label value without its case and its rank."""
    return _RANK.sub("", value.strip().casefold())
