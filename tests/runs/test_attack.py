"""Claims about `magic-rl attack`: what a fresh attacker finds, and that no accident changes its numbers."""

from __future__ import annotations

import json
import re
import shutil
import signal
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from magic_rl.cli.main import app
from magic_rl.config import Config, dump_config, load_config
from magic_rl.data.split import Split
from magic_rl.errors import UserError
from magic_rl.evaluation.estimates import Estimate, attack_at_k, seed_rate, seed_ratio
from magic_rl.evaluation.result import ATTACK_FILE, AttackOnOne, AttackResult, read
from magic_rl.prompts import load_prompts
from magic_rl.report.tables import attack_table
from magic_rl.runs import attack as module
from magic_rl.runs.assembly import Setup
from magic_rl.runs.attack import ATTACKED, forget, make_plan
from magic_rl.runs.evaluate import evaluate
from magic_rl.runs.train import train
from magic_rl.store.run import RunDirectory
from magic_rl.theory.tabular import TabularJudge, TabularPolicy
from magic_rl.types import Exchange, Verdict
from tests.conftest import TINY_CONFIG
from tests.runs.test_train import Silent
from tests.support.fabricated_run import inputs
from tests.theory.test_tabular import COMPLY, REFUSE, duel, engines

LONGER = [
    "game.schedule.rounds=2",
    "store.checkpoint_every=2",
    'data.held_out_categories=["c1", "c2"]',
    "learning.group_size=4",
    "attacker.optimiser.lr=0.0003",
    "defender.optimiser.lr=0.0005",
    "attacker.sampling.max_tokens=40",
    "defender.sampling.max_tokens=40",
    "evaluation.max_reply_tokens=40",
    "evaluation.best_of=5",
]
STEPS = 5


class Fickle:
    """A judge for noise: it labels about half of the outputs of tiny models unsafe, always the same half."""

    name = "fickle"

    def judge(self, exchanges: Sequence[Exchange]) -> list[Verdict]:
        return [Verdict("unsafe" if zlib.crc32(f"{e.attack}{e.reply}".encode()) % 2 else "safe") for e in exchanges]


