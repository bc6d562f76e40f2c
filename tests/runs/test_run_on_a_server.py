"""A run whose weights are on a server continues where it was when the server comes back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from magic_rl.config import Config, load_config
from magic_rl.errors import ConfigError, UserError
from magic_rl.runs.train import resume, train
from magic_rl.store.run import RunDirectory

pytest.importorskip("tinker", reason="the extra 'tinker' is not installed")

from tests.support.fake_tinker import FakeTinker


@pytest.fixture
def fake(tiny_model: Path) -> Iterator[FakeTinker]:
    with FakeTinker(tiny_model) as server:
        yield server


KL = ("learning.kl_coef=0.1",)  # so that every step has something to learn


def config(file: Path, fake: FakeTinker, *more: str) -> Config:
    where = ["engine.kind=tinker", "engine.tinker.server=tuft", f"engine.tinker.url={fake.url}"]
    shape = [f"{role}.lora.rank=4" for role in ("attacker", "defender")]
    return load_config(file, [*where, *shape, "engine.tinker.patience=0.5", "game.schedule.rounds=2", *KL, *more])


def taken(run: RunDirectory, fake: FakeTinker) -> list[tuple[int, int]]:
    """Steps of each learner in the last checkpoint, by its own count and by its optimiser's."""
    checkpoint = run.latest_checkpoint()
    assert checkpoint is not None
    saved = [
        json.loads((checkpoint.policy(role) / "server_state.json").read_text()) for role in ("attacker", "defender")
    ]
    return [(each["steps"], fake.steps(each["state"])) for each in saved]


def numbers(run: RunDirectory) -> list[Any]:
    return [pytest.approx({k: v for k, v in row.items() if isinstance(v, float)}, abs=1e-5) for row in run.metrics()]


def test_a_run_goes_on_with_the_step_at_which_its_server_died(
    fake: FakeTinker, tiny_config: Path, tmp_path: Path
) -> None:
    whole = train(config(tiny_config, fake), tmp_path / "whole")
    assert len(whole.metrics()) == 5
    fake.kill_after, fake.down = ("optim_step", 3), 1e9
    with pytest.raises(UserError, match="saved there"):
        train(config(tiny_config, fake), tmp_path / "broken")
    assert len(RunDirectory.open(tmp_path / "broken").metrics()) == 2  # not the step that was running
    fake.start_again()
    run = resume(tmp_path / "broken")
    assert [{k: v for k, v in row.items() if isinstance(v, float)} for row in run.metrics()] == numbers(whole)
    assert taken(run, fake) == taken(whole, fake)
    assert (run.player("defender", 2) / "adapter_model.safetensors").exists()


@pytest.mark.parametrize("setting", ["defender.optimiser.beta2=0.95", "store.checkpoint_every=9"])
def test_a_setting_that_would_do_nothing_there_is_refused(fake: FakeTinker, tiny_config: Path, setting: str) -> None:
    from magic_rl.runs.assembly import load_engines

    with pytest.raises(ConfigError, match=setting.partition("=")[0]):
        load_engines(config(tiny_config, fake, setting, "engine.tinker.server=skyrl-megatron"))
