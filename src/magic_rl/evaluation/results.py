"""The small result files of many runs: found in a folder, read, and copied to where they are kept.

A run that was trained and evaluated holds gigabytes; what its table needs is a few kilobytes, fit to be committed. A
folder of such files is read like a folder of whole runs.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from magic_rl.config import PRESETS
from magic_rl.errors import UserError
from magic_rl.evaluation.aggregate import RunResult
from magic_rl.evaluation.outcomes import OUTCOMES_FILE, is_evaluated, measured
from magic_rl.runs.progress import is_complete
from magic_rl.store import atomic
from magic_rl.store.run import RunDirectory

ATTACK_FILE = "attack.json"
ATTACK_PLAN = "attacks/plan.json"
KEPT = ("config.toml", "versions.json", "summary.json", OUTCOMES_FILE, ATTACK_FILE, "metrics.jsonl")


def is_finished(run: RunDirectory) -> bool:
    """Whether a run was trained to its end and evaluated, or is the small files of such a run."""
    if not (run.path / "players").exists():
        return run.read_json("summary.json") is not None
    return is_complete(run) and is_evaluated(run)


def attack_result(run: RunDirectory) -> dict[str, Any] | None:
    """attack.json, unless it is of other defenders than those that the run starts and ends with now."""
    found: dict[str, Any] | None = run.read_json(ATTACK_FILE)
    if found is None or not (run.path / "players").exists():  # the small files of a run were current when exported
        return found
    met = [each[:16] for each in ((run.read_json(ATTACK_PLAN) or {}).get("defenders") or {}).values()]
    defenders = list(measured(run)["defenders"].values())
    return found if defenders and met == [defenders[0], defenders[-1]] else None


def finished_runs(folder: Path) -> list[RunDirectory]:
    """The finished runs in a folder, in order of their names."""
    configs = sorted(folder.glob("[!.]*/config.toml"))
    return [run for path in configs if is_finished(run := RunDirectory.open(path.parent))]


def read_results(folder: Path) -> list[RunResult]:
    """The results of the finished runs in a folder, by preset and seed.

    Raises:
        UserError: If there are none, or a file cannot be read.
    """
    results = [_read(run) for run in finished_runs(folder)]
    if not results:
        raise UserError(f"{folder}: holds no finished run; `magic-rl study CONFIG --out {folder}` trains some")
    order: dict[str, int] = {preset: place for place, preset in enumerate(PRESETS)}
    return sorted(results, key=lambda result: (order.get(result.preset, len(order)), result.preset, result.rng_seed))


def export_results(folder: Path, target: Path) -> list[Path]:
    """Copy the small files of the finished runs in a folder: never episodes, checkpoints or adapters.

    Returns:
        Where they are, a folder per run.

    Raises:
        UserError: If they cannot be written.
    """
    folders = []
    for run in finished_runs(folder):
        out = target / run.path.name
        with atomic.writing(out):
            out.mkdir(parents=True, exist_ok=True)
        stale = (ATTACK_FILE,) if attack_result(run) is None else ()
        for name in KEPT:
            if (run.path / name).is_file() and name not in stale:
                atomic.write_file(out / name, (run.path / name).read_bytes())
            elif (out / name).exists():
                atomic.remove(out / name)  # of an earlier export
        folders.append(out)
    return folders


def _read(run: RunDirectory) -> RunResult:
    try:
        config = tomllib.loads(run.config_text)
        preset, rng_seed = str(config["preset"]), int(config["seed"])
    except (tomllib.TOMLDecodeError, KeyError, ValueError) as error:
        raise UserError(f"{run.path}: config.toml names no preset and seed ({error})") from error
    return RunResult(
        run.path.name,
        preset,
        rng_seed,
        run.read_json("summary.json"),
        run.read_json(OUTCOMES_FILE),
        attack_result(run),
    )
