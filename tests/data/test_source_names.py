"""How sources of seeds are named, known names first, then files under any name; and how several join."""

from __future__ import annotations

import json
from pathlib import Path

import datasets
import pytest
from typer.testing import CliRunner

from magic_rl.cli.main import app
from magic_rl.config import load_config
from magic_rl.data.seeds import load_seeds, read_seeds
from magic_rl.errors import UserError
from magic_rl.runs.judge import make_judge
from tests.data.test_named_data import OR_BENCH, SETS, hub, published, read, refused

ROWS = [{"text": "Pry?", "label": "harmful"}, {"text": "Paint?", "label": "benign"}]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def _sources(seeds: str) -> list[str]:
    return [source.where for source in read_seeds(seeds).sources]


def _error(seeds: str) -> str:
    result = CliRunner().invoke(app, ["data", "check", seeds], catch_exceptions=False)
    assert (result.exit_code, result.stdout, len(result.stderr.splitlines())) == (2, "", 1)
    return result.stderr.strip()


def test_a_known_name_wins_over_files_of_that_name(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("or-bench").mkdir()
    Path("xstest").write_text("notes")
    Path("demo,xstest").write_text("notes")
    hub(monkeypatch, lambda: datasets.Dataset.from_list(OR_BENCH))
    assert [where.split()[0] for where in _sources("or-bench")] == ["or-bench-hard", "or-bench-toxic"]
    hub(monkeypatch, lambda: datasets.Dataset.from_list(SETS["xstest"][0][0]))
    assert [where.split()[0] for where in _sources("demo,xstest")] == ["demo", "xstest"]


def test_a_file_may_have_commas_in_its_name() -> None:
    published(Path("a,b.csv"), ROWS)
    published(Path("c.csv"), [{"text": "Glue?", "label": "benign"}])
    published(Path("x,s.csv"), SETS["xstest"][0][0])
    assert _sources("a,b.csv") == ["a,b.csv"]
    assert _sources("xstest:x,s.csv") == ["xstest from x,s.csv"]
    assert _sources("c.csv, xstest:x,s.csv, demo,a,b.csv") == ["c.csv", "xstest from x,s.csv", "demo seeds", "a,b.csv"]


def test_a_folder_is_told_from_a_file_and_never_asked_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    hub(monkeypatch, lambda: pytest.fail("asked the hub"))
    Path("mine/seeds").mkdir(parents=True)
    assert _error("mine/seeds") == "error: data.seeds: mine/seeds is a folder; name a file in it"


@pytest.mark.parametrize("seeds", ["~nosuchuser/x.csv", "~nosuchuser/x", "xstest:~nosuchuser/x.csv", "x" * 300])
def test_a_home_folder_that_nobody_has_is_like_any_missing_file(seeds: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hub(monkeypatch, lambda: pytest.fail("asked the hub"))
    assert seeds.removeprefix("xstest:") in _error(seeds)


def test_a_file_may_begin_with_a_tilde() -> None:
    Path("~draft.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    assert len(load_seeds("~draft.jsonl")) == 2


def test_a_memory_in_a_home_folder_that_nobody_has_is_one_line() -> None:
    model = ["judge.kind=qwen3guard", "judge.endpoint.model=m", "judge.endpoint.url=http://localhost:1/v1"]
    with pytest.raises(UserError, match=r"^store\.answers: ~nosuchuser/v: [^\n]*; name another file, or false$"):
        make_judge(load_config(None, [*model, "store.answers=~nosuchuser/v"]))


def test_several_sources_are_read_together(monkeypatch: pytest.MonkeyPatch) -> None:
    hub(monkeypatch, lambda: datasets.Dataset.from_list(SETS["strongreject"][0][0]))
    published(Path("own.csv"), [{"text": "Paint a door?", "label": "benign", "category": "a"}])
    assert read("strongreject, own.csv") == [("Open a door?", "harmful", "Violence"), ("Paint a door?", "benign", "a")]


def test_a_text_given_twice_is_kept_once_and_one_labelled_both_ways_never() -> None:
    rows = [{"prompt": text, "type": "t", "label": "safe"} for text in ("One?", "one? ", "Two?", "Three?")]
    published(Path("safe.csv"), rows)
    published(Path("own.csv"), [{"text": t, "label": "harmful"} for t in ("two?", "Four?")])
    found = read_seeds("xstest:safe.csv,own.csv")
    assert [(seed.text, seed.label) for seed in found.seeds] == [
        ("One?", "benign"),
        ("Three?", "benign"),
        ("Four?", "harmful"),
    ]
    assert (found.repeated, found.contradicting) == (1, 2)


def test_two_files_that_use_the_same_id_are_refused() -> None:
    published(Path("one.csv"), [{"id": "1", "text": "Paint?", "label": "benign"}])
    published(Path("two.csv"), [{"id": "1", "text": "Pry?", "label": "harmful"}])
    assert refused("one.csv,two.csv") == "two sources use the id '1'; rename it, or give rows no ids"


@pytest.mark.parametrize("seeds", [",", " , "])
def test_no_source_at_all_is_refused(seeds: str) -> None:
    assert refused(seeds).startswith("names no source")


def test_what_is_wrong_with_several_sources_is_blamed_on_their_setting() -> None:
    published(Path("own.csv"), [{"text": "Paint?", "label": "green"}])
    said = _error("nowhere,nothing,own.csv")
    assert said.startswith("error: data.seeds: 'nowhere' is neither a file nor a named data set")
    assert "'nothing' is neither a file" in said
    assert "own.csv: row 1: column 'label' is 'green'" in said
    result = CliRunner().invoke(app, ["data", "check", "--all", "nowhere,nothing,own.csv"])
    lines = result.stderr.splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("error: data.seeds: 'nowhere' is neither a file")
    assert "own.csv: row 1" in lines[2]
