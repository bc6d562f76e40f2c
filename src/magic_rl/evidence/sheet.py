"""A blinded sheet: replies for people to label, without the judge's labels and the models' names, in random order.

A key file beside it has the items in the order of the sheet's numbers, with everything that the sheet leaves out. The
replies are a simple random sample: one drawn by a judge's verdicts would show the judge's error on another mixture of
replies than the one measured.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from magic_rl.data.labelled import Labelled, LabelledSet
from magic_rl.errors import DataError
from magic_rl.evidence.items import Item, read_items
from magic_rl.rng import generator
from magic_rl.store.atomic import write_file, write_rows

_COLUMNS = ("id", "seed", "prompt", "response", "refused", "harmful")
_FORMULAS = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet would evaluate cells that begin with these


def key_of(sheet: Path) -> Path:
    """The path of a sheet's key."""
    return sheet.with_name(f"{sheet.stem}.key.jsonl")


def write_sheet(sheet: Path, items: Sequence[Item], n: int, rng_seed: int) -> int:
    """Write a sheet and its key.

    Args:
        sheet: Path of the sheet.
        items: Items to draw from; those without a reply are left out.
        n: Number of replies to draw.
        rng_seed: Random seed of the draw and the order.

    Returns:
        Number of replies on the sheet: `n`, or all that there are.

    Raises:
        DataError: If there is no reply, or if the sheet, which people may have filled, or its key exists.
        StoreError: If one cannot be written.
    """
    for path in (sheet, key_of(sheet)):
        if path.exists():
            raise DataError(f"{path}: already exists; name another file, labels are not written over")
    some = [item for item in items if item.failed is None and item.reply.strip()]
    if not some:
        empty = sum(item.failed is None for item in items)
        why = f"{empty} replies are empty, {len(items) - empty} failed" if items else "there are no items"
        raise DataError(f"there is no reply to label: {why}")
    drawn = [some[place] for place in generator(rng_seed, 0, "sheet").permutation(len(some))[:n]]
    text = io.StringIO()
    table = csv.writer(text)
    table.writerow(_COLUMNS)
    for number, item in enumerate(drawn, start=1):
        table.writerow([number, *map(_cell, (item.seed, item.attack, item.reply)), "", ""])
    write_rows(key_of(sheet), drawn)
    write_file(sheet, text.getvalue().encode("utf-8-sig"))  # spreadsheets recognise UTF-8 only by the byte-order mark
    return len(drawn)


def _cell(text: str) -> str:
    return f"'{text}" if text.startswith(_FORMULAS) else text


def unblinded(labelled: LabelledSet, key: Path) -> LabelledSet:
    """The labels of a filled sheet with the original texts, which a spreadsheet may have changed.

    Raises:
        DataError: If a row's id is not in the key, or its reply differs from the key's.
    """
    items = read_items(key)

    def of_key(row: Labelled) -> Labelled:
        place = int(row.id) - 1 if row.id.isdecimal() else -1
        if not 0 <= place < len(items):
            raise DataError(f"{row.place}: {key.name} has no id {row.id!r}")
        item = items[place]
        if _squeezed(row.exchange.reply) != _squeezed(_cell(item.reply)):
            raise DataError(f"{row.place}: the response is another than that of id {row.id} in {key.name}")
        return replace(row, exchange=item.exchange)

    return LabelledSet(tuple(map(of_key, labelled.rows)), labelled.left_out)


def _squeezed(text: str) -> str:
    """A text without what spreadsheets change: whitespace, and the apostrophe that marks text."""
    return "".join(text.split()).lstrip("'")
