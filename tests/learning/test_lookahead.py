"""Claims about sampling a step ahead: which policy samples, when no step is sampled ahead, and that a run resumes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from magic_rl.config import Config, load_config
from magic_rl.errors import ConfigError, EngineError
from magic_rl.game.schedule import Schedule
from magic_rl.learning.coevolve import GameStep, coevolve
from magic_rl.learning.rollouts import sample_outcomes
from magic_rl.runs.assembly import loop_settings
from magic_rl.runs.train import resume, train
from tests.engines.test_vllm import metrics
from tests.runs.test_train import Silent
from tests.support.fake_vllm import Body, FakeVllm, Fault
from tests.support.tabular_arena import make_arena
from tests.theory.test_tabular import duel


def tree(**schedule: Any) -> Config:
    game = {"schedule": {"rounds": 2, "defender_steps": 3, "attacker_steps": 2, **schedule}}
    player = {"batch_size": 4, "optimiser": {"lr": 0.3}}
    learning = {"correction": "token_truncate", "group_size": 8}
    return Config.model_validate({"game": game, "attacker": player, "defender": player, "learning": learning})


def steps(config: Config, ahead: Any) -> list[GameStep]:
    arena, _ = make_arena(duel())
    return list(
        coevolve(replace(arena, settings=loop_settings(config)), Schedule.start(config.game.schedule), ahead=ahead)
    )


def test_a_turn_and_a_checkpoint_begin_with_samples_of_their_own() -> None:
    found = steps(tree(), lambda number: number != 6)
    assert [step.metrics["staleness"] for step in found] == [0, 1, 1, 0, 1, 0, 0, 1, 0, 1]
    assert all("staleness" not in step.metrics for step in steps(tree(), None))


def test_samples_taken_ahead_are_of_the_policy_before_the_update() -> None:
    config = tree()
    arena, _ = make_arena(duel())
    arena = replace(arena, settings=loop_settings(config))
    first, second, *_ = steps(config, lambda _: True)
    assert list(second.outcomes) == sample_outcomes(arena, first.schedule, 2)  # by fresh policies
    assert float(second.metrics["mismatch"] or 0) > 0  # because the first update has moved the policy since
    assert first.metrics["mismatch"] == pytest.approx(0, abs=1e-12)


def test_a_game_learned_a_step_behind_is_learned_as_well() -> None:
    config = tree(rounds=1, defender_steps=40, attacker_steps=0)
    behind, abreast = (
        fmean(float(step.metrics["reward_defender"] or 0) for step in steps(config, ahead)[-10:])
        for ahead in (lambda _: True, None)
    )
    assert behind == pytest.approx(abreast, abs=0.1)
    assert behind > 0.5


@pytest.mark.parametrize(
    "setting",
    [
        "engine.sampler=local",
        "learning.correction=none",
        "attacker.sampling.temperature=0.9",
        "defender.sampling.top_p=0.9",
    ],
)
def test_looking_ahead_without_its_correction_is_refused(tiny_config: Path, setting: str) -> None:
    settings = ["engine.sampler=vllm", "learning.look_ahead=true"]
    assert load_config(tiny_config, settings).learning.look_ahead
    with pytest.raises(ConfigError, match="look_ahead needs"):
        load_config(tiny_config, [*settings, setting])


@pytest.mark.slow
def test_a_run_that_looks_ahead_is_resumed_as_if_unbroken(tiny_config: Path, tiny_model: Path, tmp_path: Path) -> None:
    with FakeVllm(tiny_model, rank=16) as server:
        settings = ["engine.sampler=vllm", f'engine.vllm.urls=["{server.url}"]', "learning.look_ahead=true"]
        settings += ["game.schedule.defender_steps=5", "store.checkpoint_every=3", "learning.kl_coef=0.1"]
        unbroken = train(load_config(tiny_config, settings), tmp_path / "unbroken", Silent())
        assert [row.get("staleness") for row in unbroken.metrics()] == [None, 0, 1, 0, 1, 1, 0]

        class Killed(Silent):
            def step(self, metrics: Any, timing: Any) -> None:
                if metrics["step"] == 5:
                    raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            train(load_config(tiny_config, settings), tmp_path / "run", Killed())
        assert metrics(resume(tmp_path / "run", Silent())) == metrics(unbroken)

        def gone(path: str, _body: Body) -> Fault:
            return "drop" if path == "/v1/completions" and server.count("/v1/load_lora_adapter") > loads + 5 else None

        loads, server.fault = server.count("/v1/load_lora_adapter"), gone
        with pytest.raises(EngineError):
            train(load_config(tiny_config, [*settings, "engine.vllm.patience=0.2"]), tmp_path / "lost", Silent())
