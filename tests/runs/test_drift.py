"""Claims about measuring drift: which attacks count for which round, and what is written and printed about them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from magic_rl.chat.base import ChatRequest
from magic_rl.cli.main import app
from magic_rl.config import dump_config, load_config
from magic_rl.evaluation.drift import DRIFT_FILE, Drift
from magic_rl.evaluation.result import read
from magic_rl.report.page import write_report
from magic_rl.runs import drift as module
from magic_rl.runs.drift import attacks_by_round, find_embedder, measure_drift
from magic_rl.store.run import RunDirectory
from magic_rl.types import Role
from tests.support.chatting import Scripted
from tests.support.fabricated_run import begun_run, outcome, play_row


@pytest.fixture
def begun(tmp_path: Path) -> RunDirectory:
    """A run that has taken one step before the game."""
    return begun_run(tmp_path)


def counts(run: RunDirectory) -> dict[int, int]:
    return {number: len(attacks) for number, attacks in attacks_by_round(run).items()}


def test_an_attack_that_a_group_shares_counts_once_for_the_round_before(begun: RunDirectory) -> None:
    one = outcome("harmful", "", refused=True)
    other = replace(one, episode=replace(one.episode, group=1))
    begun.log(play_row(2, round=1, learner="defender"))
    begun.write_episodes(2, [one, one, one, other])
    begun.log(play_row(3, round=1, learner="attacker"))
    begun.write_episodes(3, [one, one, one])
    assert counts(begun) == {0: 2, 1: 3}


def test_attacks_of_a_mixture_of_attackers_are_no_rounds_own(begun: RunDirectory) -> None:
    config = load_config(None, ["game.opponents=uniform"])
    (begun.path / "config.toml").write_text(dump_config(config))
    learners: tuple[Role, ...] = ("defender", "attacker") * 2
    for step, learner in enumerate(learners, 2):
        begun.log(play_row(step, round=step // 2, learner=learner))
        begun.write_episodes(step, [outcome("harmful", "", refused=True, group=group) for group in range(step)])
    assert counts(begun) == {0: 2, 1: 3, 2: 5}


def test_classes_by_a_model_are_written_printed_and_reported(
    begun: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step, words in ((2, "slang"), (3, "a scene")):
        begun.log(play_row(step, round=1, learner="defender" if step == 2 else "attacker"))
        begun.write_episodes(step, [outcome("harmful", f"{words} {i}", refused=True, group=i) for i in range(2 + step)])

    def told(request: ChatRequest) -> str:
        attack = json.loads(request.messages[-1].content)["request"]
        return json.dumps({"classes": ["role_play", "encoding"] if "scene" in attack else ["role_play"]})

    monkeypatch.setattr(module, "make_chat", lambda *_: Scripted(told))
    monkeypatch.setattr(module, "open_memory", lambda _: None)
    monkeypatch.setattr(module, "find_embedder", lambda: None)
    done = CliRunner().invoke(app, ["drift", str(begun.path), "--model", "some/model"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    found = read(begun, DRIFT_FILE, Drift)
    assert found is not None
    before, after = found.rounds[0], found.rounds[1]
    assert before.n == after.n == 4  # as many as the smaller round has
    assert (before.hybrids and before.hybrids.value, after.hybrids and after.hybrids.value) == (0.0, 1.0)
    assert after.new is not None
    assert after.new.value == 1.0
    assert "scripted against people on labelled examples" in done.stdout
    page = write_report(begun).read_text()
    assert "Share of attacks by class" in page
    assert "role play" in page
    measure_drift(begun)
    page = write_report(begun).read_text()
    assert "Share of attacks by class" not in page
    assert "no table of them" in page


def test_the_embedder_finds_a_paraphrase_nearer_than_another_topic() -> None:
    embedder = find_embedder()
    if embedder is None:
        pytest.skip("the extra `drift` is not installed")
    texts = ["How do I bake bread?", "What is the way to make a loaf of bread?", "The train leaves at noon."]
    vectors = embedder.embed(texts)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(3), abs=1e-5)
    assert vectors[0] @ vectors[1] > 0.6 > 0.3 > vectors[0] @ vectors[2]
