"""Claims about a study: its settings hold, its table is the same every time it is made, and its command is thin."""

from __future__ import annotations

import io
import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from magic_rl.cli.main import app
from magic_rl.cli.study import arguments
from magic_rl.cli.study_view import StudyView
from magic_rl.config import Config, PresetName, load_config
from magic_rl.errors import UserError
from magic_rl.evaluation.aggregate import aggregate
from magic_rl.report.study import PAGE_FILE, STUDY_FILE, TABLE_FILE
from magic_rl.runs.study.finished import export_results, read_results
from magic_rl.runs.study.plan import PlannedRun, next_stage, write_plan
from magic_rl.runs.study.runner import StudyOutcome
from magic_rl.runs.study.slots import slots
from magic_rl.store.lock import locked
from tests.support.study_runs import tabulated, write_result_files

MADE = (STUDY_FILE, TABLE_FILE, PAGE_FILE, "magic.svg")


def configs(*seeds: int, **changes: Any) -> Mapping[Any, Config]:
    return {("magic", seed): Config.model_validate({"rng_seed": seed, **changes}) for seed in seeds}


def test_a_study_goes_on_with_its_settings_or_not_at_all(tmp_path: Path) -> None:
    runs = write_plan(tmp_path, configs(0, 1))
    assert [run.name for run in runs] == ["magic-seed-0", "magic-seed-1"]
    assert load_config(runs[1].config).rng_seed == 1
    assert [run.name for run in write_plan(tmp_path, configs(1, 2))] == ["magic-seed-1", "magic-seed-2"]
    with pytest.raises(UserError, match=r"another learning\.group_size"):
        write_plan(tmp_path, configs(1, 3, learning={"group_size": 8}))
    assert not list(tmp_path.rglob("magic-seed-3*"))


def test_a_run_is_not_taken_for_the_directory_of_a_study(tmp_path: Path) -> None:
    (tmp_path / "config.toml").touch()
    for arguments_ in (["study", "demo", "--out", str(tmp_path)], ["study", "--rebuild", str(tmp_path)]):
        done = CliRunner().invoke(app, arguments_)
        assert done.exit_code == 2
        assert "is a run, not a study" in done.output
    assert [path.name for path in tmp_path.iterdir()] == ["config.toml"]


def test_a_new_run_is_trained_and_a_begun_one_resumed(tmp_path: Path) -> None:
    (run,) = write_plan(tmp_path, configs(0))
    assert next_stage(run) == "train"
    assert arguments(run, "train")[:2] == ("train", str(run.config))
    run.path.mkdir()
    run.config.rename(run.path / "config.toml")
    assert next_stage(run) == "resume"
    assert arguments(run, "resume") == ("resume", str(run.path))
    assert arguments(run, "attack", 7) == ("attack", str(run.path), "--steps", "7")


def test_runs_without_attacker_sft_come_last_and_borrow_an_attacker(tmp_path: Path) -> None:
    presets: tuple[PresetName, ...] = ("no-game", "magic", "magic-base", "defender-only")
    path = Path("demo")
    planned = {(p, s): load_config(path, [f"rng_seed={s}"], p) for s in (0, 1) for p in presets}
    runs = write_plan(tmp_path, planned)
    assert [run.name for run in runs[4:]] == [
        "magic-seed-1",
        "defender-only-seed-1",
        "no-game-seed-1",
        "magic-base-seed-1",
    ]
    assert [run.attackers for run in runs[4:]] == [None, None, *[tmp_path / "magic-seed-1"] * 2]
    assert arguments(runs[-1], "attack", 3)[-2:] == ("--attacker-from", str(tmp_path / "magic-seed-1"))


def test_presets_added_to_a_study_later_meet_the_same_attackers(tmp_path: Path) -> None:
    path = Path("demo")
    presets: tuple[PresetName, ...] = ("defender-only", "magic", "no-game", "magic-base")
    planned = {(p, 0): load_config(path, (), p) for p in presets}
    for preset in presets:
        (run,) = write_plan(tmp_path, {(preset, 0): planned[preset, 0]}, attack_steps=3)
    assert run.attackers == tmp_path / "magic-seed-0"


def test_a_run_that_nobody_can_attack_is_refused_before_any_begins(tmp_path: Path) -> None:
    alone = {("no-game", 0): load_config(None, (), "no-game")}
    with pytest.raises(UserError, match="preset no-game has no attacker"):
        write_plan(tmp_path, alone, attack_steps=3)  # type: ignore[arg-type]  # a preset's name
    assert not list(tmp_path.iterdir())
    (run,) = write_plan(tmp_path, alone)  # type: ignore[arg-type]  # a preset's name
    assert run.attackers is None


