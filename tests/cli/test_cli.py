"""Claims about the command line: what a user gets wrong costs one line, exit status 2, and no file."""

from __future__ import annotations

import errno
import re
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from magic_rl import __version__
from magic_rl.cli.main import app
from magic_rl.config import dump_config, load_config
from magic_rl.evaluation.estimates import rate
from magic_rl.evaluation.result import Evaluation
from magic_rl.evaluation.summary import replies
from magic_rl.report.tables import described, evaluation_table
from magic_rl.store.run import RunDirectory
from tests.support.commands import listing, refused
from tests.support.evaluations import cell, compared, evaluation

COMMANDS = (
    "demo",
    "init",
    "train",
    "resume",
    "evaluate",
    "attack",
    "redteam",
    "audit",
    "report",
    "export",
    "serve",
    "recipes",
    "study",
    "models",
    "pool",
    "data",
    "judge",
    "bench",
    "version",
)


def changed(config: Path, old: str, new: str) -> Path:
    """The config file with one line replaced."""
    text = config.read_text()
    assert old in text
    config.write_text(text.replace(old, new))
    return config


def test_an_unknown_config_key_is_one_line_and_nothing_is_written(tmp_path: Path, tiny_config: Path) -> None:
    changed(tiny_config, "group_size = 2", "group_size = 2\ngroups = 3")
    line = refused(["train", tiny_config, "--run", tmp_path / "run"], tmp_path)
    assert "tiny.toml: learning.groups: unknown key" in line


def test_an_impossible_setting_is_one_line_and_nothing_is_written(tmp_path: Path, tiny_config: Path) -> None:
    line = refused(["train", tiny_config, "--run", tmp_path / "run", "--set", "learning.group_size=1"], tmp_path)
    assert line.startswith("error: --set learning.group_size: ")


def test_a_missing_config_is_one_line_and_nothing_is_written(tmp_path: Path) -> None:
    line = refused(["train", tmp_path / "none.toml", "--run", tmp_path / "run"], tmp_path)
    assert "none.toml: cannot be read" in line


def test_missing_seeds_are_one_line_and_nothing_is_written(tmp_path: Path, tiny_config: Path) -> None:
    missing = tmp_path / "none.jsonl"
    line = refused(["train", tiny_config, "--run", tmp_path / "run", "--set", f"data.seeds={missing}"], tmp_path)
    assert "none.jsonl" in line


def test_empty_seeds_are_one_line_and_nothing_is_written(tmp_path: Path, tiny_config: Path) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    line = refused(["train", tiny_config, "--run", tmp_path / "run", "--set", f"data.seeds={empty}"], tmp_path)
    assert "empty.jsonl" in line


def test_a_folder_without_a_model_is_one_line_and_nothing_is_written(tmp_path: Path, tiny_config: Path) -> None:
    folder = tmp_path / "no-model"
    folder.mkdir()
    (folder / "notes.txt").write_text("not a model")
    for role in ("attacker", "defender"):
        override = f"{role}.model={folder}"
        line = refused(["train", tiny_config, "--run", tmp_path / "run", "--set", override], tmp_path)
        assert "no-model" in line


def test_a_run_directory_that_exists_is_one_line_and_is_left_alone(tmp_path: Path, tiny_config: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "thesis.txt").write_text("the only copy")
    line = refused(["train", tiny_config, "--run", run], tmp_path)
    assert str(run) in line
    assert (run / "thesis.txt").read_text() == "the only copy"


@pytest.mark.parametrize("command", ["resume", "evaluate", "attack", "report", "export"])
def test_a_directory_that_holds_no_run_is_one_line(tmp_path: Path, command: str) -> None:
    extra = ["--out", str(tmp_path / "out")] if command == "export" else []
    for name in ("none", "."):
        assert str(tmp_path / name) in refused([command, tmp_path / name, *extra], tmp_path)


def test_an_unknown_strategy_is_one_line_and_no_pool_is_written(tmp_path: Path) -> None:
    line = refused(["pool", "build", "--out", tmp_path / "pool.jsonl", "--strategies", "hypnosis"], tmp_path)
    assert "hypnosis" in line


