"""The small result files of many runs: found in a folder, read, and copied to where they are kept.

A run that was trained and evaluated holds gigabytes; its table needs a few kilobytes, small enough to be committed. A
folder of such files is read like a folder of whole runs.
"""

from __future__ import annotations

import tomllib
from pathlib import Path

from magic_rl.config import PRESETS
from magic_rl.errors import StoreError
from magic_rl.evaluation.aggregate import RunResult
from magic_rl.evaluation.estimates import Estimate
from magic_rl.evaluation.result import (
    ATTACK_FILE,
    EVALUATION_FILE,
    OUTCOMES_FILE,
    AttackResult,
    Evaluation,
    Outcomes,
    current_attack,
    current_evaluation,
    read,
)
from magic_rl.store import atomic
from magic_rl.store.run import RunDirectory

KEPT = ("config.toml", "versions.json", EVALUATION_FILE, OUTCOMES_FILE, ATTACK_FILE, "metrics.jsonl")


def is_finished(run: RunDirectory) -> bool:
    """Whether a run was trained to its end and evaluated, or is the small files of such a run."""
    if not _is_whole(run):
        return (run.path / EVALUATION_FILE).exists()
    return run.is_complete and current_evaluation(run) is not None


def attack_result(run: RunDirectory) -> AttackResult[Estimate] | None:
    """attack.json, if it is about the run's defenders as they are now; for exported files, export checked that."""
    return current_attack(run) if _is_whole(run) else read(run, ATTACK_FILE, AttackResult[Estimate])


def finished_runs(folder: Path) -> list[RunDirectory]:
    """The finished runs in a folder, in order of their names."""
    configs = sorted(folder.glob("[!.]*/config.toml"))
    return [run for path in configs if is_finished(run := RunDirectory.open(path.parent))]


def read_results(folder: Path) -> list[RunResult]:
    """The results of the finished runs in a folder, by preset and seed.

    Raises:
        StoreError: If there are none, or a file cannot be read.
    """
    results = [_read(run) for run in finished_runs(folder)]
    if not results:
        raise StoreError(f"{folder}: holds no finished run", "train a study", folder=folder)
    order: dict[str, int] = {preset: place for place, preset in enumerate(PRESETS)}
    return sorted(results, key=lambda result: (order.get(result.preset, len(order)), result.preset, result.rng_seed))


def export_results(folder: Path, target: Path) -> None:
    """Copy the small files of the finished runs in a folder: never episodes, checkpoints or adapters.

    Raises:
        StoreError: If they cannot be written.
    """
    for run in finished_runs(folder):
        out = target / run.path.name
        atomic.make_folder(out)
        stale = (ATTACK_FILE,) if attack_result(run) is None else ()
        for name in KEPT:
            if (run.path / name).is_file() and name not in stale:
                atomic.write_file(out / name, (run.path / name).read_bytes())
            else:
                atomic.remove(out / name)  # of an earlier export


def _is_whole(run: RunDirectory) -> bool:
    return (run.path / "players").exists()


def _read(run: RunDirectory) -> RunResult:
    try:
        config = tomllib.loads(run.config_text)
        preset, rng_seed = str(config["preset"]), int(config["rng_seed"])
    except (tomllib.TOMLDecodeError, KeyError, ValueError) as error:
        raise StoreError(f"{run.path}: config.toml names no preset and rng_seed ({error})") from error
    evaluation, outcomes = read(run, EVALUATION_FILE, Evaluation), read(run, OUTCOMES_FILE, Outcomes)
    if evaluation is None or outcomes is None:
        raise StoreError(f"{run.path}: {EVALUATION_FILE} and {OUTCOMES_FILE} are not those of this version")
    return RunResult(run.path.name, preset, rng_seed, evaluation, outcomes, attack_result(run))
