"""Claims about whole runs: what a run leaves behind, and that no accident changes its numbers."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from magic_rl.config import PRESETS, load_config
from magic_rl.errors import UserError
from magic_rl.evaluation.result import FAILURES_FILE, Failures, current_evaluation, read
from magic_rl.runs.evaluate import evaluate
from magic_rl.runs.train import resume, train
from magic_rl.store.run import RunDirectory
from magic_rl.types import Exchange, Verdict
from magic_rl.view import View
from tests.support import ROOT

LONGER = [
    "game.schedule.rounds=2",
    "attacker.sft.steps=2",
    "defender.sft.steps=2",
    "store.checkpoint_every=2",
    "defender.batch_size=3",
    "learning.baseline=label",
    "learning.epochs=2",
    "learning.minibatches=2",
    "learning.target.compliance=start",
]


class Silent(View):
    """A view that only records."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.steps: list[Mapping[str, Any]] = []
        self.exchanges: list[tuple[Exchange, Verdict]] = []

    def step(self, metrics: Mapping[str, Any], timing: Mapping[str, Any]) -> None:
        self.steps.append(metrics)

    def exchange(self, exchange: Exchange, verdict: Verdict) -> None:
        self.exchanges.append((exchange, verdict))

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, seeds_file: Path) -> RunDirectory:
    """One unbroken run of all stages."""
    folder = tmp_path_factory.mktemp("unbroken")
    config = folder / "config.toml"
    from tests.conftest import TINY_CONFIG

    config.write_text(TINY_CONFIG.format(model=json.dumps(str(tiny_model)), seeds=json.dumps(str(seeds_file))))
    example = {"messages": [{"role": "user", "content": "How do I pry?"}], "completion": "I can't help with that."}
    (folder / "examples.jsonl").write_text(json.dumps(example) + "\n")  # the model's own answers are noise
    learned = f"defender.sft.examples={folder / 'examples.jsonl'}"
    return train(load_config(config, [*LONGER, learned]), folder / "run", Silent())


@pytest.mark.parametrize(
    ("learned", "says"),
    [("", "the warm-up would teach to refuse"), ('{"messages": []}', r"e\.jsonl:1: not an example")],
)
def test_what_a_warmup_cannot_learn_shows_before_anything_is_written(
    learned: str, says: str, tiny_config: Path, tmp_path: Path
) -> None:
    path = tmp_path / "e.jsonl"
    path.write_text(learned)
    settings = ["defender.sft.steps=2", *([f"defender.sft.examples={path}"] if learned else [])]
    with pytest.raises(UserError, match=says):
        train(load_config(tiny_config, settings), tmp_path / "run", Silent())
    assert not (tmp_path / "run").exists()


def test_a_run_passes_through_all_stages_and_keeps_every_episode(finished: RunDirectory) -> None:
    rows = finished.metrics()
    assert [row["step"] for row in rows] == list(range(1, 9))
    stages = [row["stage"] for row in rows]
    assert stages == ["sft_attacker"] * 2 + ["warmup_defender"] * 2 + ["play"] * 4
    assert [row["learner"] for row in rows[4:]] == ["defender", "attacker"] * 2
    assert finished.episode_steps() == [5, 6, 7, 8]
    assert [len(finished.episodes(step)) for step in (5, 6)] == [3 * 2, 2 * 2]  # seeds times group
    for role in ("attacker", "defender"):
        assert [number for number, _ in finished.players(role)] == [0, 1, 2]
    assert finished.is_complete