def test_the_pool_holds_each_training_seed_once_a_strategy_and_no_held_out_one(
    tmp_path: Path, tiny_config: Path
) -> None:
    out = tmp_path / "pool.jsonl"
    args = ["pool", "build", "--out", str(out), "--config", str(tiny_config), "--strategies", "slang, role_play"]
    result = CliRunner().invoke(app, args, catch_exceptions=False)
    assert result.exit_code == 0
    assert len(out.read_text().splitlines()) == 2 * 8
    assert '"c2"' not in out.read_text()
    assert "already exists" in refused(args, tmp_path)


@pytest.mark.parametrize(
    "args",
    [
        ["trian"],
        ["train"],
        ["train", "c.toml"],
        ["train", "c.toml", "--run", "r", "--preset", "nothing"],
        ["evaluate", "a", "b"],
        ["train", "c.toml", "--run"],
        ["bench", "--repeats", "0"],
        ["models", "chek"],
        ["export", "run"],
        ["--colour"],
        ["plan", "a" * 300],
        ["recipes", "http://127.0.0.1/v1", "--out", "file/recipes"],
    ],
)
def test_bad_usage_is_one_line(args: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    refused(args, tmp_path)


@pytest.mark.parametrize("args", [[], ["models"]])
def test_a_command_given_nothing_that_needs_something_prints_its_help(args: list[str]) -> None:
    result = CliRunner().invoke(app, args)
    assert (result.exit_code, "Usage:" in result.output, "error:" in result.output) == (2, True, False)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str) -> None:
    result = CliRunner().invoke(app, [command, "--help"])
    assert result.exit_code == 0
    assert "Usage:" in result.stdout


def test_the_version_is_the_packages() -> None:
    assert CliRunner().invoke(app, ["--version"]).stdout == f"magic-rl {__version__}\n"
    lines = CliRunner().invoke(app, ["version"]).stdout.splitlines()
    assert f"magic-rl {__version__}" in lines
    assert {"python", "torch", "transformers"} <= {line.split()[0] for line in lines}


def test_a_full_disk_is_one_line_and_a_bug_is_not_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(error: Exception) -> None:
        def fail(*_: object) -> None:
            raise error

        monkeypatch.setattr("magic_rl.cli.pool.load_config", fail)

    build = ["pool", "build", "--out", str(tmp_path / "pool.jsonl")]
    failing(OSError(errno.ENOSPC, "No space left on device", "runs/demo"))
    assert refused(build, tmp_path) == "error: runs/demo: No space left on device"
    failing(RuntimeError("cannot write a shard: No space left on device (os error 28)"))
    assert refused(build, tmp_path).startswith("error: the disk is full")
    failing(OSError(errno.EBADF, "Bad file descriptor"))
    with pytest.raises(OSError, match="Bad file descriptor"):
        CliRunner().invoke(app, build, catch_exceptions=False)


