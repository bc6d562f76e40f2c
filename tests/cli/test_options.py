"""Claims about settings and options as a user writes them: spelled either way, understood or blamed by name."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from magic_rl.cli.main import app
from magic_rl.config import SHIPPED, Config, load_config
from magic_rl.settings import paths
from tests.support.commands import refused

PANEL = 'judge={kind="panel", members=[{kind="rules"}, {kind="llm", endpoint={model="m", url="http://localhost/v1"}}]}'


def test_init_writes_once_and_never_over_a_file(tmp_path: Path) -> None:
    path = tmp_path / "my.toml"
    made = CliRunner().invoke(app, ["init", str(path)])
    assert made.exit_code == 0
    assert f"magic-rl train {path} --run runs/my" in made.stderr
    written = path.read_text()
    path.write_text(written + "# mine\n")
    assert "already exists" in refused(["init", path], tmp_path)
    assert path.read_text().endswith("# mine\n")
    assert CliRunner().invoke(app, ["init", str(tmp_path / "new" / "folder" / "my.toml")]).exit_code == 0
    assert f"{path}: " in refused(["init", path / "in-a-file.toml"], tmp_path)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_starter_config_is_the_one_it_begins_with_and_lists_every_setting(name: str, tmp_path: Path) -> None:
    path = tmp_path / "magic.toml"
    changes = ["learning.group_size=7", "defender.chat_template_kwargs={a-b=false}", PANEL]
    sets = [part for change in changes for part in ("--set", change)]
    made = CliRunner().invoke(app, ["init", str(path), "--from", name, *sets])
    assert made.exit_code == 0, made.output
    assert load_config(path) == load_config(Path(name), changes)
    uncommented = re.sub(r"(?m)^#(?! )", "", path.read_text())
    assert set(dotted(tomllib.loads(uncommented))) >= set(paths(Config)) - {"attacker.chat_template_kwargs"}


def dotted(tree: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in tree.items():
        yield f"{prefix}{key}"
        yield from dotted(value, f"{prefix}{key}.") if isinstance(value, dict) else ()


@pytest.mark.parametrize(
    "form",
    [["--data.text-column", "prompt"], ["--data.text_column=prompt"], ["--set", "data.text-column=prompt"]],
)
def test_a_setting_may_be_an_option_of_its_own(form: list[str], tmp_path: Path) -> None:
    path = tmp_path / "seeds.csv"
    path.write_text("prompt,label\nHow do I pick a lock?,harmful\nHow do I bake?,benign\n")
    for args in (["data", "check", *form, str(path)], ["data", "check", str(path), *form]):
        assert "2 of 2 rows" in CliRunner().invoke(app, args).output


@pytest.mark.parametrize("form", ["--rng_seed", "--rng-seed", "--rng-seed="])
def test_a_setting_of_no_section_is_an_option_too(form: str, tmp_path: Path) -> None:
    path = tmp_path / "my.toml"
    given = [f"{form}7"] if form.endswith("=") else [form, "7"]
    assert CliRunner().invoke(app, ["init", str(path), *given]).exit_code == 0
    assert load_config(path).rng_seed == 7


def test_an_option_may_be_spelled_with_underscores(tmp_path: Path) -> None:
    assert "--rng-seeds 'x'" in refused(["study", "demo", "--out", tmp_path / "out", "--rng_seeds", "x"], tmp_path)


def test_a_commands_own_option_is_not_taken_for_a_setting(tmp_path: Path) -> None:
    line = refused(["train", "demo", "--run", tmp_path / "run", "--preset", "nothing"], tmp_path)
    assert "'--preset'" in line


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["plan", "dmeo"], "dmeo: no such file; did you mean demo?"),
        (["pool", "build", "--out", "p.jsonl", "--config", "Papr"], "did you mean paper?"),
        (["data", "check", "dem"], "did you mean 'demo'"),
    ],
)
def test_a_misspelt_name_of_what_ships_is_recognised(
    args: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert said in refused(args, tmp_path)


@pytest.mark.parametrize("args", [["benchmark", "nothing", "--out", "b"], ["serve", "nothing"]])
def test_a_target_is_looked_for_before_what_is_not_installed(
    args: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for place in ("magic_rl.cli.benchmark", "magic_rl.runs.serve.running"):
        monkeypatch.setattr(f"{place}.find_spec", lambda _: None)
    assert "'nothing': no such run or folder" in refused(args, tmp_path)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--learning.groups", "3"], "error: --learning.groups: unknown key; did you mean learning.group_size?"),
        (["--rng-seed", "abc"], "error: --rng-seed: 'abc': must be a whole number"),
        (["--set", "rng_seed=abc"], "error: --set rng_seed: 'abc': must be a whole number"),
        (["--learning.lr=1"], "did you mean attacker.optimiser.lr or"),
        (["--engine.trust_remote_code"], "--engine.trust_remote_code: expected a value"),
        (["--game.turns", "--quick"], "--game.turns: expected a value"),
        (
            ["--set", "attacker.strategies=slang"],
            "--set attacker.strategies: 'slang': must be a list, such as [\"slang\"]",
        ),
        (
            ["--set", "game.schedule.low=0.3"],
            "--set game.schedule.low has no effect: it needs game.schedule.kind = metric",
        ),
    ],
)
def test_a_wrong_option_is_blamed_and_what_to_write_is_said(args: list[str], said: str, tmp_path: Path) -> None:
    assert said in refused(["pool", "build", "--config", "demo", "--out", tmp_path / "p.jsonl", *args], tmp_path)


def test_a_command_without_settings_takes_none() -> None:
    result = CliRunner().invoke(app, ["report", "runs/demo", "--engine.device", "cpu"])
    assert (result.exit_code, "no such option: --engine.device" in result.output) == (2, True)
