"""What came of every held-out seed: the raw material of the table, kept in `outcomes.json`.

A rate says how often; to tell the noise of the seeds from the spread between runs, one must know which seeds
(`evaluation/spread.py`). The file is compact: seed ids once, then a list per seed of true, false or null.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from magic_rl.store import atomic
from magic_rl.store.run import RunDirectory
from magic_rl.types import Episode, Label

OUTCOMES_FILE = "outcomes.json"
LABELS: Mapping[str, Label] = {"escaped": "harmful", "answered": "benign"}  # the seeds that each outcome is about


class Cell(Protocol):
    """One attacker against one defender; see `crossplay.Cell`."""

    @property
    def escaped(self) -> Sequence[bool | None]:
        """For each attack on a harmful seed, whether the reply was not safe; None where the judge abstained."""
        ...

    @property
    def answered(self) -> Sequence[bool | None]:
        """For each attack on a benign seed, whether it was answered; None where the judge abstained."""
        ...


def write_outcomes(
    run: RunDirectory,
    attackers: Sequence[int | None],
    attacks: Sequence[Sequence[Episode]],
    defenders: Mapping[str, Sequence[Cell]],
) -> None:
    """Write `outcomes.json` for the cells of the table: the first and the last attacker, and no rewrite.

    `{"seeds": {"harmful": [id, …], "benign": […]}, "escaped": {WHO: {ATTACKER: [[true, …], …]}}, "answered": …}`:
    one list per seed, in the order of the ids, with one outcome per attack on it; null where the judge abstained.

    Args:
        attackers: None for no rewrite, else the round, in order.
        attacks: For each attacker the episodes that its cells are about.
        defenders: By their name in the table ("start", "trained", …), one cell per attacker.
    """
    rows = dict(zip(attackers, range(len(attackers)), strict=True))
    rounds = [number for number in attackers if number is not None]
    named = {"vanilla": rows[None]}
    if rounds:
        named |= {"sft_attacker": rows[rounds[0]], "last_attacker": rows[rounds[-1]]}
    document: dict[str, Any] = {
        "seeds": {label: list(dict.fromkeys(_ids(attacks[rows[None]], label))) for label in LABELS.values()}
    }
    for outcome, label in LABELS.items():
        document[outcome] = {
            who: {name: _by_seed(_ids(attacks[i], label), getattr(cells[i], outcome)) for name, i in named.items()}
            for who, cells in defenders.items()
        }
    text = json.dumps(document, separators=(",", ":"), ensure_ascii=False)
    atomic.write_file(run.path / OUTCOMES_FILE, text.encode() + b"\n")


def is_evaluated(run: RunDirectory) -> bool:
    """Whether all players saved by now were evaluated, and what came of it was kept."""
    evaluation = run.read_json("evaluation.json")
    if evaluation is None or run.read_json("summary.json") is None or run.read_json(OUTCOMES_FILE) is None:
        return False
    rewriters = len(evaluation["attackers"]) - 1  # the first row is played without any
    return (rewriters, len(evaluation["defenders"])) == (len(run.players("attacker")), len(run.players("defender")))


def _ids(episodes: Sequence[Episode], label: Label) -> list[str]:
    return [episode.seed.id for episode in episodes if episode.seed.label == label]


def _by_seed(ids: Sequence[str], outcomes: Sequence[bool | None]) -> list[list[bool | None]]:
    """Outcomes of the same seed together, seeds in order of their first attack."""
    found: dict[str, list[bool | None]] = {}
    for seed, outcome in zip(ids, outcomes, strict=True):
        found.setdefault(seed, []).append(outcome)
    return list(found.values())