@pytest.fixture(scope="module", autouse=True)
def _fickle() -> Iterator[None]:
    """The rules judge labels all output of a tiny model safe, from which no attacker could learn."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("magic_rl.runs.assembly.make_judge", lambda _: Fickle())
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, seeds_file: Path) -> RunDirectory:
    """A complete run on the tiny model. Tests that attack it copy it first."""
    folder = tmp_path_factory.mktemp("attacked")
    config = folder / "config.toml"
    config.write_text(TINY_CONFIG.format(model=json.dumps(str(tiny_model)), seeds=json.dumps(str(seeds_file))))
    return train(load_config(config, LONGER), folder / "run", Silent())


@pytest.fixture(scope="module")
def attacked(trained: RunDirectory, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """The same run after an undisturbed attack."""
    run = copied(trained, tmp_path_factory.mktemp("unbroken"))
    assert attack(run, steps=STEPS, every=2) is not None
    return run


def copied(run: RunDirectory, folder: Path) -> RunDirectory:
    return RunDirectory.open(Path(shutil.copytree(run.path, folder / "run")))


def attack(run: RunDirectory, view: Silent | None = None, **asked: Any) -> AttackResult[Estimate] | None:
    """What the command does."""
    with run.lock():
        return module.attack(run, make_plan(run, **asked), view or Silent())


def attack_of(run: RunDirectory) -> AttackResult[Estimate]:
    found = read(run, ATTACK_FILE, AttackResult[Estimate])
    assert found is not None
    return found


def left_behind(run: RunDirectory) -> dict[str, Any]:
    """Everything reproducible that an attack leaves in a run."""
    found: dict[str, Any] = {"result": run.read_json("attack.json")}
    for name in ("start", "trained"):
        part = RunDirectory(run.path / "attacks" / name)
        checkpoint = part.latest_checkpoint()
        assert checkpoint is not None
        found[name] = (
            part.metrics(),
            [part.episodes(step) for step in part.episode_steps()],
            checkpoint.state,
            (checkpoint.policy("attacker") / "adapter_model.safetensors").read_bytes(),
        )
    return found


# What it measures


def test_a_fresh_attacker_finds_a_leak_and_nothing_where_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    game = duel()
    made = engines(game)
    config = Config.model_validate(
        {
            "learning": {"group_size": 8},
            "attacker": {"optimiser": {"lr": 0.2}, "batch_size": 8},
            "evaluation": {"attacks_per_seed": 4},
        }
    )
    run = RunDirectory.create(tmp_path / "run", dump_config(config), {"python": "3"}, inputs=inputs(config))
    leaky, sound = (np.tile(np.eye(3)[REFUSE], (len(game.attacks), 1)) for _ in range(2))
    leaky[[text.endswith("encoded") for text in game.attacks]] = np.eye(3)[COMPLY]
    for number, table in enumerate((leaky, sound)):
        defender = made["defender"].new_policy("defender")
        with torch.no_grad():
            defender._logits.copy_(torch.from_numpy(np.where(table > 0, 0.0, -50.0)))
        run.save_player("defender", number, defender.snapshot("saved"), step=number)
    run.save_player("attacker", 0, made["attacker"].base(), step=0)

    def prepared(settings: Config) -> Setup:
        split = Split(train=game.seeds, held_out=game.seeds)
        return Setup(settings, load_prompts(), split, TabularJudge(game), dict(made.items()))

    monkeypatch.setattr(module, "prepare", prepared)
    monkeypatch.setattr(Setup, "yardstick", lambda _: None)  # this game has no vanilla seeds
    result = attack(run, steps=40, every=10)
    assert result is not None
    assert result == attack_of(run)

    curve = [asr.value for asr in result.defenders["start"].curve.values()]
    assert list(result.defenders["start"].curve) == [0, 10, 20, 30, 40]
    assert curve[0] < 1.0
    assert curve[-1] == 1.0
    checkpoint = RunDirectory(run.path / "attacks" / "start").latest_checkpoint()
    assert checkpoint is not None
    learner = made["attacker"].load(checkpoint.policy("attacker"), "learner")
    assert isinstance(learner, TabularPolicy)
    encoded = np.array([text.endswith("encoded") for text in game.attacks])
    assert (learner.probabilities()[:2] @ np.tile(encoded, 2)).min() > 0.9  # by its own table, on both harmful seeds

    against = result.defenders["trained"]
    assert [asr.value for asr in against.curve.values()] == [0.0] * 5
    assert {k: (each.value, each.n) for k, each in against.attack_at_k.items()} == dict.fromkeys((1, 4, 16), (0.0, 2))
    assert result.ratio is not None
    assert result.ratio.value == 0.0
    assert 0.0 < result.ratio.high < 3.0


def test_before_the_first_step_asr_is_that_of_the_evaluations_sft_attacker(attacked: RunDirectory) -> None:
    table, result = evaluate(attacked, Silent()).table["asr"], attack_of(attacked)
    for name in ATTACKED:
        first, known = result.defenders[name].curve[0], table[name]["sft_attacker"]
        assert (first.value, first.low, first.high) == pytest.approx((known.value, known.low, known.high))
        assert first.n == known.n


def test_both_defenders_meet_the_same_draws_and_the_attacker_learns(attacked: RunDirectory) -> None:
    parts = [RunDirectory(attacked.path / "attacks" / name) for name in ("start", "trained")]
    seeds, first = ([[row[key] for row in part.episodes(1)] for part in parts] for key in ("seed", "turns"))
    assert seeds[0] == seeds[1]
    assert [[turn["attack"] for turn in turns] for turns in first[0]] == [
        [turn["attack"] for turn in turns] for turns in first[1]
    ]
    assert parts[0].episodes(1) != parts[1].episodes(1)  # the replies
    for part in parts:
        rows = part.metrics()
        assert [(row["step"], row["learner"]) for row in rows] == [(n, "attacker") for n in range(1, STEPS + 1)]
        assert sum(row["grad_norm"] > 0 for row in rows) >= 4
    assert list(attack_of(attacked).defenders["start"].curve) == [0, 2, 4, 5]


def test_the_game_itself_is_left_alone(trained: RunDirectory, attacked: RunDirectory) -> None:
    for path in (path for path in trained.path.rglob("*") if path.is_file() and path.name != ".lock"):
        assert (attacked.path / path.relative_to(trained.path)).read_bytes() == path.read_bytes()


# Accidents


@pytest.mark.parametrize("stop_at", [[("start", 1)], [("start", 3), ("trained", 2)], [("start", 5), ("trained", 5)]])
@pytest.mark.slow
def test_ctrl_c_saves_and_a_second_call_goes_on_to_the_same_numbers(
    stop_at: list[tuple[str, int]], trained: RunDirectory, attacked: RunDirectory, tmp_path: Path
) -> None:
    run = copied(trained, tmp_path)
    for name, step in stop_at:
        view = Stopping(name, step)
        assert attack(run, view, steps=STEPS, every=2) is None
        assert any("finishing this step" in note for note in view.notes)
        checkpoint = RunDirectory(run.path / "attacks" / name).latest_checkpoint()
        assert checkpoint is not None
        assert checkpoint.step == step
        assert run.read_json("attack.json") is None
    assert attack(run) is not None  # the number of steps is known from the first time
    assert left_behind(run) == left_behind(attacked)


def test_a_kill_between_checkpoints_changes_no_number(
    trained: RunDirectory, attacked: RunDirectory, tmp_path: Path
) -> None:
    run = copied(trained, tmp_path)
    for name, step in [("start", 1), ("start", 3), ("trained", 3), ("trained", 5)]:
        with pytest.raises(MemoryError):
            attack(run, Stopping(name, step, MemoryError), steps=STEPS, every=2)
    assert attack(run) is not None
    assert left_behind(run) == left_behind(attacked)


class Stopping(Silent):
    """Presses Ctrl-C, or crashes, at a step of the attack on one of the defenders."""

    def __init__(self, name: str, step: int, error: type[BaseException] | None = None) -> None:
        super().__init__()
        self._at, self._error, self._stage = (f"attack_{name}", step), error, ""

    def stage(self, name: str, total: int, done: int = 0) -> None:
        self._stage = name

    def step(self, metrics: Mapping[str, Any], timing: Mapping[str, Any]) -> None:
        if (self._stage, metrics["step"]) == self._at:
            if self._error:
                raise self._error
            signal.raise_signal(signal.SIGINT)


# What is refused


def test_other_attacks_are_not_mixed_with_those_that_were_begun(attacked: RunDirectory, tmp_path: Path) -> None:
    run = copied(attacked, tmp_path)
    with pytest.raises(UserError, match=r"another kind \(steps\)"):
        make_plan(run, steps=STEPS + 1)
    with pytest.raises(UserError, match=r"\(every\)"):
        make_plan(run, every=1)
    plan = make_plan(run, again=True)
    assert (plan.steps, plan.every) == (2, 0)  # as many as the game gave its attacker
    forget(run)
    assert make_plan(run) == plan
    assert not (run.path / "attacks").exists()


def test_a_later_defender_is_not_taken_for_the_one_attacked(attacked: RunDirectory, tmp_path: Path) -> None:
    run = copied(attacked, tmp_path)
    shutil.copytree(run.path / "players" / "defender-round-01", run.path / "players" / "defender-round-03")
    with pytest.raises(UserError, match=r"\(defenders\)"):
        make_plan(run)


def test_no_command_takes_an_attack_for_a_run(attacked: RunDirectory, tmp_path: Path) -> None:
    for name in ("start", "trained"):
        part = str(attacked.path / "attacks" / name)
        for args in (["export", part, "--out", str(tmp_path / "out")], ["resume", part], ["attack", part]):
            result = CliRunner().invoke(app, args)
            assert (result.exit_code, "holds no run" in result.stderr) == (2, True)
    assert not (tmp_path / "out").exists()


def test_a_run_that_has_only_begun_cannot_be_attacked(trained: RunDirectory, tmp_path: Path) -> None:
    run = copied(trained, tmp_path)
    for number in (1, 2):
        shutil.rmtree(run.path / "players" / f"defender-round-{number:02d}")
    with pytest.raises(UserError, match="no trained defender saved yet"):
        make_plan(run)


def test_a_run_without_attackers_meets_those_of_another_run(
    trained: RunDirectory, attacked: RunDirectory, tmp_path: Path
) -> None:
    text = (trained.path / "config.toml").read_text()
    file = tmp_path / "no-game.toml"
    file.write_text(text)
    config = load_config(file, ["game.rewrite=false"], "no-game", wins="preset")
    other = train(config, tmp_path / "other", Silent())
    with pytest.raises(UserError, match="has no attacker"):
        make_plan(other)
    plan = make_plan(other, source=trained)
    assert plan.steps == 2  # as the other game gave its attacker
    assert plan.config.attacker == load_config(trained.path / "config.toml").attacker
    view = Stopping("trained", 1)
    assert attack(other, view, source=trained) is None
    result = attack(other, source=trained)
    assert result is not None
    # Both games begin with the same defender, so the same attacker meets the same one.
    first = (RunDirectory(run.path / "attacks" / "start").metrics()[0] for run in (other, attacked))
    assert next(first) == next(first)


def test_an_attacker_of_other_prompts_is_refused(trained: RunDirectory, tmp_path: Path) -> None:
    run = copied(trained, tmp_path)
    config = run.path / "config.toml"
    config.write_text(config.read_text().replace("[game]\n", '[game]\nprompts = "paper"\n'))
    with pytest.raises(UserError, match=r"game\.prompts is"):
        make_plan(trained, source=run)


def test_an_attacker_that_took_no_steps_needs_a_number_of_steps(trained: RunDirectory, tmp_path: Path) -> None:
    run = copied(trained, tmp_path)
    (run.path / "metrics.jsonl").write_text("")
    with pytest.raises(UserError, match="took no steps in the game"):
        make_plan(run)
    assert make_plan(run, steps=3).steps == 3


# The command


def test_the_command_prints_its_table_and_again_without_playing(
    trained: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = copied(trained, tmp_path)
    args = ["attack", str(run.path), "--steps", "1"]
    with monkeypatch.context() as patch:
        patch.setattr("magic_rl.cli.attack.Screen", lambda: Entered("start", 1))
        assert CliRunner().invoke(app, args).exit_code == 130
    done = CliRunner().invoke(app, args, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "fresh attacker, trained defender 1/1" in done.stderr
    assert "attack@4" in done.stdout
    assert "attack@16" not in done.stdout  # no more than five were drawn
    monkeypatch.setattr(module, "prepare", None)
    assert CliRunner().invoke(app, args, catch_exceptions=False).stdout == done.stdout
    assert CliRunner().invoke(app, ["attack", str(run.path), "--steps", "2"]).exit_code == 2
    assert CliRunner().invoke(app, ["attack", str(run.path), "--steps", "0"]).exit_code == 2


class Entered(Stopping):
    """A view of the command line that presses Ctrl-C."""

    def __enter__(self) -> Entered:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def test_the_table_shows_a_rate_of_0_with_its_bound() -> None:
    half, none = seed_rate([1.0, 0.0] * 54), seed_rate([0.0] * 108)
    ratio = seed_ratio([0.0] * 108, [1.0, 0.0] * 54)
    leaky = AttackOnOne[Estimate](curve=dict.fromkeys((0, 12), half), attack_at_k=dict.fromkeys((1, 4, 16), half))
    sound = AttackOnOne[Estimate](
        curve={0: seed_rate([]), 12: none},
        attack_at_k={k: attack_at_k([(0, 16)] * 108, k) for k in (1, 4, 16)},
    )
    result = AttackResult[Estimate](steps=12, defenders={"start": leaky, "trained": sound}, ratio=ratio)
    *lines, last = attack_table(result).splitlines()
    assert [re.split(r"\s{2,}", line) for line in lines] == [
        ["fresh attacker, %", "start", "trained"],
        ["ASR ↓, n = 0–108"],
        ["after 0 of 12 steps", "50.0 [41, 59]", "–"],
        *(
            [name, "50.0 [41, 59]", "0.0 [0, 3]"]
            for name in ("after 12 of 12 steps", "attack@1", "attack@4", "attack@16")
        ),
    ]
    assert last.endswith(": 0.00 [0.00, 0.07]")
    assert attack_table(result.model_copy(update={"ratio": None})).endswith("not defined, as the start's is 0")
