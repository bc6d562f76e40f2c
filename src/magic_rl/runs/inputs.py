"""Digests of what a run was begun with (`inputs.json`), so that it is neither continued nor measured with anything
else: swapped labels, another split, prompts or a pool in other words, a base model that was trained further.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from magic_rl.config import CHANGEABLE, Config, differences, dump_config
from magic_rl.errors import StoreError, UserError
from magic_rl.runs.assembly import Setup
from magic_rl.store.run import INPUTS_FILE, RunDirectory


def digests(setup: Setup) -> dict[str, str]:
    """A digest of each input of a run, by the setting that names it; missing files have none."""
    config, split = setup.config, setup.split
    sides = {"training": split.train, "held out": split.held_out, "validation": split.validation}
    found = {
        "data.seeds": digest({name: [asdict(seed) for seed in side] for name, side in sides.items()}),
        "game.prompts": digest(asdict(setup.prompts)),
        **{f"{role}.model": engine.identity for role, engine in setup.engines.items()},
    }
    files = {
        "attacker.pool": config.attacker.pool,
        "attacker.sft.examples": config.attacker.sft.examples,
        "defender.sft.examples": config.defender.sft.examples,
    }
    for key, name in files.items():
        if name and Path(name).is_file():
            found[key] = hashlib.sha256(Path(name).read_bytes()).hexdigest()[:16]
    return found


def begun_with(run: RunDirectory) -> dict[str, Any]:
    """What the run was begun with: `{"digests", "checked", "config"}`, and `"changes"` if settings changed since.

    Raises:
        StoreError: If it has no `inputs.json`.
    """
    inputs: dict[str, Any] | None = run.read_json(INPUTS_FILE)
    if inputs is None:
        raise StoreError(f"{run.path}: has no {INPUTS_FILE}, so nothing tells what it was begun with; train a new run")
    return inputs


def compare(run: RunDirectory, found: Mapping[str, str]) -> None:
    """Check that what was loaded is what the run was begun with.

    Raises:
        UserError: If anything differs, or the run has no `inputs.json`.
    """
    for key, before in begun_with(run)["digests"].items():
        if found.get(key, before) != before:
            what = "seeds, labels or split are" if key == "data.seeds" else "what it names is"
            raise UserError(
                f"{key}: {what} not what {run.path} was begun with; put it back as it was, or train a new run"
            )


def compare_settings(run: RunDirectory, config: Config) -> dict[str, tuple[Any, Any]]:
    """Settings that differ from those the run was begun or last resumed with.

    Raises:
        UserError: If one of them may not change (see `config.CHANGEABLE`), or the run has no `inputs.json`.
    """
    changed = differences(begun_with(run)["config"], config.model_dump(mode="json"))
    for key, (old, new) in changed.items():
        if not _may_change(key):
            raise UserError(
                f"{run.path}: {key} is {new!r}, but the run was begun with {old!r}; train a new run for that. "
                f"What may change is {', '.join(CHANGEABLE)}"
            )
    return changed


def refuse_another(run: RunDirectory, config: Config) -> None:
    """Check that a run has the seeds, the models and the lasting settings of a config. Raises: StoreError: If not."""
    inputs = begun_with(run)
    since = {key for change in inputs.get("changes", ()) for key in change["settings"]}
    for key, (old, new) in differences(inputs["config"], config.model_dump(mode="json")).items():
        if key not in since and (key in ("data.seeds", "attacker.model", "defender.model") or not _may_change(key)):
            what = f"{run.path}: was not begun by this command ({key} is {old!r}, not {new!r})"
            raise StoreError(what, "resume", run=run.path)


def _may_change(key: str) -> bool:
    return any(key == may or key.startswith(f"{may}.") for may in CHANGEABLE)


def record_settings(run: RunDirectory, config: Config, changed: Mapping[str, tuple[Any, Any]], step: int) -> None:
    """Make changed settings those of the run, and record the step after which they hold."""
    inputs = begun_with(run)
    changes = [*inputs.get("changes", ()), {"after_step": step, "settings": {k: list(v) for k, v in changed.items()}}]
    run.write_config(dump_config(config))
    run.write_json(INPUTS_FILE, {**inputs, "config": config.model_dump(mode="json"), "changes": changes})


def digest(value: object) -> str:
    """A short hash of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
