"""Result files of runs, made up from a random seed, for tests; they contain the noise of runs and of seeds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from magic_rl.config import Config, dump_config
from magic_rl.evaluation.aggregate import RunResult, aggregate
from magic_rl.evaluation.estimates import Estimate, rate
from magic_rl.evaluation.result import (
    ATTACK_FILE,
    EVALUATION_FILE,
    OUTCOMES_FILE,
    AttackOnOne,
    AttackResult,
    Defender,
    write,
)
from magic_rl.evaluation.summary import Compared, outcomes
from magic_rl.report.study import write_study
from magic_rl.runs.study.finished import read_results
from magic_rl.store.run import RunDirectory
from tests.support.evaluations import ALL, cell, evaluation

SHARES: dict[Defender, tuple[float, ...]] = {  # ASR under each attacker
    "untouched": (0.5, 0.5, 0.5),
    "start": (0.1, 0.4, 0.5),
    "trained": (0.1, 0.2, 0.2),
}
SEEDS = 40


def result(rng_seed: int, preset: str = "magic") -> RunResult:
    """Everything that a run's result files hold."""
    rng = np.random.default_rng(rng_seed)
    shift = rng.normal(0, 0.05)

    def drawn(share: float) -> list[bool | None]:
        return [bool(outcome) for outcome in rng.random(SEEDS) < share + shift]

    cells: Compared = {
        who: {name: cell(drawn(share), drawn(share + 0.4)) for name, share in zip(ALL, shares, strict=True)}
        for who, shares in SHARES.items()
    }
    asr = rate(int(rng.integers(5, 30)), SEEDS)
    attacked = AttackOnOne[Estimate](curve=dict.fromkeys((0, 2, 4), asr), attack_at_k=dict.fromkeys((1, 4, 16), asr))
    attack = AttackResult[Estimate](
        steps=4,
        defenders={"start": attacked, "trained": attacked},
        ratio=Estimate(0.5 + shift, 0.3, 0.9, SEEDS),
    )
    return RunResult(f"{preset}-seed-{rng_seed}", preset, rng_seed, evaluation(cells), outcomes(cells), attack)


def tabulated(folder: Path) -> None:
    """Write the files of a study into a folder of runs, or of their small files."""
    write_study(aggregate(read_results(folder)), folder)


def write_result_files(folder: Path, rng_seed: int, preset: str = "magic") -> Path:
    """Write the small files of a finished run, as a study exports them."""
    folder.mkdir(parents=True)
    config: Any = {"preset": preset, "rng_seed": rng_seed}
    (folder / "config.toml").write_text(dump_config(Config.model_validate(config)))
    (folder / "versions.json").write_text("{}\n")
    (folder / "metrics.jsonl").write_text('{"step": 1}\n')
    run, made = RunDirectory.open(folder), result(rng_seed, preset)
    write(run, EVALUATION_FILE, made.evaluation)
    write(run, OUTCOMES_FILE, made.outcomes, indent=None)
    if made.attack:
        write(run, ATTACK_FILE, made.attack)
    return folder
