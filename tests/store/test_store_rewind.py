"""Rewinding to a checkpoint, and players, which outlive checkpoints."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from magic_rl.errors import StoreError
from magic_rl.store.run import RunDirectory
from tests.store.test_store import Weights, contents, flip, outcome, save


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory.create(tmp_path / "run", "rng_seed = 1\n", {"python": "3.13"})


def test_a_rewound_run_is_the_run_as_it_was(run: RunDirectory) -> None:
    def live(step: int) -> None:
        run.log({"step": step, "loss": 1 / step})
        run.log_timing({"step": step, "seconds": 0.1})
        run.write_episodes(step, [outcome(f"attack {step}")])
        if step % 2 == 0:
            run.save_player("attacker", step // 2, Weights(step), step)
            save(run, step)

    for step in (1, 2, 3, 4):
        live(step)
    before = contents(run.path)
    for step in (5, 6, 7, 8):
        live(step)
    assert run.checkpoints() == [6, 8]
    for step in (2, 4):
        shutil.copytree(run.path / "checkpoints" / "step-000008", run.path / "checkpoints" / f"step-{step:06d}")
    run.rewind(4)
    run.rewind(4)
    after = contents(run.path)
    pruned = {name for name in before if name.startswith("checkpoints/")}
    assert {name: data for name, data in after.items() if name not in pruned} == {
        name: data for name, data in before.items() if name not in pruned
    }
    assert run.checkpoints() == [2, 4]
    live(5)
    assert [row["step"] for row in run.metrics()] == [1, 2, 3, 4, 5]


def test_rewinding_to_the_start_empties_the_run(run: RunDirectory) -> None:
    before = contents(run.path)
    run.log({"step": 1})
    run.write_episodes(1, [outcome()])
    run.save_player("defender", 0, Weights(0), 1)
    run.rewind(0)
    assert contents(run.path) == before


def test_players_are_listed_by_round_and_may_be_saved_again(run: RunDirectory) -> None:
    for number in (0, 2, 10):
        run.save_player("attacker", number, Weights(number), number)
    run.save_player("defender", 0, Weights(5), 0)
    run.save_player("attacker", 2, Weights(7), 2)
    assert [(number, path.name) for number, path in run.players("attacker")] == [
        (0, "attacker-round-00"),
        (2, "attacker-round-02"),
        (10, "attacker-round-10"),
    ]
    assert Weights(7).is_whole_in(run.player("attacker", 2))
    assert Weights(5).is_whole_in(run.player("defender", 0))
    with pytest.raises(StoreError, match="no such player"):
        run.player("defender", 1)


@pytest.mark.parametrize("name", ["adapter.safetensors", "MANIFEST.json"])
def test_a_damaged_player_is_named_and_a_rewind_keeps_it_for_inspection(run: RunDirectory, name: str) -> None:
    run.save_player("attacker", 1, Weights(1), 1)
    flip(run.path / "players" / "attacker-round-01" / name)
    run.rewind(1)
    with pytest.raises(StoreError, match="attacker-round-01: corrupted player"):
        run.player("attacker", 1)
