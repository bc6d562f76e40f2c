"""Claims about a study's runs: they run side by side, survive any accident, and fail without affecting others."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from magic_rl.config import Config, dump_config
from magic_rl.evaluation.aggregate import aggregate
from magic_rl.evaluation.estimates import rate_of
from magic_rl.evaluation.result import EVALUATION_FILE, OUTCOMES_FILE, Evaluation, Outcomes, read
from magic_rl.report.study import PAGE_FILE, STUDY_FILE, TABLE_FILE
from magic_rl.runs.study.finished import read_results
from magic_rl.runs.study.plan import PlannedRun, Stage
from magic_rl.runs.study.runner import StudyOutcome, Work, run_all
from magic_rl.store.run import RunDirectory
from magic_rl.view import RunEvent, View
from tests.support import ROOT
from tests.support.study_runs import tabulated

MADE = (STUDY_FILE, TABLE_FILE, PAGE_FILE, "magic.svg")


class Silent(View):
    """A view that only records."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, ...]] = []
        self.lines: list[str] = []

    def run(self, name: str, event: RunEvent, text: str = "") -> None:
        if event == "line":
            self.lines.append(text)
        else:
            self.seen.append((event, name, text) if text else (event, name))


def scripted(folder: Path, names: Sequence[str], script: str, slots: int = 1) -> tuple[StudyOutcome, Silent]:
    """Run a study in which every stage is a script that gets its folder and stage as `folder` and `stage`.

    A file with the stage's name marks that a run has done it.
    """

    def undone(run: PlannedRun) -> Stage | None:
        stages: tuple[Stage, ...] = ("train", "evaluate")
        return next((stage for stage in stages if not (run.path / stage).exists()), None)

    def command(run: PlannedRun, stage: Stage) -> list[str]:
        head = "import sys, os, time; from pathlib import Path; folder, stage = Path(sys.argv[1]), sys.argv[2]"
        return [sys.executable, "-c", f"{head}\n{script}", str(run.path), stage]

    runs = [PlannedRun(folder / name, folder / f"{name}.toml") for name in names]
    for run in runs:
        run.path.mkdir(parents=True, exist_ok=True)
    view = Silent()
    work = Work(undone, command, folder / "logs", [{"SLOT": str(i)} for i in range(slots)])
    return run_all(runs, work, view), view


def test_each_run_goes_through_its_stages_and_a_finished_one_is_skipped(tmp_path: Path) -> None:
    script = "(folder / stage).touch()"
    ended, view = scripted(tmp_path, ["a", "b"], script)
    assert (ended.failed, ended.stopped) == ({}, False)
    expected = [("began", "a", "train"), ("began", "a", "evaluate"), ("finished", "a")]
    assert view.seen == [*expected, *((what, "b", *rest) for what, _, *rest in expected)]
    assert scripted(tmp_path, ["a", "b"], script)[1].seen == [("skipped", "a"), ("skipped", "b")]


def test_a_failing_run_is_named_with_its_error_and_costs_no_other(tmp_path: Path) -> None:
    script = (
        "if folder.name == 'bad': print('error: no such seeds'); print('and a last line'); sys.exit(2)\n"
        "if folder.name == 'mute': sys.exit(3)\n"
        "if folder.name == 'killed': print('step 7'); sys.stdout.flush(); os.kill(os.getpid(), 9)\n"
        "if folder.name == 'idle': sys.exit(0)\n"
        "(folder / stage).touch()"
    )
    ended, view = scripted(tmp_path, ["bad", "mute", "killed", "idle", "good"], script)
    assert ended.failed["bad"] == f"no such seeds; see {tmp_path / 'logs' / 'bad.log'}"
    assert "exit status 3" in ended.failed["mute"]
    assert "signal 9" in ended.failed["killed"]
    assert "left the run unfinished" in ended.failed["idle"]
    assert set(ended.failed) == {"bad", "mute", "killed", "idle"}
    assert view.seen[-1] == ("finished", "good")


