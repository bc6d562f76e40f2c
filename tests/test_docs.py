"""The docs are right: their Python runs, their commands, settings and links exist, and their numbers have sources."""

from __future__ import annotations

import ast
import importlib
import json
import re
import shlex
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import typer

import magic_rl
from magic_rl.cli.main import app
from magic_rl.cli.options import spelled_out
from magic_rl.config import SHIPPED, Config, load_config
from magic_rl.evaluation.aggregate import aggregate
from magic_rl.report.study import write_study
from magic_rl.runs.study.finished import read_results
from magic_rl.settings import Node, section_of

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
RUN_FOLDERS = {
    "episodes/",
    "checkpoints/",
    "players/",
    "attacks/",
    "evaluations/",
    "served/",
    "wandb/",
    "logs/",
    "site/",
}  # written by runs, not committed
_FENCE = re.compile(r"(<!-- not run -->\n)?^```(\w*)\n(.*?)^```$", re.M | re.S)


def blocks(*languages: str) -> list[Any]:
    """Code blocks of the docs in these languages, each with its place and whether it is run."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in _FENCE.finditer(text):
            line = text.count("\n", 0, match.start(3)) + 1
            if match[2] in languages:
                found.append(pytest.param(match[3], not match[1], id=f"{page.name}:{line}"))
    return found


def commands(block: str) -> Iterator[list[str]]:
    """The arguments of each `magic-rl` command of a shell block; a command may span several lines."""
    for line in re.findall(r"^(?:\$ |\w+=\S+ )*magic-rl (.*)", block.replace("\\\n", " "), re.M):
        yield shlex.split(re.sub(r" > \S+$", "", line), comments=True)  # the shell handles redirection


def resolved(words: Sequence[str]) -> tuple[Any, list[str]]:
    """The command that some words name, and the remaining words. Its options must exist."""
    command: Any = typer.main.get_command(app)
    rest = list(spelled_out(words))
    while rest and rest[0] in getattr(command, "commands", ()):
        command = command.commands[rest.pop(0)]
    known = {option for each in command.params for option in each.opts} | {"--help"}
    unknown = {word.partition("=")[0] for word in rest if word.startswith("--")} - known
    assert not unknown, f"{command.name}: {unknown}"
    return command, rest


def parse(block: str) -> None:
    """Parse every command of a shell block without running it, and load the settings it names."""
    for words in commands(block):
        command, rest = resolved(words)
        if not hasattr(command, "commands"):
            given = command.make_context(command.name, rest).params
            config = given.get("config") if str(given.get("config")) in SHIPPED else None  # others are the reader's
            seeds = [f"data.seeds={given['source']}"] if command.name == "check" and given.get("source") else []
            load_config(config, [*seeds, *(given.get("overrides") or ())], given.get("preset"))


def help_texts(command: Any) -> list[str]:
    """The help of a command and of its subcommands, without indentation."""
    below = [text for each in getattr(command, "commands", {}).values() for text in help_texts(each)]
    return [re.sub(r"^ +", "", command.help or "", flags=re.M), *below]


@pytest.mark.parametrize(("block", "_runs"), blocks("bash", "console"))
def test_commands_in_the_docs_parse_and_their_settings_exist(block: str, _runs: bool) -> None:
    parse(block)


@pytest.mark.parametrize("text", help_texts(typer.main.get_command(app)), ids=lambda text: text[:30])
def test_examples_in_help_parse_and_their_settings_exist(text: str) -> None:
    parse(text)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_named_in_the_text_exist_with_their_options(page: Path) -> None:
    for code in re.findall(r"`(magic-rl [^`]*)`", _FENCE.sub("", page.read_text(encoding="utf-8"))):
        command, rest = resolved(shlex.split(code)[1:])
        assert not rest or not hasattr(command, "commands") or rest[0].startswith("--") or rest[0].isupper(), code


@pytest.mark.parametrize(("block", "runs"), blocks("python"))
def test_python_in_the_docs_runs_and_prints_what_its_last_comments_say(
    block: str, runs: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    tree = ast.parse(block)
    if not runs:
        tree.body = [line for line in tree.body if isinstance(line, ast.Import | ast.ImportFrom)]
    exec(compile(tree, "docs", "exec"), {"__name__": "__main__"})  # noqa: S102 - a page of this repository
    if runs:
        said = re.search(r"(?:^# .*\n)*\Z", block, re.M)
        assert said
        assert capsys.readouterr().out == re.sub(r"^# ", "", said[0], flags=re.M)


def test_every_public_name_has_its_place_in_the_api_page() -> None:
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^::: magic_rl\.(\w+)$", page, re.M)) == sorted(magic_rl.__all__)


@pytest.mark.parametrize(("block", "_runs"), blocks("toml"))
def test_settings_in_the_docs_load(block: str, _runs: bool, tmp_path: Path) -> None:
    path = tmp_path / "docs.toml"
    path.write_text(block, encoding="utf-8")
    load_config(path)


def settings(section: type[Node] = Config, path: str = "") -> Iterator[str]:
    """The path of every setting and section."""
    for name, field in section.model_fields.items():
        yield f"{path}{name}"
        if inner := section_of(field):
            yield from settings(inner, f"{path}{name}.")


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=lambda page: page.name)
def test_settings_that_a_page_names_exist(page: Path) -> None:
    known = set(settings())
    top = "|".join(name for name in Config.model_fields if f"{name}." in " ".join(known))
    named = re.findall(rf"`((?:{top})\.[a-z_.]+)(?: = [^`]*)?`", page.read_text(encoding="utf-8"))
    assert {name for name in named if not name.endswith((".json", ".py", ".toml"))} <= known


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_a_page_links_to_exist(page: Path) -> None:
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)|(?:src|href)=\"([^\"#]+)", text)
    targets = [one or other for one, other in links]
    assert [target for target in targets if "://" not in target and not (page.parent / target).exists()] == []


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=lambda page: page.name)
def test_source_files_that_a_page_names_exist(page: Path) -> None:
    named = set(re.findall(r"`([\w/]+\.py|\w+(?:/\w+)*/)`", page.read_text(encoding="utf-8")))
    places = (ROOT, ROOT / "src" / "magic_rl", ROOT / "src" / "magic_rl" / "engines")
    missing = {name for name in named if "/" in name and not any((place / name).exists() for place in places)}
    assert missing - RUN_FOLDERS == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_targets_extras_scripts_and_headings_that_a_page_names_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    code = " ".join(re.findall(r"```.*?```|`[^`]+`", text, re.S))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = {extra for named in re.findall(r"magic-rl\[([\w,]+)\]", text) for extra in named.split(",")}
    assert extras <= set(project["optional-dependencies"])
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    assert set(re.findall(r"\bmake ([a-z-]+)", code)) <= {*targets}
    assert [script for script in re.findall(r"python ([\w/]+\.py)", code) if not (ROOT / script).is_file()] == []
    for target, heading in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", text):
        linked = (page.parent / target if target else page).read_text(encoding="utf-8")
        titles = re.findall(r"^#+ (.*)$", _FENCE.sub("", linked), re.M)
        assert heading in {re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", title).lower()) for title in titles}


@pytest.mark.parametrize("name", ["demo", "presets", "unseen/xstest"])
def test_tables_and_figures_of_results_are_those_of_their_runs(name: str, tmp_path: Path) -> None:
    folder = ROOT / "docs" / "results" / name
    write_study(aggregate(read_results(folder)), tmp_path)
    files = list(tmp_path.iterdir())
    assert len(files) >= 4
    for made in files:
        assert (folder / made.name).read_bytes() == made.read_bytes(), f"magic-rl study --rebuild {folder}"


@pytest.mark.parametrize(
    ("name", "begin", "end"),
    [
        ("demo", "## The demo", "**Categories"),
        ("presets", "## The presets", "## Outside"),
        ("unseen/xstest", "**Over-refusal", "**Unseen"),
    ],
)
def test_the_results_pages_rates_are_those_of_their_tables(name: str, begin: str, end: str) -> None:
    table = (ROOT / "docs" / "results" / name / "study.md").read_text(encoding="utf-8")
    page = (ROOT / "docs" / "RESULTS.md").read_text(encoding="utf-8").replace("−", "-")
    number = r"[+-]?\d+\.\d"
    shown = re.findall(rf"{number} ± {number} \[{number}, {number}\]", page[page.index(begin) : page.index(end)])
    assert len(shown) > 15
    assert [each for each in shown if each not in table] == []


def test_the_results_pages_other_tables_are_those_that_its_script_prints(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "docs" / "results")
    tables = importlib.import_module("tables")
    page = (ROOT / "docs" / "RESULTS.md").read_text(encoding="utf-8")
    shown = [*tables.settings(), *tables.unseen(), *(row for row in tables.categories() if "start" not in row)]
    # The page leaves out a name that is the same as in the row above, and writes categories in words.
    assert [row for row in shown if row.partition(" | ")[2].replace("_", " ") not in page] == []


@pytest.mark.parametrize("number", [0, 3])
def test_the_number_of_the_query_that_broke_a_seed_is_what_redteam_counted(number: int) -> None:
    folder = ROOT / "docs" / "results" / "unseen"
    runs = json.loads((folder / "broken.json").read_text(encoding="utf-8"))["runs"]
    for place in range(3):
        counted = json.loads((folder / f"redteam-seed-{place}-round-{number}.json").read_text(encoding="utf-8"))
        for name, row in counted["attacks"].items():
            broken_at = runs[f"seed-{place}-round-{number}"][name]["broken_at"]
            assert sum(at > 0 for at in broken_at) == round(row["asr"]["value"] * row["asr"]["n"])


def test_the_readmes_rates_are_those_of_the_demos_table() -> None:
    table = (ROOT / "docs" / "results" / "demo" / "study.md").read_text(encoding="utf-8")
    rates = re.findall(r"(\d+\.\d) (\[\d+\.\d, \d+\.\d\])", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert rates
    assert [rate for rate in rates if not re.search(rf"{rate[0]} ± \S+ {re.escape(rate[1])}", table)] == []