@pytest.mark.parametrize("width", [60, 80])
@pytest.mark.parametrize(
    "args",
    [
        ["plan", "demo", "--gpus", "1xCPU"],
        ["data", "list"],
        ["data", "check"],
        ["bench", "--quick", "--repeats", "1"],
        ["models", "check", "--quick"],
    ],
)
def test_a_narrow_terminal_cuts_no_number(
    args: list[str], width: int, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = {"bench": ["--model", str(tiny_model)], "models": [str(tiny_model)]}.get(args[0], [])
    monkeypatch.setattr("magic_rl.bench._timed", lambda *_: 1.0)
    monkeypatch.setattr("magic_rl.bench._step", lambda *_: (1.0, 1.0))
    monkeypatch.setattr("magic_rl.bench.peak_memory", lambda *_: 1_200_000_000)
    numbers = []
    for columns in (width, 500):
        monkeypatch.setenv("COLUMNS", str(columns))
        result = CliRunner().invoke(app, [*args, *model], catch_exceptions=False)
        assert "…" not in result.stdout
        numbers.append(sorted(re.findall(r"(?<![\w./-])\d[\d.,]*(?![\w./-])", result.stdout)))
    assert numbers[0] == numbers[1] != []


def test_help_answers_without_loading_torch() -> None:
    probe = """
        import resource, sys
        sys.argv = ["magic-rl", "--help"]
        from magic_rl.cli.main import app
        try:
            app()
        except SystemExit as stop:
            assert stop.code == 0
        heavy = {"torch", "transformers", "datasets", "numpy", "scipy"} & set(sys.modules)
        used = resource.getrusage(resource.RUSAGE_SELF)
        print("heavy:", sorted(heavy), "seconds:", used.ru_utime + used.ru_stime, file=sys.stderr)
    """
    command = [sys.executable, "-c", textwrap.dedent(probe)]
    seconds = []
    for _ in range(3):
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        heavy, _, used = done.stderr.rpartition("seconds:")
        assert heavy.strip() == "heavy: []"
        seconds.append(float(used))
    assert min(seconds) < 0.5


def test_a_user_error_of_a_real_process_is_one_line_without_a_traceback(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "magic_rl.cli.main", "train", "none.toml", "--run", "run"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: none.toml: cannot be read (No such file or directory); check the path\n"
    assert listing(tmp_path) == set()


@pytest.fixture
def evaluated() -> Evaluation:
    """Half of 56 for the untouched model and at the start, a quarter of 54 trained; one pair without a verdict."""
    half, quarter = (True, False) * 28, (True, False, False, False) * 14
    start = compared(cell(half, half), cell(half, half), cell((*quarter[:54], None, None), half))
    silent = cell((None,) * 56, half)
    return evaluation({**start, "start": {**start["start"], "last_attacker": silent}})


def test_the_table_shows_each_rate_with_its_interval_and_count(evaluated: Evaluation) -> None:
    lines = evaluation_table(evaluated).splitlines()
    cells = [re.split(r"\s{2,}", line) for line in lines]
    half, quarter, change = "50.0 [37, 63]", "25.9 [16, 39]", "-24.1 [-35, -12]"
    assert ["%", "untouched", "start", "trained", "change"] in cells
    assert ["ASR ↓, n = 0–56"] in cells
    assert ["vanilla seeds", half, half, quarter, change] in cells
    assert ["last attacker", half, "–", quarter, "–"] in cells
    assert ["SFT attacker", "95.2 [84, 99]", "71.4 [56, 83]", "0.0 [0, 8]"] in cells
    assert evaluated.verdict in " ".join(lines)
    assert max(map(len, lines)) <= 80


def test_the_share_of_replies_with_thoughts_is_told_if_any_has(evaluated: Evaluation) -> None:
    one = cell([True] * 9, [True] * 3)
    turns = ((replace(episode.turns[0], reply_thinking="Hm."),) for episode, _ in one.benign)
    thoughtful = [(replace(e, turns=turn), verdict) for (e, verdict), turn in zip(one.benign, turns, strict=True)]
    said = replies([replace(one, benign=thoughtful)], [False] * 12, logprob=-1.0, kl=0.0, distinct=1.0)
    table = evaluation_table(evaluated.model_copy(update={"replies": {**evaluated.replies, "trained": said}}), 200)
    head, *rows = [
        re.split(r"\s{2,}", line) for line in table.splitlines() if re.match("replies |trained |start ", line)
    ]
    assert [row[head.index("with thoughts, %")].split()[0] for row in rows] == ["–", "25.0"]
    assert "with thoughts" not in evaluation_table(evaluated, 200)


def test_rates_on_validation_seeds_are_called_that(evaluated: Evaluation) -> None:
    held_out = evaluated.held_out.model_copy(update={"split": "validation"})
    assert evaluation_table(evaluated.model_copy(update={"held_out": held_out})).startswith("Validation seeds: ")


def test_an_attacker_that_leaves_the_topic_is_named(evaluated: Evaluation) -> None:
    assert "do not ask what their seeds ask" not in evaluation_table(evaluated)
    off = {"last_attacker": {"on_topic": rate(2, 50)}, "sft_attacker": {"on_topic": rate(20, 50)}}
    table = " ".join(evaluation_table(evaluated.model_copy(update={"rewrites": off})).split())
    assert table.count("do not ask what their seeds ask") == 1
    assert "Most attacks of the last attacker" in table


def test_a_terminal_too_narrow_for_the_table_gets_short_lines(evaluated: Evaluation) -> None:
    wide, narrow = evaluation_table(evaluated), evaluation_table(evaluated, 50)
    assert max(map(len, narrow.splitlines())) <= 50
    assert "SFT attacker\n  untouched  50.0 [37, 63]\n" in narrow
    numbers = re.compile(r"[-+\d.]*\d(?= \[)")
    assert numbers.findall(narrow) == numbers.findall(wide)


def test_a_name_with_hyphens_stays_on_one_line() -> None:
    (text,) = described([("saved", "the run is in runs/my-first-run-of-magic")], 30)
    assert "runs/my-first-run-of-magic" in text


def test_a_run_without_an_attacker_has_a_table_of_vanilla_seeds() -> None:
    one = cell([True] * 9, [True] * 9)
    table = evaluation_table(evaluation(compared(one, one, one, ("vanilla",))))
    assert "attacker" not in table
    assert len(re.findall("(?m)^vanilla seeds  ", table)) == 3


@pytest.mark.slow
def test_a_whole_run_from_train_to_report(tmp_path: Path, tiny_config: Path) -> None:
    run = tmp_path / "run"
    train = ["train", str(tiny_config), "--run", str(run)]
    for command in (train, ["resume", str(run)], ["evaluate", str(run)], ["report", str(run)]):
        result = CliRunner().invoke(app, command, catch_exceptions=False)
        assert result.exit_code == 0, result.output
    before = (run / "evaluation.json").stat().st_mtime_ns
    printed = CliRunner().invoke(app, ["evaluate", str(run)])
    assert "last attacker" in printed.stdout
    assert printed.stdout.splitlines()[-1].endswith(".")  # the verdict
    assert (run / "evaluation.json").stat().st_mtime_ns == before
    assert (run / "report.html").is_file()
    (run / "evaluation.json").write_text("{}")  # as an evaluation of another version may have left it
    again = CliRunner().invoke(app, ["evaluate", str(run)])
    assert again.stdout == printed.stdout, again.output
    assert "already exists" in refused(train, tmp_path)


@pytest.mark.parametrize(
    ("begun", "key"),
    [
        ("rng_seed=7", "rng_seed"),
        ("defender.model=other", "defender.model"),
        ("data.seeds=xstest", "data.seeds"),
        ("engine.rows_per_batch=3", ""),
    ],
)
def test_the_demo_continues_no_run_of_another_config(
    begun: str, key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def go(*_: object) -> None:
        raise LookupError

    monkeypatch.setattr("magic_rl.runs.train.resume", go)
    config = load_config(Path("demo"), [begun])
    run, demo = tmp_path / "run", ["demo", "--run", str(tmp_path / "run")]
    RunDirectory.create(run, dump_config(config), {}, inputs={"config": config.model_dump(mode="json")})
    if key:
        line = refused(demo, tmp_path)
        assert f"({key} is " in line
        assert f"`magic-rl resume {run}` continues" in line
    for arguments in ([*demo, "--set", begun], *([] if key else [demo])):
        assert isinstance(CliRunner().invoke(app, arguments).exception, LookupError)


@pytest.mark.slow
def test_the_demo_is_a_whole_run_and_then_only_its_table(
    tmp_path: Path, tiny_config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("magic_rl.cli.demo.CONFIG", tiny_config)
    run = tmp_path / "run"
    whole, again = (CliRunner().invoke(app, ["demo", "--run", str(run)], catch_exceptions=False) for _ in range(2))
    assert (whole.exit_code, again.exit_code) == (0, 0), whole.output
    assert whole.stdout.endswith(CliRunner().invoke(app, ["evaluate", str(run)]).stdout)
    assert again.stdout == whole.stdout
    assert (run / "report.html").is_file()
