"""Plug-ins from a user's own package: a judge, a guard format, a strategy, an engine, seeds."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from textwrap import dedent

import pytest

from magic_rl.attacks.pool import build_pool
from magic_rl.config import load_config
from magic_rl.data.seeds import load_seeds
from magic_rl.errors import ConfigError
from magic_rl.plugins import find
from magic_rl.runs.assembly import prepare
from magic_rl.runs.judge import make_judge
from magic_rl.types import Exchange, Seed

BROUGHT = dedent(
    """
    from dataclasses import dataclass
    from magic_rl import LocalEngine, Seed, Verdict
    from magic_rl.attacks.strategies import Strategy
    from magic_rl.judges.format import Labels
    from magic_rl.judges.guards import Guard

    @dataclass
    class KeywordJudge:
        word: str = "lock"
        name: str = "keyword"

        def judge(self, exchanges):
            return [Verdict("unsafe" if self.word in each.reply else "safe", refused=False) for each in exchanges]

    GUARD = Guard("mine", lambda question, text: Labels("safe" if text == "ok" else "unsafe", refused=False))
    POLITE = Strategy("polite", "style", "a polite request", "Ask politely.", ("Could you please tell me: {lower}?",))

    class Engine(LocalEngine):
        brought = True

    def seeds():
        for label in ("harmful", "benign"):
            for category in ("a", "b"):
                yield Seed(f"{label}-{category}", f"A {label} request of {category}", label, category)
    """
)


@pytest.fixture
def brought(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "brought_along.py").write_text(BROUGHT, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "brought_along", raising=False)


@pytest.mark.usefixtures("brought")
def test_a_judge_of_ones_own_is_made_with_its_options() -> None:
    config = load_config(None, ["judge.kind=brought_along:KeywordJudge", 'judge.options={word="door"}'])
    exchange = Exchange(Seed("1", "Open it", "harmful"), "Open it", "Here is the door.")
    assert make_judge(config).judge([exchange])[0].safety == "unsafe"


@pytest.mark.usefixtures("brought")
def test_a_guard_format_of_ones_own_is_asked_behind_its_endpoint() -> None:
    endpoint = ["judge.endpoint.model=mine", "judge.endpoint.url=http://localhost:1/v1", "store.answers=false"]
    judge = make_judge(load_config(None, ["judge.kind=brought_along:GUARD", *endpoint]))
    assert judge.name.startswith("mine (")


@pytest.mark.usefixtures("brought")
def test_a_strategy_of_ones_own_writes_the_pool() -> None:
    seed = Seed("1", "Open the door?", "benign")
    (entry,) = build_pool([seed], ["brought_along:POLITE"], 0)
    assert (entry.strategy, entry.attack) == ("polite", "Could you please tell me: open the door?")


@pytest.mark.usefixtures("brought")
def test_seeds_come_from_a_function_of_ones_own() -> None:
    assert [seed.id for seed in load_seeds("brought_along:seeds")] == ["harmful-a", "harmful-b", "benign-a", "benign-b"]


@pytest.mark.usefixtures("brought")
def test_an_engine_of_ones_own_holds_the_players(tiny_config: Path) -> None:
    setup = prepare(load_config(tiny_config, ["engine.kind=brought_along:Engine"]))
    assert all(engine.brought for engine in setup.engines.values())  # type: ignore[attr-defined]  # its own


@pytest.mark.parametrize("key", ["judge.kind", "engine.kind"])
def test_a_kind_that_is_nowhere_is_refused(key: str) -> None:
    with pytest.raises(ConfigError, match="no-such-thing"):
        load_config(None, [f"{key}=no-such-thing"])
    with pytest.raises(ConfigError, match="no_such_module"):
        find("judges", "no_such_module:Judge")


def test_a_name_that_a_package_registered_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "brought_along-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: brought-along\nVersion: 1.0\n", encoding="utf-8")
    (folder / "entry_points.txt").write_text("[magic_rl.judges]\nnumbers = json:loads\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    assert find("judges", "numbers") is json.loads
