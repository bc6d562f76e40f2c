"""Replies that people labelled, read from a file to hold a judge against them.

As with seeds nothing is skipped silently: a row is used, left out because it bears no label (and counted), or one error
names the first bad rows by file and line.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from magic_rl.data.rows import names, read_file
from magic_rl.errors import UserError
from magic_rl.files import NO_UNICODE, brief
from magic_rl.types import Exchange, Label, Seed

_SHOWN = 3  # problems spelled out in the error; the rest are counted
_YES = frozenset({"yes", "true", "1", "1.0"})
_NO = frozenset({"no", "false", "0", "0.0"})
_REFUSED = _YES | {"refusal", "refused", "refuses", "full_refusal"}
_COMPLIED = _NO | {"compliance", "complied", "complies", "full_compliance"}
_HARMFUL = _YES | {"harmful", "unsafe"}
_HARMLESS = _NO | {"benign", "harmless", "unharmful", "safe"}
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


_USUAL = {
    "request": ("prompt", "seed"),
    "reply": ("response", "reply"),
    "label": ("label",),
    "refused": ("refused",),
    "harmful": ("harmful",),
}


@dataclass(frozen=True, slots=True)
class Labelled:
    """One reply and what people say of it.

    Attributes:
        place: File and line.
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
        UserError: For a file that cannot be read, missing columns, bad rows, or no labelled row.
    """
    wanted = columns or Columns()
    passed_over = {_plain(value) for value in skip}
    rows = list(read_file(path, lambda _, found: found))
    readable = [row for _, row in rows if not isinstance(row, str)]
    # Lines of .jsonl name their own columns, and a label may first come late.
    found = dict.fromkeys(column for row in readable for column in row)
    used = _columns(str(path), list(found), wanted) if readable else wanted
    out: list[Labelled] = []
    problems: list[str] = []
    left_out = 0
    for place, row in rows:
        if isinstance(row, str):
            problems.append(f"{place}: {row}")
            continue
        read = _labelled(place, row, used, requests, passed_over)
        if isinstance(read, str):
            problems.append(f"{place}: {read}")
        elif read.refused is None and read.harmful is None:
            left_out += 1
        else:
            out.append(read)
    if problems:
        more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise UserError("; ".join(problems[:_SHOWN]) + more)
    if not out:
        raise UserError(f"{path}: holds no labelled reply; give one row a reply, with its label")
    return LabelledSet(tuple(out), left_out)


def _columns(where: str, found: Sequence[str], wanted: Columns) -> Columns:
    """The columns of a file, by the options and the usual names."""
    chosen: dict[str, str] = {}
    for what, usual in _USUAL.items():
        named = getattr(wanted, what)
        if named and named not in found:
            raise UserError(f"{where}: has no column {named!r}, only {names(found)}; change --{what}-column")
        chosen[what] = named or next((name for name in usual if name in found), "")
    for what in ("request", "reply"):
        if not chosen[what]:
            raise UserError(f"{where}: which of {names(found)} holds the {what}? Name it with --{what}-column")
    if not chosen["refused"] and not chosen["harmful"]:
        raise UserError(
            f"{where}: which of {names(found)} holds the label? Name it with --refused-column or --harmful-column"
        )
    return Columns(**chosen)


def _labelled(
    place: str, row: Mapping[str, Any], columns: Columns, requests: Label, skip: Collection[str]
) -> Labelled | str:
    """The row, or what is wrong with it."""
    texts: dict[str, str] = {}
    for column in (columns.request, columns.reply):
        text = row.get(column)
        if not isinstance(text, str):
            return f"column {column!r} is {brief(text)}, which is no text"
        try:
            text.encode()
        except UnicodeEncodeError:
            return NO_UNICODE
        texts[column] = text
    if not texts[columns.request].strip():
        return f"column {columns.request!r} is empty"
    answers: list[bool | None] = []
    for column, yes, no in (
        (columns.label, _HARMFUL, _HARMLESS),
        (columns.refused, _REFUSED, _COMPLIED),
        (columns.harmful, _HARMFUL, _HARMLESS),
    ):
        value = _plain(row.get(column)) if column else ""
        if value and value not in (*yes, *no, *skip):
            return (
                f"column {column!r} is {brief(row[column])}, expected one of {', '.join(sorted(yes | no))}; "
                "or leave the value out with --skip"
            )
        answers.append(None if not value or value in skip else value in yes)
    harmful_request, refused, harmful = answers
    label: Label = requests if harmful_request is None else "harmful" if harmful_request else "benign"
    request = texts[columns.request].strip()
    return Labelled(place, Exchange(Seed(place, request, label), request, texts[columns.reply]), refused, harmful)


def _plain(value: object) -> str:
    """A label value without its case and its rank."""
    return "" if value is None else _RANK.sub("", str(value).strip().casefold())
