"""What came of every held-out seed: the raw material of the table, kept in `outcomes.json`.

A rate says how often; to tell the noise of the seeds from the spread between runs, one must know which seeds
(`evaluation/spread.py`). The file is compact: seed ids once, then a list per seed of true, false or null.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from magic_rl.evaluation.summary import Cell, Compared
from magic_rl.store import atomic, manifest
from magic_rl.store.run import RunDirectory
from magic_rl.types import Role, Seed

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
    """Whether just the players saved by now were evaluated, in the way that the config asks for."""
    documents = [run.read_json(name) for name in ("evaluation.json", "summary.json")]
    return run.read_json(OUTCOMES_FILE) is not None and all(is_current(each, run) for each in documents)


def is_current(document: Mapping[str, Any] | None, run: RunDirectory) -> bool:
    """Whether a document of an evaluation is of the players and settings that the run has now."""
    if document is None or "measured" in document:
        return document is not None and bool(document["measured"] == measured(run))
    # Of a version that kept no hashes: every round has players of its own, so their number tells a later round.
    evaluation = run.read_json("evaluation.json") or {"attackers": [], "defenders": []}
    found = len(evaluation["attackers"]) - 1, len(evaluation["defenders"])  # the first row is played without any
    is_whole = "verdict" in (run.read_json("summary.json") or {})
    return is_whole and found == (len(run.players("attacker")), len(run.players("defender")))


def measured(run: RunDirectory) -> dict[str, Any]:
    """What an evaluation of the run as it stands measures; a stored one that measured anything else is stale.

    Returns:
        `{"attackers" | "defenders": {round: hash}, "settings": hash}`, the last of `evaluation` and of who judges.
    """
    config = tomllib.loads(run.config_text)
    judge = config.get("judge", {})
    members = [
        (each.get("kind"), each.get("threshold"), each.get("endpoint", {}).get("model"))
        for each in judge.get("members") or [judge]
    ]
    settings = json.dumps([config.get("evaluation"), members, judge.get("rule")], sort_keys=True)
    roles: dict[str, Role] = {"attackers": "attacker", "defenders": "defender"}
    return {
        **{name: {str(number): _hash(path) for number, path in run.players(role)} for name, role in roles.items()},
        "settings": hashlib.sha256(settings.encode()).hexdigest()[:16],
    }


def _hash(player: Path) -> str:
    try:
        return manifest.fingerprint(player)[:16]
    except manifest.CorruptedError:
        return "corrupted"


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
