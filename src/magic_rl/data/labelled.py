"""Replies that people labelled, to compare a judge with.

As with seeds, nothing is skipped silently: a row is used, left out and counted because it has no label, or reported as
a fault with its place.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from magic_rl.data.rows import CheckedRow, Name, Text, names, read_file
from magic_rl.errors import DataError
from magic_rl.files import brief, checked
from magic_rl.types import Exchange, Label, Seed

_YES, _NO = frozenset({"yes", "true", "1", "1.0"}), frozenset({"no", "false", "0", "0.0"})
_HARM = (_YES | {"harmful", "unsafe"}, _NO | {"benign", "harmless", "unharmful", "safe"})
_REFUSAL = (
    _YES | {"refusal", "refused", "refuses", "full_refusal"},
    _NO | {"compliance", "complied", "complies", "full_compliance"},
)
_VALUES = {"label": _HARM, "refused": _REFUSAL, "harmful": _HARM}  # for each question, the values that mean yes and no
_USUAL = {"request": ("prompt", "seed"), "reply": ("response", "reply")}  # usual names of columns
_RANK = re.compile(r"^\d+_(?=\D)")  # "2_full_refusal"


class _ReplyRow(CheckedRow):
    request: Text
    reply: Text
    label: Name = ""
    refused: Name = ""
    harmful: Name = ""
    id: Name = ""


@dataclass(frozen=True, slots=True)
class Labelled:
    """One reply with its labels from people."""

    place: str  # file and line or row
    exchange: Exchange  # what a judge is shown; the attack is the request itself
    refused: bool | None  # whether it refuses; None if not labelled
    harmful: bool | None  # whether it is harmful; None if not labelled
    id: str = ""  # its number on a sheet, or another name; "" if it has none


@dataclass(frozen=True, slots=True)
class LabelledSet:
    """The rows of a file that have a label, in order, and how many have none."""

    rows: tuple[Labelled, ...]
    left_out: int


def load_labelled(
    path: Path,
    columns: Mapping[str, str] | None = None,
    *,
    requests: Label = "harmful",
    skip: Collection[str] = (),
) -> LabelledSet:
    """Read labelled replies.

    Args:
        path: A .jsonl, .json, .csv, .tsv or .parquet file.
        columns: Names of its columns, if they are not the usual ones: `request` (usually prompt or seed), `reply`
            (usually response or reply), `label` (whether the request is harmful or benign), `refused` and `harmful`
            (whether the reply refuses or is harmful), `id`.
        requests: The label of requests for which no column has one.
        skip: Label values that count as no label, like an empty cell, such as "3_partial_refusal".

    Raises:
        DataError: For a file that cannot be read, missing columns, bad rows, or no labelled row.
    """
    skipped = {_plain(value) for value in skip}
    rows = list(read_file(path))
    # Lines of .jsonl name their own columns, and a label may first come late.
    found = list(dict.fromkeys(column for _, row in rows if not isinstance(row, str) for column in row))
    used = _columns(str(path), found, columns or {}) if found else {}

    def read(place: str, row: Mapping[str, Any]) -> Labelled:
        cells = _ReplyRow.read(row, used)
        (cells.request + cells.reply).encode()
        if not (request := cells.request.strip()):
            raise ValueError(f"column {used['request']!r} is empty")
        answers: dict[str, bool | None] = {}
        for question, (yes, no) in _VALUES.items():
            value = _plain(getattr(cells, question))
            if value and value not in yes | no | skipped:
                known = ", ".join(sorted(yes | no))
                raise ValueError(f"column {used[question]!r} is {brief(row[used[question]])}, expected one of {known}")
            answers[question] = None if not value or value in skipped else value in yes
        label: Label = requests if answers["label"] is None else "harmful" if answers["label"] else "benign"
        exchange = Exchange(Seed(place, request, label), request, cells.reply)
        return Labelled(place, exchange, answers["refused"], answers["harmful"], cells.id)

    everything = checked(rows, read)
    labelled = tuple(row for row in everything if row.refused is not None or row.harmful is not None)
    if not labelled:
        raise DataError(f"{path}: holds no labelled reply; give it one row per reply, with its label")
    return LabelledSet(labelled, len(everything) - len(labelled))


def _columns(where: str, found: Sequence[str], wanted: Mapping[str, str]) -> dict[str, str]:
    """The column of each field that has one: the one named, else the first with a usual name."""
    chosen: dict[str, str] = {}
    for field in _ReplyRow.model_fields:
        name = wanted.get(field)
        if name and name not in found:
            raise DataError(f"{where}: has no column {name!r}, only {names(found)}", about=field)
        if column := name or next((usual for usual in _USUAL.get(field, (field,)) if usual in found), ""):
            chosen[field] = column
    for fields in (("request",), ("reply",), ("refused", "harmful")):
        if chosen.keys().isdisjoint(fields):
            usual = " or ".join(repr(name) for field in fields for name in _USUAL.get(field, (field,)))
            raise DataError(
                f"{where}: has no column {usual}, only {names(found)}; name yours", about=" or ".join(fields)
            )
    return chosen


def _plain(value: str) -> str:
    """A label value in lower case, without its rank."""
    return _RANK.sub("", value.strip().casefold())