def test_the_presets_of_a_study_give_the_defender_the_same_steps() -> None:
    presets: tuple[PresetName, ...] = ("magic", "no-game", "defender-only", "magic-base")
    for path in (None, Path("demo")):
        schedules = [load_config(path, (), preset).game.schedule for preset in presets]
        assert {schedule.kind for schedule in schedules} == {"ratio"}
        assert len({schedule.rounds * schedule.defender_steps for schedule in schedules}) == 1


def test_the_cores_are_shared_out_unless_the_user_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("magic_rl.runs.study.slots.cores", lambda: 8)
    cpu = Config.model_validate({"engine": {"device": "cpu"}})
    with monkeypatch.context() as windows:
        windows.setattr("magic_rl.runs.study.slots.Path", lambda _: tmp_path / "no-such-file")
        windows.delattr("os.sysconf")
        assert slots(cpu) == [{}]  # nothing is known of memory
    monkeypatch.setattr("magic_rl.runs.study.slots._free_memory", lambda: 9 * 2**30)
    assert slots(cpu) == [{"OMP_NUM_THREADS": "4"}] * 2  # memory for two, cores for four
    several = load_config(None, ["engine.device=cpu", "engine.processes=4"])
    assert slots(several) == [{}]  # four processes with four threads, each with the model
    assert slots(cpu, jobs=3) == [{"OMP_NUM_THREADS": "2"}] * 3
    monkeypatch.setattr("magic_rl.runs.study.slots.cores", lambda: 2)
    assert slots(cpu) == [{}]
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert slots(cpu, jobs=2) == [{}, {}]


@pytest.fixture
def small_files(tmp_path: Path) -> Path:
    """The small files of six runs of two presets."""
    for preset in ("magic", "magic-base"):
        for seed in range(3):
            write_result_files(tmp_path / "small" / f"{preset}-seed-{seed}", seed, preset)
    return tmp_path / "small"


def test_exported_files_rebuild_the_same_bytes(small_files: Path, tmp_path: Path) -> None:
    tabulated(small_files)
    (small_files / "magic-seed-0" / "episodes").mkdir()
    (small_files / "magic-seed-0" / "episodes" / "step-000001.jsonl").write_text("{}")
    result = CliRunner().invoke(app, ["study", "--rebuild", str(small_files), "--export", str(tmp_path / "kept")])
    assert result.exit_code == 0, result.output
    names = {path.name for path in (tmp_path / "kept").rglob("*") if path.parent != tmp_path / "kept"}
    assert names == {"config.toml", "versions.json", "evaluation.json", "outcomes.json", "attack.json", "metrics.jsonl"}
    printed = CliRunner().invoke(app, ["study", "--rebuild", str(tmp_path / "kept"), "--out", str(tmp_path / "made")])
    assert printed.stdout == result.stdout
    for name in MADE:
        content = (small_files / name).read_bytes()
        assert content == (tmp_path / "kept" / name).read_bytes() == (tmp_path / "made" / name).read_bytes()


def test_the_table_shows_mean_spread_interval_and_every_run(small_files: Path) -> None:
    tabulated(small_files)
    number = aggregate(read_results(small_files)).presets["magic"].table["asr"]["start"]["vanilla"]
    mean, sd, low, high = (f"{100 * (each or 0):.1f}" for each in (number.value, number.sd, number.low, number.high))
    each = " ".join(f"{100 * value:.1f}" for value in number.values)
    for name in (TABLE_FILE, PAGE_FILE):
        for text in (f"{mean} ± {sd} [{low}, {high}]", each, "ASR, vanilla seeds ↓", "ASR, fresh attacker ↓"):
            assert text in (small_files / name).read_text()
    printed = CliRunner().invoke(app, ["study", "--rebuild", str(small_files)]).stdout
    lines = printed.splitlines()
    assert lines[0].startswith("magic: 3 runs, rng seeds 0, 1, 2; held-out seeds: 40 harmful, 40 benign")
    assert f"{mean} ± {sd} [{float(low):.0f}, {float(high):.0f}]" in printed
    assert "fresh attacker after 4 steps, trained / start (↓): 0." in printed
    assert max(map(len, lines)) <= 120


