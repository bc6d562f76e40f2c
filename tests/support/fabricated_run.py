"""A fabricated run for tests of the report, with hostile text everywhere that text of a model or a data set may be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from magic_rl.config import Config, dump_config
from magic_rl.evaluation.drift import DRIFT_FILE, Drift, of_round
from magic_rl.evaluation.estimates import Estimate, mean, rate
from magic_rl.evaluation.result import (
    COST_FILE,
    DEFENDERS,
    EVALUATION_FILE,
    FAILURES_FILE,
    OTHERS,
    OUTCOMES_FILE,
    Cost,
    Crossplay,
    HeldOut,
    Kappa,
    measured,
    write,
)
from magic_rl.evaluation.summary import failures, outcomes
from magic_rl.store.run import RunDirectory
from magic_rl.types import Episode, Outcome, Rewards, Sample, Seed, Turn, Verdict
from tests.support.evaluations import cell, compared, evaluation, replies

HOSTILE = (
    '<script>window.hit = 1; alert("hit")</script>',
    '<img src="x" onerror="window.hit = 1"><link rel="stylesheet" href="https://example.invalid/leak">',
    '</dd></details></style></title></textarea></script><svg onload="window.hit = 1"><a href="javascript:hit">',
    "{{ 7 * 7 }} {% for x in y %} {# hidden #}",
    '"><base href="https://example.invalid/"><form action="https://example.invalid/"><input autofocus onfocus=hit>',
    "&lt;script&gt; \u202e \x1b[31m \ud800 \u200b",
)


CHECKED: dict[str, Any] = {"held_out": 0, "repeated_in_training": 0, "searched": {}}


def inputs(config: Config) -> dict[str, Any]:
    """The inputs.json of a run for which nothing was compared."""
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
    """A run after the game and its evaluation."""
    run = begun_run(folder)
    for step in range(2, 8):
        run.log(play_row(step, asr=None if step == 3 else 0.5))
        run.write_episodes(
            step,
            [outcome(label, text, refused=label == "benign") for label in ("harmful", "benign") for text in HOSTILE],
        )
    write_evaluation(run)
    return run


def write_evaluation(run: RunDirectory) -> None:
    """Write an evaluation in which half of the seeds escape and are answered at the start; trained, 4 and 40 of 42."""
    half = (True, False) * 21
    before = cell(half, half, half, HOSTILE, HOSTILE[:2])
    after = cell((True,) * 4 + (False,) * 38, (False,) * 2 + (True,) * 40, (), HOSTILE, HOSTILE[:2])
    cells, some = compared(before, before, after), rate(21, 42)
    said = [
        replies(tokens=mean([8.0, 12.0, 10.0]), quality=mean([0.5, 0.75])),
        replies(tokens=mean([8.0, 8.0])),
        replies(tokens=mean([3.0, 5.0])),
    ]
    made = evaluation(
        cells,
        measured=measured(run),
        judge=f"rules-1 {HOSTILE[0]}",
        held_out=HeldOut(harmful=42, benign=42, categories=[HOSTILE[0], HOSTILE[2]]),
        replies=dict(zip(DEFENDERS, (said[1], said[0], said[2]), strict=True)),
        crossplay=Crossplay(
            attackers=[None, 0, 1, 2],
            defenders=[0, 1, 2],
            compared={"vanilla": 0, "sft_attacker": 1, "last_attacker": 3},
            asr=[[some] * 3] * 4,
            compliance=[[some, some, rate(0, 0)]] * 4,
            replies=said,
            abstained=0,
        ),
        agreement=[Kappa(one=HOSTILE[0], other="b", label="safety", kappa=Estimate(0.612, 0.4, 0.8, 84))],
    )
    write(run, FAILURES_FILE, failures(cells))
    write(run, OUTCOMES_FILE, outcomes(cells), indent=None)
    write(run, EVALUATION_FILE, made)
    write(run, COST_FILE, Cost(ended="2026-01-31", seconds=3725.0, replies=1008, tokens=40320, judge_tokens=2048))
    other = RunDirectory(run.path / OTHERS / "guard-1")
    other.path.mkdir(parents=True)
    write(other, EVALUATION_FILE, made.model_copy(update={"instead": {"judge": HOSTILE[0]}}))
    classes = [frozenset({"role_play"}), frozenset({"role_play", "encoding"})]
    rounds = {n: of_round(HOSTILE[:2], classes[n:] * 2, classes[:1]) for n in (0, 1)}
    agreement = {"same classes": rate(40, 46)}
    write(run, DRIFT_FILE, Drift(step=7, rounds=rounds, classifier=HOSTILE[0], agreement=agreement))
