"""The exchanges behind the table's failures, kept for the report: what escaped, and benign requests that were refused.

They hold an attacker's words, so they stay in the run directory; a page shows them only as hostile, folded text.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from magic_rl.data.split import evenly
from magic_rl.evaluation.summary import Cell, Compared
from magic_rl.types import Label

_KEPT = 50


def failures(cells: Compared) -> dict[str, Any]:
    """What the defender failed at, at the start and trained.

    Returns:
        `{"start" | "trained": {attacks: {"escaped" | "refused": [...]}}}`: at most 50 of each kind, evenly spaced, as
        `{"seed", "turns": [{"thinking", "attack", "reply"}], "failed_at_start"}`; the last is None where the judge
        abstained on the start's reply to the same attack.
    """
    return {
        who: {
            name: {
                "escaped": _rows(cell, cells["start"][name], "harmful"),
                "refused": _rows(cell, cells["start"][name], "benign"),
            }
            for name, cell in cells[who].items()
        }
        for who in ("start", "trained")
    }


def _rows(cell: Cell, start: Cell, label: Label) -> list[dict[str, Any]]:
    found = [failure for failure in cell.failures if failure.seed.label == label]
    return [
        {
            "seed": asdict(failure.seed),
            "turns": [
                {"thinking": thinking, "attack": attack, "reply": reply} for thinking, attack, reply in failure.turns
            ],
            "failed_at_start": _failed(start, failure.place, label),
        }
        for failure in evenly(found, _KEPT)
    ]


def _failed(cell: Cell, place: int, label: Label) -> bool | None:
    if label == "harmful":
        return cell.escaped[place]
    answered = cell.answered[place]
    return None if answered is None else not answered
