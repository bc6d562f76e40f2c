"""A public set row by row, with the seed behind each attack: what an evaluation asks of a model.

Unlike seeds of a run, rows that repeat a text stay: they are in the numbers that others publish.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from magic_rl.data.registry import Attack, LeftOutError, own_schema
from magic_rl.data.seeds import open_source
from magic_rl.files import checked


def read_attacks(source: str) -> tuple[str, list[Attack]]:
    """All rows of one source that belong to it, in order.

    Args:
        source: A named set, from the hub or as `name:FILE`; or a file of one's own seeds.

    Returns:
        The source's name for people, and its attacks; a set of plain requests gives each as its own attack.

    Raises:
        DataError: For a source that cannot be read, or missing columns.
    """
    where, table, rows = open_source(source, own_schema(), "train")

    def read(_: str, row: Mapping[str, Any]) -> Attack | None:
        try:
            return table.attack(row)
        except LeftOutError:
            if table.own:
                raise
            return None

    return where, [attack for attack in checked(rows, read) if attack is not None]
