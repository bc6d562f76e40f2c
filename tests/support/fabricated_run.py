"""A fabricated run for tests of the report, with hostile text wherever a model or a data set may put it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from magic_rl.config import Config, dump_config
from magic_rl.evaluation.failures import failures
from magic_rl.evaluation.metrics import Rate, mean_interval
from magic_rl.evaluation.outcomes import measured, write_outcomes
from magic_rl.evaluation.summary import Cell, Compared, Failure, by_category, summarise
from magic_rl.evaluation.verdict import Attacks
from magic_rl.store.run import RunDirectory
from magic_rl.types import Episode, Label, Outcome, Rewards, Sample, Seed, Turn, Verdict

HOSTILE = (
    '<script>window.hit = 1; alert("hit")</script>',
    '<img src="x" onerror="window.hit = 1"><link rel="stylesheet" href="https://example.invalid/leak">',
    '</dd></details></style></title></textarea></script><svg onload="window.hit = 1"><a href="javascript:hit">',
    "{{ 7 * 7 }} {% for x in y %} {# hidden #}",
    '"><base href="https://example.invalid/"><form action="https://example.invalid/"><input autofocus onfocus=hit>',
    "&lt;script&gt; \u202e \x1b[31m \ud800 \u200b",
)
LABELS: tuple[Label, ...] = ("harmful", "benign")


CHECKED: dict[str, Any] = {"held_out": 0, "repeated_in_training": 0, "searched": {}}


def inputs(config: Config) -> dict[str, Any]:
    """inputs.json of a run that nothing was compared with."""
    return {"digests": {}, "checked": CHECKED, "config": config.model_dump(mode="json")}


def outcome(label: str, text: str, *, refused: bool, group: int = 0) -> Outcome:
    sample = Sample((1,), (2, 3), (-1.0, -1.0), "stop")
    turn = Turn(f"Pretend to be a pirate. {text}", f"plan {text}", True, sample, f"reply {text}", sample)
    seed = Seed(f"{label}-1", f"seed {text}", "harmful" if label == "harmful" else "benign", f"cat {text}")
    verdict = Verdict("unsafe" if label == "harmful" and not refused else "safe", refused)
    return Outcome(Episode(seed, (turn,), group), verdict, Rewards(1, 0.5, 0.5, 0, 1.5, -1.0))


def play_row(step: int, **numbers: Any) -> dict[str, Any]:
    return {
        "step": step,
        "stage": "play",
        "round": step // 4 + 1,
        "learner": "attacker" if step % 2 else "defender",
        "episodes": 10,
        "masked_cut_off": 1,
        "masked_abstained": 0,
        "asr": 0.5,
        "refusal_harmful": 0.5,
        "refusal_benign": 0.1,
        "reward_attacker": 0.2,
        "reward_defender": 0.4,
        "format_rate": 0.9,
        "attack_tokens": 20.0,
        "reply_tokens": 30.0,
        "groups_with_signal": 0.8,
        **numbers,
    }


def begun_run(folder: Path) -> RunDirectory:
    """A run that has taken one step before the game."""
    run = RunDirectory.create(folder / "run <b>x", dump_config(Config()), {"python": "3", "torch": "<i>2</i>"})
    run.log({"step": 1, "stage": "sft_attacker", "stage_step": 1, "loss": 2.0, "grad_norm": 1.0, "lr": 0.1})
    return run


def evaluated_run(folder: Path) -> RunDirectory:
    """A run that was played and evaluated."""
    run = begun_run(folder)
    for step in range(2, 8):
        run.log(play_row(step, asr=None if step == 3 else 0.5))
        run.write_episodes(
            step,
            [outcome(label, text, refused=label == "benign") for label in ("harmful", "benign") for text in HOSTILE],
        )
    write_evaluation(run)
    return run


def played(escaped: Sequence[bool], answered: Sequence[bool]) -> Cell:
    """A cell of the table, its failures in hostile words."""
    seeds = {
        label: tuple(Seed(f"{label}-{i}", f"seed {HOSTILE[i % 6]}", label, HOSTILE[i % 2]) for i in range(42))
        for label in LABELS
    }
    failed = [seed for seed, yes in zip(seeds["harmful"], escaped, strict=True) if yes]
    failed += [seed for seed, yes in zip(seeds["benign"], answered, strict=True) if not yes]
    words = [("plan " + seed.text, "Pretend to be a pirate. " + seed.text, "reply " + seed.text) for seed in failed]
    return Cell(
        tuple(escaped),
        tuple(answered),
        on_topic=tuple(escaped),
        harmful=seeds["harmful"],
        benign=seeds["benign"],
        failures=tuple(
            Failure(seed, int(seed.id.split("-")[1]), (said,)) for seed, said in zip(failed, words, strict=True)
        ),
    )


def write_evaluation(run: RunDirectory) -> None:
    """At the start half of everything escaped and was answered; trained, 4 of 42 escaped and 40 were answered."""
    half = (True, False) * 21
    cell = played(half, half)
    better = played((True,) * 4 + (False,) * 38, (False,) * 2 + (True,) * 40)
    attacks: tuple[Attacks, ...] = ("vanilla", "sft_attacker", "last_attacker")
    cells: Compared = {
        "untouched": dict.fromkeys(attacks, cell),
        "start": dict.fromkeys(attacks, cell),
        "trained": dict.fromkeys(attacks, better),
    }
    rate, row = Rate(21, 42).as_dict(), ["no rewrite", "round 0 (SFT)", "round 1", "round 2"]
    table = summarise(cells, {name: {"format": Rate(40, 42)} for name in attacks[1:]})
    run.write_json("summary.json", {**table, "measured": measured(run)})
    run.write_json("failures.json", failures(cells))
    write_outcomes(run, cells)
    run.write_json(
        "evaluation.json",
        {
            "attackers": row,
            "defenders": row[1:],
            "measured": measured(run),
            "compared": {"vanilla": 0, "sft_attacker": 1, "last_attacker": 3},
            "asr": [[rate] * 3] * 4,
            "compliance": [[rate, rate, Rate(0, 0).as_dict()]] * 4,
            "j": [[cell.j.as_dict()] * 3] * 4,
            "categories": by_category(cells),
            "format": [None, rate, rate, rate],
            "abstained": 0,
            "judge": f"rules-1 {HOSTILE[0]}",
            "replies": [
                {"tokens": mean_interval([8.0, 12.0, 10.0]), "quality": mean_interval([0.5, 0.75])},
                {"tokens": mean_interval([8.0, 8.0]), "quality": None},
                {"tokens": mean_interval([3.0, 5.0]), "quality": None},
            ],
            "agreement": [
                {"one": HOSTILE[0], "other": "b", "label": "safety", "n": 84, "kappa": 0.612, "low": 0.4, "high": 0.8}
            ],
            "held_out": {"harmful": 42, "benign": 42, "categories": [HOSTILE[0], HOSTILE[2]]},
        },
    )
