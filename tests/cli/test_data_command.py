"""`magic-rl data`: what it lists and what it checks."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import datasets
import pytest
from typer.testing import CliRunner

from magic_rl.cli.main import app
from magic_rl.data.registry import GROUPS, NAMED
from tests.data.test_named_data import SETS, hub, published


def run(*args: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, list(args), catch_exceptions=False)
    return result.exit_code, result.stdout, result.stderr


def test_list_tells_of_every_set_what_it_holds_and_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    code, out, _ = run("data", "list")
    assert code == 0
    lines = {line.split()[0]: line for line in out.splitlines() if line.strip()}
    for named in NAMED.values():
        line = lines[named.name]
        access = "gated" if named.gated else "open"
        assert all(fact in line for fact in (named.kind, named.use, named.holds, named.licence, named.hub, access))
    assert set(GROUPS) <= set(lines)


def test_check_counts_labels_and_categories_on_each_side_of_the_split(tmp_path: Path) -> None:
    rows = [
        {"text": f"A {label} thing of {category}", "label": label, "category": category}
        for label in ("harmful", "benign")
        for category in ("glue", "paint", "tools")
    ]
    path = published(tmp_path / "own.csv", rows)
    sides = ('data.held_out_categories=["paint"]', 'data.validation_categories=["glue"]')
    code, out, _ = run("data", "check", str(path), "--set", sides[0], "--set", sides[1])
    assert code == 0
    assert out.splitlines() == [
        f"{path}: 6 of 6 rows",
        "category    harmful  benign  split",
        "glue              1       1  validation",
        "paint             1       1  held out",
        "tools             1       1",
        "all               3       3",
        "training          1       1",
        "validation        1       1",
        "held out          1       1",
        "harmful texts, characters: 23 to 24, half up to 24, 95 % up to 24",
        "benign texts, characters: 22 to 23, half up to 23, 95 % up to 23",
    ]


@pytest.mark.parametrize(("column", "noted"), [("", True), ("category", False)])
def test_check_says_that_seeds_without_categories_are_split_by_row(tmp_path: Path, column: str, noted: bool) -> None:
    rows = [
        {"text": f"{label} {n}", "label": label, **({column: str(n)} if column else {})}
        for label in ("harmful", "benign")
        for n in range(5)
    ]
    code, _, err = run("data", "check", str(published(tmp_path / "own.csv", rows)))
    assert (code, "split row by row" in err) == (0, noted)


def test_check_without_a_name_reads_the_configs_own_seeds(tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    path = published(tmp_path / "own.csv", [{"q": "Paint?", "label": "benign"}, {"q": "Pry?", "label": "harmful"}])
    config.write_text(f"[data]\nseeds = '{path}'\ntext_column = 'q'\n")
    code, out, err = run("data", "check", "--config", str(config))
    assert code == 2  # one seed of each class cannot be split
    assert out.startswith(f"{path}: 2 of 2 rows\n")
    assert "give at least two seeds of each class" in err


def test_check_prints_what_there_is_of_a_set_that_cannot_be_played_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub(monkeypatch, lambda: datasets.Dataset.from_list(SETS["sorry-bench"][0][0]))
    code, out, err = run("data", "check", "sorry-bench")
    assert code == 2
    assert "1 of 3 rows; left out 2 (another subset)" in out
    assert re.search(r"^all +1 +0$", out, re.MULTILINE)
    assert err.splitlines()[0].startswith("error: sorry-bench from sorry-bench/sorry-bench-202503 (train): holds no be")


def test_check_reads_attacks_and_says_what_they_are_for(monkeypatch: pytest.MonkeyPatch) -> None:
    hub(monkeypatch, lambda: datasets.Dataset.from_list(SETS["dan"][0][0]))
    code, out, _ = run("data", "check", "dan")
    assert code == 0
    assert out.endswith("attacks: for evaluation; the game starts from seeds\n")


@pytest.mark.parametrize("name", ["xtest", "none.csv"])
def test_check_refuses_in_one_line(name: str) -> None:
    code, out, err = run("data", "check", name)
    assert (code, out, len(err.splitlines())) == (2, "", 1)


def test_retries_of_the_hub_are_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[bool] = []

    def unreachable() -> datasets.Dataset:
        told.append(logging.getLogger("huggingface_hub.utils._http").isEnabledFor(logging.WARNING))
        raise ConnectionError("no network")

    hub(monkeypatch, unreachable)
    code, _, err = run("data", "check", "xstest")
    assert (code, len(err.splitlines()), told) == (2, 1, [False])


def test_check_names_the_first_faults_by_row_and_with_all_every_one(tmp_path: Path) -> None:
    rows = [{"text": "Paint?", "label": "benign"}, *({"text": "paint?", "label": "maybe"} for _ in range(20))]
    path = published(tmp_path / "own.csv", rows)
    code, _, err = run("data", "check", str(path))
    assert (code, len(err.splitlines())) == (2, 1)
    assert err.endswith("; and 17 more; `--all` lists them\n")
    code, out, err = run("data", "check", str(path), "--all")
    assert (code, out, len(err.splitlines())) == (2, "", 20)
    for row, line in enumerate(err.splitlines(), start=2):
        assert line.startswith(f"error: {path}: row {row}: column 'label' is 'maybe'")


def test_check_names_the_setting_that_is_to_blame(tmp_path: Path) -> None:
    path = published(tmp_path / "own.csv", [{"q": "Paint?", "label": "benign"}])
    for every in ([], ["--all"]):
        said = run("data", "check", str(path), *every)[2]
        assert "error: data.text_column, data.label_column: " in said
        assert "--set data.text_column=" in said
    assert "error: data.held_out_categories: " in run("data", "check", "--set", "data.held_out_categories=['x']")[2]
