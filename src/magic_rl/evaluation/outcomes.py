"""What came of every held-out seed: the raw material of the table, kept in `outcomes.json`.

A rate says how often; to tell the noise of the seeds from the spread between runs, one must know which seeds
(`evaluation/spread.py`). The file is compact: seed ids once, then a list per seed of true, false or null.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from magic_rl.evaluation.summary import Cell, Compared
from magic_rl.store import atomic
from magic_rl.store.run import RunDirectory
from magic_rl.types import Seed

OUTCOMES_FILE = "outcomes.json"


def write_outcomes(run: RunDirectory, cells: Compared) -> None:
    """Write `outcomes.json` for the cells of the table.

    `{"seeds": {"harmful": [id, …], "benign": […]}, "escaped": {WHO: {ATTACKS: [[true, …], …]}}, "answered": …}`:
    one list per seed, in the order of the ids, with one outcome per attack on it; null where the judge abstained.
    """
    plain = cells["start"]["vanilla"]
    document: dict[str, Any] = {
        "seeds": {"harmful": _ids(plain.harmful), "benign": _ids(plain.benign)},
        "escaped": _table(cells, lambda cell: _by_seed(cell.harmful, cell.escaped)),
        "answered": _table(cells, lambda cell: _by_seed(cell.benign, cell.answered)),
    }
    text = json.dumps(document, separators=(",", ":"), ensure_ascii=False)
    atomic.write_file(run.path / OUTCOMES_FILE, text.encode() + b"\n")


def is_evaluated(run: RunDirectory) -> bool:
    """Whether all players saved by now were evaluated, by a version that gives a verdict and keeps what came of it."""
    evaluation, summary = run.read_json("evaluation.json"), run.read_json("summary.json")
    if evaluation is None or "verdict" not in (summary or {}) or run.read_json(OUTCOMES_FILE) is None:
        return False
    rewriters = len(evaluation["attackers"]) - 1  # the first row is played without any
    return (rewriters, len(evaluation["defenders"])) == (len(run.players("attacker")), len(run.players("defender")))


def _table(cells: Compared, of: Callable[[Cell], Any]) -> dict[str, Any]:
    return {who: {name: of(cell) for name, cell in row.items()} for who, row in cells.items()}


def _ids(seeds: Sequence[Seed]) -> list[str]:
    return list(dict.fromkeys(seed.id for seed in seeds))


def _by_seed(seeds: Sequence[Seed], outcomes: Sequence[bool | None]) -> list[list[bool | None]]:
    """Outcomes of the same seed together, seeds in order of their first attack."""
    found: dict[str, list[bool | None]] = {}
    for seed, outcome in zip(seeds, outcomes, strict=True):
        found.setdefault(seed.id, []).append(outcome)
    return list(found.values())