@pytest.mark.slow
def test_a_run_killed_at_random_points_and_resumed_ends_with_the_same_numbers(
    finished: RunDirectory, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    code = (
        "import sys; from pathlib import Path; from magic_rl.config import load_config\n"
        "from magic_rl.runs.train import train, resume; from tests.runs.test_train import Silent\n"
        "run = Path(sys.argv[2])\n"
        "resume(run, Silent()) if run.exists() else train(load_config(Path(sys.argv[1])), run, Silent())\n"
    )
    command = [sys.executable, "-c", code, str(finished.path / "config.toml"), str(run)]
    rng = random.Random(0)
    kills = 0
    for _ in range(40):
        process = subprocess.Popen(command, cwd=ROOT)
        seen = _progress(run)
        # Wait for new progress, then a random moment more, so that kills come at all kinds of instants.
        until = time.monotonic() + 120
        while process.poll() is None and _progress(run) == seen and time.monotonic() < until:
            time.sleep(0.01)
        try:
            # Early at first, so that even a fast machine is killed; then later, so that a slow one gets to the end.
            process.wait(timeout=rng.random() * (0.1 if kills < 3 else 0.5))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
            continue
        assert process.returncode == 0
        break
    assert kills >= 3
    resumed = RunDirectory.open(run)
    assert resumed.metrics() == finished.metrics()
    for step in finished.episode_steps():
        assert resumed.episodes(step) == finished.episodes(step)
    for role in ("attacker", "defender"):
        for number, path in finished.players(role):
            ours = (resumed.player(role, number) / "adapter_model.safetensors").read_bytes()
            assert ours == (path / "adapter_model.safetensors").read_bytes()


def test_a_run_in_several_processes_is_resumed_to_equal_numbers(tiny_config: Path, tmp_path: Path) -> None:
    class Stopping(Silent):
        def step(self, metrics: Mapping[str, Any], timing: Mapping[str, Any]) -> None:
            super().step(metrics, timing)
            if len(self.steps) == 4:
                raise KeyboardInterrupt

    config = load_config(tiny_config, [*LONGER, "defender.sft.steps=0", "engine.threads=2", "engine.processes=2"])
    unbroken = train(config, tmp_path / "unbroken", Silent())
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "resumed", Stopping())
    assert resume(tmp_path / "resumed", Silent()).metrics() == unbroken.metrics()


def _progress(run: Path) -> tuple[int, int]:
    """How much a run has written: bytes of metrics, checkpoints."""
    metrics = run / "metrics.jsonl"
    checkpoints = run / "checkpoints"
    return (
        metrics.stat().st_size if metrics.exists() else 0,
        len(list(checkpoints.iterdir())) if checkpoints.exists() else 0,
    )


def test_ctrl_c_finishes_the_step_and_saves(finished: RunDirectory, tmp_path: Path) -> None:
    class Interrupting(Silent):
        def step(self, metrics: Mapping[str, Any], timing: Mapping[str, Any]) -> None:
            super().step(metrics, timing)
            if metrics["step"] == 5:
                signal.raise_signal(signal.SIGINT)

    view = Interrupting()
    run = train(load_config(finished.path / "config.toml"), tmp_path / "run", view)
    assert not run.is_complete
    assert [row["step"] for row in run.metrics()] == [1, 2, 3, 4, 5]
    assert any("finishing this step" in note for note in view.notes)
    resume(run.path, Silent())
    assert RunDirectory.open(run.path).metrics() == finished.metrics()


def test_resuming_a_complete_run_changes_nothing(finished: RunDirectory) -> None:
    before = finished.metrics()
    view = Silent()
    resume(finished.path, view, ["learning.group_size=9"])
    assert finished.metrics() == before
    assert any("complete, so no setting can change" in note for note in view.notes)
    assert load_config(finished.path / "config.toml").learning.group_size != 9


def test_a_corrupted_checkpoint_is_named_and_the_one_before_is_used(finished: RunDirectory, tmp_path: Path) -> None:
    class Stop(Silent):
        def step(self, metrics: Mapping[str, Any], timing: Mapping[str, Any]) -> None:
            if metrics["step"] == 6:
                signal.raise_signal(signal.SIGINT)

    run = train(load_config(finished.path / "config.toml"), tmp_path / "run", Stop())
    newest, before = sorted(run.checkpoints(), reverse=True)[:2]
    adapter = next((run.path / "checkpoints").glob(f"*{newest}/defender/adapter_model.safetensors"))
    damaged = bytearray(adapter.read_bytes())
    damaged[-1] ^= 1
    adapter.write_bytes(damaged)
    view = Silent()
    with pytest.warns(UserWarning, match=str(newest)):
        resume(run.path, view)
    assert any(f"after step {before}" in note for note in view.notes)
    assert RunDirectory.open(run.path).metrics() == finished.metrics()