def test_an_exchange_that_a_run_shows_does_not_hide_where_it_stands(tmp_path: Path) -> None:
    script = "print('co-evolution 3/12'); print('  attack: Pretend'); print('  judged: safe'); (folder / stage).touch()"
    _, view = scripted(tmp_path, ["a"], script)
    assert set(view.lines) == {"co-evolution 3/12"}


def test_runs_go_side_by_side_each_with_its_own_share(tmp_path: Path) -> None:
    # Each run waits until the other has begun, so one after the other would never end.
    script = (
        "(folder / 'slot').write_text(os.environ['SLOT'])\n"
        "until = time.monotonic() + 60\n"
        "other = folder.parent / ('b' if folder.name == 'a' else 'a') / 'slot'\n"
        "while not other.exists() and time.monotonic() < until: time.sleep(0.01)\n"
        "(folder / stage).touch()"
    )
    ended, _ = scripted(tmp_path, ["a", "b"], script, slots=2)
    assert not ended.failed
    assert {(tmp_path / name / "slot").read_text() for name in "ab"} == {"0", "1"}


def test_a_run_that_another_process_works_on_is_waited_for(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    code = (
        "import sys, time; from pathlib import Path; from magic_rl.store.lock import locked\n"
        "folder = Path(sys.argv[1])\n"
        "with locked(folder): print('locked', flush=True); time.sleep(1); (folder / 'train').touch()"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "a")], stdout=subprocess.PIPE, text=True)
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        _, view = scripted(tmp_path, ["a"], "(folder / stage).touch()")
    assert view.seen == [("began", "a", "evaluate"), ("finished", "a")]


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_asked_to_stop_it_lets_processes_save_and_begins_nothing(tmp_path: Path, sign: int) -> None:
    script = (
        "import signal\n"
        "def save(*_): (folder / 'saved').touch(); sys.exit(130)\n"
        "signal.signal(signal.SIGTERM, save); signal.signal(signal.SIGINT, lambda *_: os._exit(1))\n"
        f"os.kill(os.getppid(), {int(sign)})\n"
        "time.sleep(60)"
    )
    ended, view = scripted(tmp_path, ["a", "b"], script)
    assert (ended.failed, ended.stopped) == ({}, True)
    assert (tmp_path / "a" / "saved").exists()
    assert view.seen == [("began", "a", "train"), ("stopping", "a")]


TABULAR = """
import sys
from pathlib import Path
from magic_rl.config import load_config
from magic_rl.cli.study import arguments
from magic_rl.runs.study.plan import next_stage, write_plan
from magic_rl.runs.study.runner import Work, run_all
from tests.runs.test_study_runs import Silent

out = Path(sys.argv[1])
configs = {("magic", seed): load_config(Path(sys.argv[2]), [f"rng_seed={seed}"]) for seed in (0, 1)}
work = Work(
    lambda run: next_stage(run, 4),
    lambda run, stage: [sys.executable, "-m", "tests.support.tabular_run", *arguments(run, stage, 4)],
    out / "logs",
    [{}, {}],
)
sys.exit(bool(run_all(write_plan(out, configs), work, Silent()).failed))
"""


