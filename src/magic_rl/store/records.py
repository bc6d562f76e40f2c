"""Rows of JSON, one per line, each with its `step`; `episode_row` turns an outcome into such a row.

Lines are standard JSON in ASCII: a number that is not finite becomes null, and nothing that a model wrote can end a
line or control a terminal. A process killed while it appends leaves at most a torn last line.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from magic_rl.errors import StoreError
from magic_rl.store import atomic
from magic_rl.types import Outcome, Turn


def standard(value: Any) -> Any:
    """The same JSON value with null in place of every NaN and infinity."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: standard(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [standard(item) for item in value]
    return value


def dump(rows: Iterable[Mapping[str, Any]]) -> bytes:
    """Rows as lines. Raises: ValueError: If a row has no whole number as its `step`."""
    lines = []
    for row in rows:
        if not _has_step(row):
            raise ValueError(f"a row needs a whole number as its step: {row}")
        lines.append(json.dumps(standard(row), allow_nan=False) + "\n")
    return "".join(lines).encode("ascii")


def append(path: Path, row: Mapping[str, Any]) -> None:
    """Append one row and sync it to the disk. Raises: StoreError: If the file cannot be written."""
    line = dump([row])
    with atomic.writing(path), path.open("ab") as file:
        file.write(line)
        file.flush()
        os.fsync(file.fileno())


def read(path: Path) -> list[dict[str, Any]]:
    """All rows; none if there is no such file. A torn last line is left out.

    Raises:
        StoreError: For any other line that is not a row; names file and line.
    """
    return [row for _, row in _rows(path)]


def rewind(path: Path, step: int) -> None:
    """Drop a torn last line and the rows of later steps; keep the others byte for byte. Raises as `read`."""
    kept = b"".join(line + b"\n" for line, row in _rows(path) if row["step"] <= step)
    if not path.exists() or path.read_bytes() != kept:
        atomic.write_file(path, kept)


def _rows(path: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    lines = path.read_bytes().split(b"\n") if path.exists() else [b""]
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line.decode())
        except ValueError:
            row = None
        if isinstance(row, dict) and _has_step(row):
            yield line, row
        elif number < len(lines):
            raise StoreError(f"{path}:{number}: not a row of JSON with a step; fix or remove this line")


def _has_step(row: Mapping[str, Any]) -> bool:
    return type(row.get("step")) is int


def episode_row(step: int, outcome: Outcome) -> dict[str, Any]:
    """An episode and its outcome, as a row.

    Returns:
        `step`, `seed` (all fields), `group`, `turns`, `verdict` and `rewards` (all fields, or None) and `masked`.
    """
    return {
        "step": step,
        "seed": asdict(outcome.episode.seed),
        "group": outcome.episode.group,
        "turns": [_turn(turn) for turn in outcome.episode.turns],
        "verdict": asdict(outcome.verdict) if outcome.verdict else None,
        "rewards": asdict(outcome.rewards) if outcome.rewards else None,
        "masked": outcome.masked,
    }


def _turn(turn: Turn) -> dict[str, Any]:
    """A turn without token ids: its texts, how each output ended, and how many tokens were sampled (0: not sampled)."""
    row = {"attack": turn.attack, "thinking": turn.thinking, "well_formed": turn.well_formed, "reply": turn.reply}
    row |= {"reply_well_formed": turn.reply_well_formed, "reply_thinking": turn.reply_thinking}
    for name, sample in (("attack", turn.attack_sample), ("reply", turn.reply_sample)):
        row[f"{name}_finish"] = sample.finish if sample else None
        row[f"{name}_tokens"] = len(sample.tokens) if sample else 0
    return row
