"""Claims about Ctrl-C: one line says what is kept and what continues, and the exit status is 130."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from magic_rl.cli.main import app
from tests.support.commands import listing


def test_ctrl_c_outside_training_is_quiet_and_exits_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("magic_rl.cli.pool.load_config", interrupted)
    result = CliRunner().invoke(app, ["pool", "build", "--out", os.devnull])
    assert (result.exit_code, result.stdout, result.stderr) == (130, "", "")


@pytest.mark.parametrize(
    ("command", "begins"),
    [
        (["train", "demo", "--run", "run"], "magic_rl.runs.train.train"),
        (["demo", "--run", "run"], "magic_rl.runs.train.train"),
        (["evaluate", "run"], "magic_rl.runs.instead.subject_of"),
        (["redteam", "default", "--out", "out"], "magic_rl.runs.redteam.Attackers.target"),
        (["benchmark", "default"], "magic_rl.runs.benchmark.benchmark"),
    ],
)
def test_ctrl_c_while_starting_says_that_nothing_is_saved(
    command: list[str], begins: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(begins, interrupted)
    if command[0] == "evaluate":
        monkeypatch.setattr("magic_rl.store.run.RunDirectory.open", lambda path: path)
    result = CliRunner().invoke(app, command)
    assert (result.exit_code, result.stderr.splitlines()[-1]) == (130, "stopped, nothing saved")
    assert listing(tmp_path) == set()


@pytest.mark.parametrize(("typed", "named"), [("make demo", "`make demo` continues"), ("", "the same command")])
def test_ctrl_c_in_the_demo_names_what_was_typed(
    typed: str, named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    (tmp_path / "config.toml").touch()
    monkeypatch.setattr("magic_rl.runs.inputs.refuse_another", lambda *_: None)
    monkeypatch.setattr("magic_rl.runs.train.resume", stopped)
    result = CliRunner().invoke(app, ["demo", "--run", str(tmp_path)], env={"MAGIC_RL_TYPED": typed})
    first, *_, last = result.stderr.splitlines()
    assert (result.exit_code, str(tmp_path) in first, named in last) == (130, True, True)
