"""The attack pool of MAGIC's release: rows with `instruction`, `input` and `output`, in a JSON array or one per line.

The first two columns hold the attacker's task in the release's own words, which end with the seed; the output is what
the attacker should say. The strategies of the rows are not published, so all rows have one strategy name.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from magic_rl.files import Row, read_json, read_jsonl, read_text
from magic_rl.text.think import parse_attack
from magic_rl.types import Label, Seed

STRATEGY = "released"
_SEED = re.compile(r"prompt provided for you to revise:\s*(.+)", re.DOTALL)
_LABEL = re.compile(r"vanilla[ _](harmful|benign)")


def alpaca_rows(path: Path) -> list[Row]:
    """The rows of such a pool with their places; none if the pool is in another format.

    Raises:
        DataError: For a file that cannot be read.
    """
    text = read_text(path)
    read = read_json if text.lstrip().startswith("[") else read_jsonl
    rows = list(read(str(path), text))
    first = rows[0][1] if rows else ""
    return rows if isinstance(first, Mapping) and "instruction" in first else []


def read_alpaca(row: Mapping[str, Any]) -> tuple[Seed, str, str, str]:
    """The fields of a `PoolEntry`: seed, strategy, thinking and attack.

    Raises:
        ValueError: If the row lacks a seed, a label, or an output in the attacker's format.
    """
    task, given = str(row.get("instruction") or ""), str(row.get("input") or "")
    label = _LABEL.search(f"{row.get('data_type') or ''}\n{task}")  # not from the seed, which may say anything
    if label is None:
        raise ValueError("does not say whether its seed is harmful or benign; give it a column data_type")
    found = _SEED.search(f"{task}\n{given}")
    text = (found[1] if found else given).strip()
    parsed = parse_attack(str(row.get("output") or ""))
    if not text or not parsed.well_formed:
        raise ValueError("its output is not <think>…</think><answer>…</answer>" if text else "holds no seed")
    kind: Label = "harmful" if label[1] == "harmful" else "benign"
    seed = Seed(hashlib.sha256(text.encode()).hexdigest()[:12], text, kind)
    return seed, STRATEGY, parsed.thinking, parsed.answer
