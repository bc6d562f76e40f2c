"""Which runs a study has and what each of them still needs: read from the disk, so a killed study can continue.

A run is a preset and a random seed, in its own directory. Its resolved config is written before anything is trained,
so that a study continues, even days later, with the same settings or not at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from magic_rl.config import PRESETS, Config, PresetName, differences, dump_config, load_config
from magic_rl.errors import UserError
from magic_rl.evaluation.result import ATTACK_FILE, ATTACK_PLAN, current_attack, current_evaluation
from magic_rl.store import atomic, manifest
from magic_rl.store.run import RunDirectory

Stage = Literal["train", "resume", "evaluate", "attack"]

_CONFIGS = ".configs"


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """One run of a study."""

    path: Path  # its run directory, which need not exist yet
    config: Path  # file with all its settings
    # The run that lends its attacker to attack this one, if its own attacker had no SFT.
    attackers: Path | None = None

    @property
    def name(self) -> str:
        """The name of its directory: preset and random seed."""
        return self.path.name


def write_plan(out: Path, configs: Mapping[tuple[PresetName, int], Config], attack_steps: int = 0) -> list[PlannedRun]:
    """Write the settings of the runs of a study.

    Args:
        out: Directory of the study, made if it does not exist. It may hold runs already, these or others.
        configs: Settings by preset and random seed.
        attack_steps: Steps of the fresh attacker; 0 if there is none.

    Returns:
        The runs, one random seed after another, so that a study stopped half-way has something to compare. Those
        without attacker SFT come last of each: another run's attacker attacks them, so that all presets meet the same.

    Raises:
        UserError: If a run was planned with other settings before, there is no attacker to attack it with, or the
            directory is not writable.
    """
    order = sorted(configs, key=lambda key: (key[1], not configs[key].attacker.sft.steps))
    runs = []
    for preset, rng_seed in order:
        config, name = configs[preset, rng_seed], f"{preset}-seed-{rng_seed}"
        lender = None if config.attacker.sft.steps else _lender(out, configs, rng_seed)
        run = PlannedRun(out / name, out / _CONFIGS / f"{name}.toml", lender)
        before = next((path for path in (run.path / "config.toml", run.config) if path.is_file()), None)
        trees = (each.model_dump(mode="json") for each in (load_config(before) if before else config, config))
        if changed := differences(*trees):
            raise UserError(f"{before}: begun with another {min(changed)}", "same command")
        if attack_steps and not (config.game.rewrite or lender or (run.path / ATTACK_FILE).is_file()):
            raise UserError(f"preset {preset} has no attacker", "add a teaching preset", run=run.path)
        runs.append(run)
    for run, config in zip(runs, (configs[key] for key in order), strict=True):
        atomic.make_folder(run.config.parent)
        atomic.write_file(run.config, dump_config(config).encode())
    return runs


def next_stage(run: PlannedRun, attack_steps: int = 0) -> Stage | None:
    """What a run needs next; None if it is finished.

    Args:
        attack_steps: Steps of the fresh attacker; 0 if there is none.

    Raises:
        UserError: If the run directory is damaged.
    """
    if not (run.path / "config.toml").is_file():
        return "train"
    directory = RunDirectory.open(run.path)
    if not directory.is_complete:
        return "resume"
    if current_evaluation(directory) is None:
        return "evaluate"
    if attack_steps and not _is_attacked(run, directory, attack_steps):
        return "attack"
    return None


def _lender(out: Path, configs: Mapping[tuple[PresetName, int], Config], rng_seed: int) -> Path | None:
    """The run that lends its attacker: of the first preset with attacker SFT, planned now or before."""
    for preset in PRESETS:
        path = out / _CONFIGS / f"{preset}-seed-{rng_seed}.toml"
        config = configs.get((preset, rng_seed)) or (load_config(path) if path.is_file() else None)
        if config and config.attacker.sft.steps:
            return out / path.stem
    return None


def _is_attacked(run: PlannedRun, directory: RunDirectory, steps: int) -> bool:
    """Whether a fresh attacker learned for so many steps, from the same start as against the other runs."""
    result = current_attack(directory)
    if result is None or result.steps != steps:
        return False
    plan, lent = directory.read_json(ATTACK_PLAN), run.attackers and run.attackers / "players" / "attacker-round-00"
    return not (plan and lent and lent.is_dir()) or bool(plan["attacker"] == manifest.fingerprint(lent))