def test_an_existing_directory_is_refused_before_anything_is_loaded(tmp_path: Path, tiny_config: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").write_text("keep")
    with pytest.raises(UserError, match="already exists"):
        train(load_config(tiny_config), tmp_path / "run", Silent())


def test_pairs_inside_the_heatmap_may_meet_fewer_seeds_than_those_of_the_table(
    tmp_path: Path, tiny_config: Path
) -> None:
    chosen = ["game.schedule.rounds=2", "evaluation.inner_share=0.5"]
    run = train(load_config(tiny_config, chosen), tmp_path / "run", Silent())
    found = evaluate(run, Silent())
    assert all(rate.n == 2 for who in found.table["asr"].values() for rate in who.values())
    assert [[cell.n for cell in row] for row in found.crossplay.asr] == [[2, 1, 2], [2, 1, 2], [1, 1, 1], [2, 1, 2]]


@pytest.mark.parametrize("preset", [*PRESETS, "multi-turn"])
def test_every_preset_and_several_turns_train_and_evaluate(preset: str, tmp_path: Path, tiny_config: Path) -> None:
    chosen = ["game.turns=2"] if preset == "multi-turn" else [f"preset={preset}"]
    text = tiny_config.read_text()
    if preset in ("no-game", "magic-base"):
        text = text.replace("[attacker.sft]\nsteps = 1", "[attacker.sft]")
    if preset in ("no-game", "defender-only"):
        text = text.replace("attacker_steps = 1\n", "")
    tiny_config.write_text(text)
    run = train(load_config(tiny_config, chosen), tmp_path / "run", Silent())
    assert run.is_complete
    asr = evaluate(run, Silent()).table["asr"]
    rated = {"vanilla"} if preset == "no-game" else {"vanilla", "sft_attacker", "last_attacker"}
    assert set(asr["trained"]) == rated
    assert all(rate.n == 2 for who in asr.values() for rate in who.values())
    learners = {row["learner"] for row in run.metrics() if row["stage"] == "play"}
    assert learners == ({"defender"} if preset in ("no-game", "defender-only") else {"attacker", "defender"})
    assert len(run.players("attacker")) == (0 if preset == "no-game" else 2)
    if preset == "self-play":
        (checkpoint,) = [run.latest_checkpoint()]
        assert checkpoint is not None
        assert checkpoint.policy("shared").is_dir()


def test_the_untouched_model_meets_the_same_attacks_as_the_defenders(tmp_path: Path, tiny_config: Path) -> None:
    # Round 0 of a defender without a warm-up is the base with an adapter that does nothing.
    run = train(load_config(tiny_config, ["defender.optimiser.lr=0.05"]), tmp_path / "run", Silent())
    view = Silent()
    for grid in evaluate(run, view).table.values():
        assert grid["untouched"] == grid["start"]
    played = [row["defender"] for row in view.steps if "defender" in row]
    assert played == ["untouched model"] * 3 + ["defender of round 0 (start)"] * 3 + ["defender of round 1"] * 3


def test_an_evaluation_keeps_categories_and_the_failures_behind_its_rates(tmp_path: Path, tiny_config: Path) -> None:
    run = train(load_config(tiny_config), tmp_path / "run", Silent())
    found, failures = evaluate(run, Silent()), read(run, FAILURES_FILE, Failures)
    assert found == current_evaluation(run)
    assert failures is not None
    assert not found.verdict.startswith(("Hardened", "Partly hardened"))  # two seeds show nothing
    if (empty := found.replies["trained"].empty) and empty.value == 1:  # as a random model's may be
        assert found.verdict.startswith("Broken: 100% of the replies of the trained defender are empty")
    assert found.crossplay.compared == {"vanilla": 0, "sft_attacker": 1, "last_attacker": 2}
    assert found.categories == {"c2": found.table}
    for attacker, asr in found.table["asr"]["trained"].items():
        kept = [failure.seed.label for failure in failures.kept if failure.attacker == attacker]
        answered = found.table["compliance"]["trained"][attacker]
        assert kept.count("harmful") == round(asr.value * asr.n)
        assert kept.count("benign") == round((1 - answered.value) * answered.n)
    assert set(found.rewrites) == {"sft_attacker", "last_attacker"}
    assert found.rewrites["last_attacker"]["well_formed"].n == 4
