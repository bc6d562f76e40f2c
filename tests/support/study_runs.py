"""Result files of runs for tests, made up by a seed: both kinds of noise are in them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from magic_rl.config import Config, dump_config
from magic_rl.evaluation.metrics import Rate, paired_difference

LABELS = ("harmful", "benign")
ATTACKERS = ("vanilla", "sft_attacker", "last_attacker")
SHARES = {"start": (0.1, 0.4, 0.5), "trained": (0.1, 0.2, 0.2)}  # ASR under each attacker
SEEDS = 40


def results(rng_seed: int, attack: bool = True) -> dict[str, Any]:
    """summary.json, outcomes.json and attack.json of a run, by file name."""
    rng = np.random.default_rng(rng_seed)
    shift = rng.normal(0, 0.05)
    outcomes: dict[str, Any] = {"seeds": {label: [f"{label[0]}{i}" for i in range(SEEDS)] for label in LABELS}}
    for name, other in (("escaped", 0.0), ("answered", 0.4)):
        outcomes[name] = {
            who: {
                attacker: [[bool(x)] for x in rng.random(SEEDS) < share + shift + other]
                for attacker, share in zip(ATTACKERS, shares, strict=True)
            }
            for who, shares in SHARES.items()
        }
    files = {"summary.json": summary(outcomes), "outcomes.json": outcomes}
    if attack:
        rate = Rate(int(rng.integers(5, 30)), SEEDS).as_dict()
        defender = {
            "curve": [{"step": step, "asr": rate} for step in (0, 2, 4)],
            "best_of": dict.fromkeys(("1", "4", "16"), rate),
        }
        ratio = {"value": 0.5 + shift, "low": 0.3, "high": 0.9}
        files["attack.json"] = {"steps": 4, "defenders": dict.fromkeys(SHARES, defender), "ratio": ratio}
    return files


def summary(outcomes: Mapping[str, Any]) -> dict[str, Any]:
    """summary.json of outcomes with one attack per seed."""
    found: dict[str, Any] = {"asr": {}, "compliance": {}, "j": {}, "change": {"asr": {}, "compliance": {}, "j": {}}}
    for measure, name in (("asr", "escaped"), ("compliance", "answered")):
        for who, row in outcomes[name].items():
            found[measure][who] = {attacker: Rate.of(flat(cell)).as_dict() for attacker, cell in row.items()}
        for attacker in ATTACKERS:
            before, after = (flat(outcomes[name][who][attacker]) for who in ("start", "trained"))
            found["change"][measure][attacker] = asdict(paired_difference(before, after))
    for who in outcomes["escaped"]:
        found["j"][who] = {
            attacker: interval(
                found["compliance"][who][attacker]["rate"] - found["asr"][who][attacker]["rate"], "value"
            )
            for attacker in ATTACKERS
        }
    for attacker in ATTACKERS:
        change = found["j"]["trained"][attacker]["value"] - found["j"]["start"][attacker]["value"]
        found["change"]["j"][attacker] = interval(change, "mean")
    rate = Rate(30, SEEDS).as_dict()
    found["attackers"] = {name: {"format": rate, "on_topic": rate} for name in ATTACKERS[1:]}
    found["verdict"] = "made up"
    return found


def flat(cell: Sequence[Sequence[bool]]) -> list[bool]:
    return [outcome for seed in cell for outcome in seed]


def interval(value: float, name: str) -> dict[str, float]:
    return {name: value, "low": value - 0.15, "high": value + 0.15}


def write_result_files(folder: Path, rng_seed: int, preset: str = "magic", **changes: Any) -> Path:
    """The small files of a finished run, as they are exported."""
    folder.mkdir(parents=True)
    config = Config.model_validate({"preset": preset, "seed": rng_seed})
    (folder / "config.toml").write_text(dump_config(config))
    (folder / "versions.json").write_text("{}\n")
    (folder / "metrics.jsonl").write_text('{"step": 1}\n')
    for name, content in {**results(rng_seed), **changes}.items():
        if content is not None:
            (folder / name).write_text(json.dumps(content))
    return folder