def test_the_page_holds_no_script_and_allows_none(small_files: Path) -> None:
    tabulated(small_files)
    page = (small_files / PAGE_FILE).read_text()
    assert "<script" not in page
    assert "default-src 'none'; style-src 'sha256-" in page
    assert page.count("<svg viewBox") >= 4  # changes and the attacker's curve, of two presets


def test_runs_that_cannot_be_compared_are_named(small_files: Path) -> None:
    path = small_files / "magic-seed-1" / "outcomes.json"
    outcomes = json.loads(path.read_text())
    outcomes["seeds"]["harmful"][0] = "another"
    path.write_text(json.dumps(outcomes))
    with pytest.raises(UserError, match="magic-seed-1: evaluated on other held-out seeds"):
        tabulated(small_files)


def test_an_unfinished_run_is_in_no_table(small_files: Path) -> None:
    (small_files / "magic-seed-1" / "players").mkdir()  # now a run directory whose training has not ended
    assert [result.name for result in read_results(small_files)][:2] == ["magic-seed-0", "magic-seed-2"]
    export_results(small_files, small_files.parent / "kept")
    assert len(list((small_files.parent / "kept").iterdir())) == 5


def watched(console: Console) -> None:
    """Three runs that end in three ways."""
    with StudyView(3, console) as view:
        view.run("magic-seed-0", "skipped")
        view.run("magic-seed-1", "began", "train")
        view.run("magic-seed-1", "line", "co-evolution 3/12 \x1b[31m[bold]round 1")
        time.sleep(0.6)  # long enough to be drawn
        view.run("magic-seed-1", "finished")
        view.run("magic-seed-2", "began", "evaluate")
        view.run("magic-seed-2", "failed", "no such seeds")


def test_a_piped_study_prints_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("magic_rl.cli.study_view._PAUSE", 0.0)
    out = io.StringIO()
    watched(Console(file=out, width=60))
    assert out.getvalue().splitlines() == [
        "magic-seed-0: finished before (1 of 3)",
        "magic-seed-1: training",
        "magic-seed-1: co-evolution 3/12 [31m[bold]round 1, 0:00 so far",
        "magic-seed-1: finished after 0:01 (2 of 3)",
        "magic-seed-2: evaluation",
        "magic-seed-2: failed: no such seeds",
    ]


def test_a_terminal_shows_the_runs_at_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    out = io.StringIO()
    watched(Console(file=out, width=100, force_terminal=True))
    assert "1 of 3 runs finished" in out.getvalue()
    assert "2 of 3 runs finished, 1 failed" in out.getvalue()
    assert "\x1b[31m" not in out.getvalue()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "give either CONFIG"),
        (["c.toml"], "--out"),
        (["c.toml", "--out", "o", "--presets", "magik"], "none of magic"),
        (["c.toml", "--out", "o", "--rng-seeds", "0;1"], "expected different whole numbers"),
        (["c.toml", "--out", "o", "--rng-seeds", "0,00"], "expected different whole numbers"),
        (["c.toml", "--out", "o"], "c.toml: cannot be read"),
        (["c.toml", "--out", "o", "--set", "rng_seed=3"], "--set rng_seed: a study has several; use --rng-seeds"),
        (["--rebuild", "none", "--set", "learning.group_size=8"], "--rebuild trains nothing"),
        (["--rebuild", "none"], "holds no finished run"),
    ],
)
def test_bad_usage_of_a_study_is_one_line(
    args: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["study", *args])
    assert result.exit_code == 2
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_one_study_at_a_time_in_a_directory(tmp_path: Path, tiny_config: Path) -> None:
    (tmp_path / "out").mkdir()
    with locked(tmp_path / "out"):
        result = CliRunner().invoke(app, ["study", str(tiny_config), "--out", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert f"in use by process {os.getpid()}" in result.stderr


def test_a_study_with_a_failing_run_tabulates_the_others_and_exits_1(
    tmp_path: Path, tiny_config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_result_files(tmp_path / "out" / "magic-seed-9", 9)

    def run(runs: Sequence[PlannedRun], *_: object) -> StudyOutcome:
        return StudyOutcome({runs[0].name: "out of luck"}, stopped=False)

    monkeypatch.setattr("magic_rl.runs.study.runner.run_all", run)
    result = CliRunner().invoke(app, ["study", str(tiny_config), "--out", str(tmp_path / "out"), "--rng-seeds", "0"])
    assert result.exit_code == 1
    assert "failed: magic-seed-0: out of luck" in result.stderr
    assert "1 run, rng seed 9" in result.stdout
