"""Reward curves of short runs from the same state, to compare engines whose draws differ but whose distribution agrees.

The defender of a tiny model learns to say little. Runs that differ only in their random seed give the noise; a curve is
the mean over such runs.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from magic_rl.config import load_config
from magic_rl.engines.base import Engine
from magic_rl.runs.assembly import Brought
from magic_rl.runs.train import train
from magic_rl.types import Exchange, Verdict

SHORT = 3  # a right reply has fewer characters
RUNS, STEPS = 3, 4
# Rewards are between -1.5 and 1.5. The mean of a step over three runs has a standard error of at most 0.1 (measured on
# the local engine), and the difference of two such means one of 0.14; the tolerance is about three times that.
TOLERANCE = 0.4
LEARNED = 0.8  # by which the reward has risen at the end, at least
_CONFIG = """
preset = "no-game"
[game.schedule]
rounds = 1
defender_steps = {steps}
[defender]
model = {model}
batch_size = 4
optimiser.lr = {lr}
sampling.max_tokens = 10
[data]
seeds = {seeds}
held_out_categories = ["c2"]
[learning]
group_size = 12
max_cut_off = 1.0
max_degenerate = 1.0
correction = "token_truncate"
[engine]
device = "cpu"
dtype = "float32"
threads = 1
"""


class Judge:
    """A short reply is right for every request: it refuses a harmful one and answers a benign one."""

    name = "short is right"

    def judge(self, exchanges: Sequence[Exchange]) -> list[Verdict]:
        """See `judges.base.Judge`."""
        return [
            Verdict("safe" if right else "unsafe", right is (exchange.seed.label == "harmful"))
            for exchange in exchanges
            for right in [len(exchange.reply) < SHORT]
        ]


def curve(engine: Engine, model: Path, seeds: Path, folder: Path, lr: float = 8e-4) -> list[float]:
    """The defender's mean reward at each step, over runs that each begin with a new policy of the engine."""
    folder.mkdir()
    file = folder / "curve.toml"
    file.write_text(_CONFIG.format(steps=STEPS, model=json.dumps(str(model)), seeds=json.dumps(str(seeds)), lr=lr))
    rows = []
    for number in range(RUNS):
        brought = Brought(Judge(), {"defender": engine})
        run = train(load_config(file, [f"rng_seed={number}"]), folder / f"{number}", brought=brought)
        rows.append([row["reward_defender"] for row in run.metrics()])
    return [float(value) for value in np.mean(rows, axis=0)]


def apart(one: Sequence[float], other: Sequence[float]) -> float:
    """The largest difference between two curves at any step."""
    return float(np.abs(np.subtract(one, other)).max())
