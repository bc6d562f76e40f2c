"""A whole run against past opponents: no matter how it is stopped, it continues against the same ones."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from magic_rl.config import load_config
from magic_rl.runs.train import resume, train
from magic_rl.store.run import RunDirectory
from magic_rl.types import Role
from tests.runs.test_train import Silent

ROLES: tuple[Role, Role] = ("attacker", "defender")


class Stop(Silent):
    """Asks the run to stop after a step, as Ctrl-C does, or crashes before anything of the step is saved."""

    def __init__(self, after: int, *, crash: bool) -> None:
        super().__init__()
        self.after, self.crash = after, crash

    def step(self, metrics: Mapping[str, Any], timing: Mapping[str, Any]) -> None:
        super().step(metrics, timing)
        if metrics["step"] == self.after:
            if self.crash:
                raise ConnectionError("the power went")
            signal.raise_signal(signal.SIGINT)


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["uniform", "nash"])
def test_a_resumed_run_meets_the_same_opponents(rule: str, tmp_path: Path, tiny_config: Path) -> None:
    config = load_config(
        tiny_config,
        [
            f"game.opponents={rule}",
            *(["game.opponent_seeds=4"] if rule == "nash" else []),
            "game.schedule.rounds=3",
            "game.schedule.defender_steps=2",
            "game.schedule.attacker_steps=2",
            "attacker.sampling.max_tokens=40",
            "attacker.batch_size=6",
            "defender.batch_size=6",
            "attacker.optimiser.lr=0.02",
            "defender.optimiser.lr=0.02",
            "store.checkpoint_every=3",
        ],
    )
    unbroken = train(config, tmp_path / "unbroken", Silent())
    steps = len(unbroken.metrics())
    assert steps == 1 + 3 * 4
    path = tmp_path / "broken"
    with pytest.raises(ConnectionError):
        train(config, path, Stop(5, crash=True))  # at a round's end: its payoffs are written, its checkpoint is not
    for after, crash in ((6, False), (9, True), (11, True), (12, False)):
        view = Stop(after, crash=crash)
        if crash:
            with pytest.raises(ConnectionError):
                resume(path, view)
        else:
            resume(path, view)
    resume(path, Silent())

    broken = RunDirectory.open(path)
    assert broken.metrics() == unbroken.metrics()
    for step in unbroken.episode_steps():
        assert broken.episodes(step) == unbroken.episodes(step)
    for role in ROLES:
        for number, folder in unbroken.players(role):
            ours = (broken.player(role, number) / "adapter_model.safetensors").read_bytes()
            assert ours == (folder / "adapter_model.safetensors").read_bytes()
    ends = broken.latest_checkpoint(), unbroken.latest_checkpoint()
    assert ends[0] is not None
    assert ends[1] is not None
    assert ends[0].state == ends[1].state

    payoffs = unbroken.read_json("payoffs.json")
    assert broken.read_json("payoffs.json") == payoffs
    if rule == "uniform":
        assert payoffs is None
        assert ends[1].state["payoffs"] == []
        return
    assert payoffs["attackers"] == payoffs["defenders"] == [0, 1, 2, 3]
    assert len(ends[1].state["payoffs"]) == 16
    assert len({value for row in payoffs["payoff"] for value in row}) > 2  # the versions differ, so it is worth playing