@pytest.mark.slow
def test_a_killed_study_of_tabular_games_ends_with_the_same_table(tmp_path: Path) -> None:
    config = {
        "game": {"schedule": {"rounds": 2, "defender_steps": 6, "attacker_steps": 2}},
        "learning": {"group_size": 4},
        "store": {"checkpoint_every": 2},
        "evaluation": {"temperature": 1.0, "attacks_per_seed": 2},
        **{role: {"optimiser": {"lr": 0.5}, "sft": {"steps": 0}, "batch_size": 8} for role in ("attacker", "defender")},
    }
    (tmp_path / "config.toml").write_text(dump_config(Config.model_validate(config)))
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"

    def start(out: Path) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", TABULAR, str(out), str(tmp_path / "config.toml")], cwd=ROOT)

    assert start(unbroken).wait(timeout=300) == 0
    rng = random.Random(0)
    for _ in range(3):
        process = start(broken)
        seen = progress(broken)
        until = time.monotonic() + 300
        while process.poll() is None and progress(broken) == seen and time.monotonic() < until:
            time.sleep(0.01)
        time.sleep(rng.random())  # then a random moment more
        assert process.poll() is None
        process.kill()
        process.wait()
    assert start(broken).wait(timeout=300) == 0
    for folder in (unbroken, broken):
        tabulated(folder)
    assert [(unbroken / name).read_bytes() for name in MADE] == [(broken / name).read_bytes() for name in MADE]
    change = aggregate(read_results(broken)).presets["magic"].change
    assert len(change["asr"]["vanilla"].values) == 2
    assert change["compliance"]["vanilla"].value > 0
    for run in ("magic-seed-0", "magic-seed-1"):
        rates_are_those_of_outcomes(broken / run)


def rates_are_those_of_outcomes(folder: Path) -> None:
    """Whether `outcomes.json` of a run counts up to its `evaluation.json`."""
    run = RunDirectory.open(folder)
    evaluation, outcomes = read(run, EVALUATION_FILE, Evaluation), read(run, OUTCOMES_FILE, Outcomes)
    assert evaluation is not None
    assert outcomes is not None
    for table, found in (
        (evaluation.table["asr"], outcomes.escaped),
        (evaluation.table["compliance"], outcomes.answered),
    ):
        for who, row in table.items():
            for attacker, number in row.items():
                seeds = found[who][attacker]
                assert {len(seed) for seed in seeds} == {1 if attacker == "vanilla" else 2}
                of = [(outcome, str(place)) for place, seed in enumerate(seeds) for outcome in seed]
                assert rate_of(*zip(*of, strict=True)) == number


def progress(folder: Path) -> list[tuple[str, int]]:
    """The lasting files that the runs of a study have written."""
    kept = (path for path in folder.glob("*/*.json*") if not path.name.startswith("."))
    return sorted((str(path), path.stat().st_size) for path in kept)


@pytest.mark.slow
def test_a_killed_study_of_a_tiny_model_ends_with_the_same_table(tmp_path: Path, tiny_config: Path) -> None:
    def start(out: Path) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "magic_rl.cli.main", "study", str(tiny_config), "--out", str(out)]
        chosen = ["--rng-seeds", "0,1", "--jobs", "2", "--set", "store.checkpoint_every=1"]
        return subprocess.Popen([*command, *chosen], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def wait_for(*patterns: str) -> None:
        until = time.monotonic() + 300
        while not any(path.stat().st_size for pattern in patterns for path in broken.glob(pattern)):
            assert time.monotonic() < until
            time.sleep(0.02)

    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    whole = start(unbroken)
    table, _ = whole.communicate(timeout=300)
    assert whole.returncode == 0

    killed = start(broken)
    wait_for("magic-seed-0/metrics.jsonl")
    killed.kill()
    killed.communicate()
    interrupted = start(broken)
    wait_for("*/evaluation.json")  # written last: that run is finished
    interrupted.send_signal(signal.SIGINT)
    _, said = interrupted.communicate(timeout=300)
    assert interrupted.returncode == 130
    assert said.splitlines()[-1] == "stopped; the same command continues from here"
    last = start(broken)
    again, said = last.communicate(timeout=300)
    assert last.returncode == 0, said
    assert "finished before" in said
    assert again == table
    for run in ("magic-seed-0", "magic-seed-1"):
        assert (unbroken / run / "metrics.jsonl").read_bytes() == (broken / run / "metrics.jsonl").read_bytes()
    assert [(unbroken / name).read_bytes() for name in MADE] == [(broken / name).read_bytes() for name in MADE]
