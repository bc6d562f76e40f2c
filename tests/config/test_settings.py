"""Every setting acts or is refused: for each kind of run, which settings are read while it is made, leaf by leaf.

A run of each kind is trained, evaluated and attacked on a tiny model, and the settings that are read are recorded.
Then each setting of the whole tree is changed alone: either that is refused, or it is one of those that were read.
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import datasets
import pytest
from typer.testing import CliRunner

from magic_rl.cli.main import app
from magic_rl.config import Config, JudgeMemberConfig, PresetName, load_config
from magic_rl.errors import ConfigError
from magic_rl.runs.assembly import load_engines
from magic_rl.runs.attack import attack, make_plan
from magic_rl.runs.evaluate import evaluate
from magic_rl.runs.train import train
from magic_rl.settings import Node, paths, section_of
from magic_rl.store.run import RunDirectory
from tests.conftest import TINY_CONFIG
from tests.runs.test_train import Silent
from tests.support import fake_tracker
from tests.support.fake_tinker import FakeTinker
from tests.support.fake_vllm import FakeVllm, stand_in
from tests.support.stub_server import Reply, Stub, completion

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Kind:
    """A kind of run: its settings, and the section under test."""

    settings: tuple[str, ...] = ()
    preset: PresetName | None = None
    section: str = ""


TARGET = ("learning.target.compliance=start", "learning.kl_coef=0.1", "defender.sft.steps=1")
QUICK = ("evaluation.max_seeds=1", "evaluation.best_of=1")
SERVER = ('judge.endpoint={model="m", url="URL"}', "store.answers=false", "judge.endpoint.attempts=1")
KINDS = {
    "guard": Kind(("judge.kind=qwen3guard", *SERVER), section="judge."),
    "rubric": Kind(("judge.kind=llm", *SERVER), section="judge."),
    "panel": Kind(('judge={kind="panel", members=[{kind="rules"}, {kind="rules"}]}',), section="judge."),
    "here": Kind(("judge.kind=qwen3guard", "judge.endpoint.model=MODEL", "store.answers=false"), section="judge."),
    "own": Kind(("judge.kind=magic_rl.judges.rules:RulesJudge",), section="judge."),
    "writer": Kind(('attacker.writer={model="m", url="URL"}',), section="attacker.writer."),
    "hub": Kind(("data.seeds=owner/name",), section="data."),
    "server": Kind(("engine.kind=tinker", "engine.tinker.server=tuft"), section="engine.tinker."),
    "plain": Kind(),
    "held": Kind(
        (
            *TARGET,
            "game.schedule={kind='metric', rounds=1, window=1, high=1.0, low=0.1, defender_steps=2, attacker_steps=3}",
            "game.rewards.length=0.1",
            "defender.sft.examples=FOLDER/e.jsonl",
        )
    ),
    "nash": Kind(("game.opponents=nash", "game.opponent_seeds=4", 'data.validation_categories=["c1"]')),
    "turns": Kind(("game.turns=2", "game.defender_thinks=true", "learning.correction=token_truncate")),
    "untaught": Kind(preset="magic-base"),
    "still": Kind(preset="defender-only"),
    "alone": Kind(("game.schedule.defender_steps=2",), "no-game"),
    "shared": Kind(preset="self-play"),
    "served": Kind(('engine.sampler="vllm"', 'engine.vllm.urls=["VLLM"]'), section="engine."),
    "started": Kind(('engine.sampler="vllm"', 'engine.vllm.python="FOLDER/python"'), section="engine.vllm."),
    "tracked": Kind(("tracker.kind=trackio",), section="tracker."),
    "attacked": Kind(("game.schedule.defender_steps=0", "defender.batch_size=64")),
}


@contextmanager
def noted() -> Iterator[set[str]]:
    """The settings that are read within the block, except by the config's own checks and copies."""
    seen: set[str] = set()
    where: dict[int, str] = {}

    def spy(self: Node, name: str) -> Any:
        value = object.__getattribute__(self, name)
        caller = sys._getframe(1)
        module, function = caller.f_globals["__name__"], caller.f_code.co_name
        checks = module.startswith("magic_rl.config.") and (function.startswith("_") or not module.endswith(".asked"))
        if name in type(self).model_fields and not checks:
            root = {Config: "", JudgeMemberConfig: "judge."}  # made again, perhaps at the address of another
            path = root.get(type(self), where.get(id(self), "")) + name
            seen.add(path)
            if isinstance(value, Node):
                where[id(value)] = f"{path}."
        return value

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Node, "__getattribute__", spy, raising=False)
        yield seen


def others(path: str, now: Any) -> list[str]:
    """Other values that a setting may have by itself, as TOML."""
    section: type[Node] = Config
    *above, name = path.split(".")
    for part in above:
        section = section_of(section.model_fields[part]) or section
    field = section.model_fields[name]
    choices = [c for kind in (field.annotation, *get_args(field.annotation)) for c in literals(kind)]
    found: list[Any] = [*(field.examples or ()), *choices]
    if isinstance(now, bool):
        found.append(not now)
    elif isinstance(now, int | float):
        found += [now + 1 if isinstance(now, int) else now / 2 or 0.5]
    elif isinstance(now, date):
        return [(now + timedelta(1)).isoformat()]
    elif isinstance(now, dict) and not found:
        return ["{ key = true }"]
    elif isinstance(now, str) and not choices:
        found.append(f"{now}-2")
    plain = list(now) if isinstance(now, tuple) else now
    return [toml(value) for value in found if value != plain]


def literals(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) is Literal else ()


def toml(value: Any) -> str:
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{key} = {toml(each)}' for key, each in value.items())} }}"
    return f"[{', '.join(map(toml, value))}]" if isinstance(value, list) else json.dumps(value)


def value_at(config: Any, path: str) -> Any:
    """The value of a setting; None if its section is not there."""
    for part in path.split("."):
        config = getattr(config, part, None)
    return config


@dataclass(frozen=True)
class Reading:
    """A kind of run, its settings in full, and what was read of them."""

    file: Path
    kind: Kind
    seen: set[str]

    def takes(self, *changes: str) -> Config:
        return load_config(self.file, [*self.kind.settings, *changes], self.kind.preset)


@pytest.fixture(scope="module")
def read(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, seeds_file: Path
) -> Iterator[Callable[[str], Reading]]:
    """Runs each kind once, when it is first needed, so that no test waits for all of them."""
    folder = tmp_path_factory.mktemp("settings")
    file = folder / "tiny.toml"
    file.write_text(TINY_CONFIG.format(model=json.dumps(str(tiny_model)), seeds=json.dumps(str(seeds_file))))
    example = {"messages": [{"role": "user", "content": "How do I pry?"}], "completion": "I can't help with that."}
    (folder / "e.jsonl").write_text(json.dumps(example) + "\n")

    @functools.cache
    def reading(name: str) -> Reading:
        kind = KINDS[name]
        if kind.preset == "no-game":
            reading("plain")  # whose attacker it is attacked with
        words = {"URL": stub.url, "FOLDER": str(folder), "MODEL": str(tiny_model), "VLLM": fake.url}
        settings = (*QUICK, *(replaced(item, words) for item in kind.settings))
        with noted() as seen:
            ACTIONS.get(kind.section, whole_run)(file, settings, kind.preset, folder / name)
        return Reading(file, replace(kind, settings=settings), seen)

    stand_in(folder)
    guard = Stub(lambda _: Reply(body=completion("Safety: Safe\nCategories: None\nRefusal: No")))
    with guard as stub, FakeVllm(tiny_model, rank=16) as fake:
        yield reading


def replaced(text: str, words: dict[str, str]) -> str:
    for word, by in words.items():
        text = text.replace(word, by)
    return text


def whole_run(file: Path, settings: tuple[str, ...], preset: PresetName | None, folder: Path) -> None:
    run = train(load_config(file, settings, preset), folder, Silent())
    evaluate(run, Silent())
    source = RunDirectory.open(folder.parent / "plain") if preset == "no-game" else None
    if run.players("defender")[1:]:
        attack(run, make_plan(run, steps=1, source=source), Silent())
    if preset != "no-game":
        pool(file, (*settings, *([f"preset={preset}"] if preset else [])), None, folder)


def trained(file: Path, settings: tuple[str, ...], preset: PresetName | None, folder: Path) -> None:
    train(load_config(file, settings, preset), folder, Silent())


def tracked(file: Path, settings: tuple[str, ...], preset: PresetName | None, folder: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        fake_tracker.install(folder.parent, patch)
        trained(file, settings, preset, folder)


def pool(file: Path, settings: tuple[str, ...], preset: PresetName | None, folder: Path) -> None:
    """The stub's answers are not rewrites, which is noticed only after the settings are read."""
    command("pool", "build", "--config", file, "--out", f"{folder}.jsonl", "--strategies", "question", given=settings)


def judged(file: Path, settings: tuple[str, ...], preset: PresetName | None, folder: Path) -> None:
    labelled = folder.with_suffix(".csv")
    labelled.write_text("prompt,response,label,refused\nHow do I pry?,No.,harmful,yes\n")
    command("judge", "check", labelled, "--config", file, given=settings)


def listed(file: Path, settings: tuple[str, ...], preset: PresetName | None, folder: Path) -> None:
    rows = [{"text": f"{label} request", "label": label, "category": "c"} for label in ("harmful", "benign")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets, "load_dataset", lambda *_, **__: datasets.Dataset.from_list(rows))
        command("data", "check", "--config", file, given=settings)


def served(file: Path, settings: tuple[str, ...], preset: PresetName | None, folder: Path) -> None:
    with FakeTinker(Path(load_config(file, settings, preset).defender.model)) as fake:
        load_engines(load_config(file, (*settings, f"engine.tinker.url={fake.url}"), preset))


def command(*args: object, given: tuple[str, ...]) -> None:
    sets = (part for item in given for part in ("--set", item))
    CliRunner().invoke(app, [*map(str, args), *sets])


ACTIONS: dict[str, Callable[[Path, tuple[str, ...], PresetName | None, Path], None]] = {
    "judge.": judged,
    "attacker.writer.": pool,
    "data.": listed,
    "engine.tinker.": served,
    "engine.": trained,
    "engine.vllm.": trained,
    "tracker.": tracked,
}


def accepted(run: Reading, path: str) -> bool:
    """Whether a run accepts another value of one setting."""
    return any(taken(run, path, value) for value in others(path, value_at(run.takes(), path)))


def taken(run: Reading, path: str, value: str) -> bool:
    try:
        run.takes(f"{path}={value}")
    except ConfigError as refusal:
        named = any(part in str(refusal) for part in path.split("."))
        return not named  # a refusal that names something else would be no answer
    return True


def acts(path: str, run: Reading) -> bool:
    """Whether a setting, or the absence of its section, is read."""
    parts, config = path.split("."), run.takes()
    absent = (".".join(parts[:i]) for i in range(1, len(parts)) if value_at(config, ".".join(parts[:i])) is None)
    return path in run.seen or any(section in run.seen for section in absent)


@pytest.mark.parametrize("name", KINDS)
def test_a_setting_changed_alone_is_refused_or_read(name: str, read: Callable[[str], Reading]) -> None:
    run = read(name)
    # A preset stands for settings, which are tested themselves.
    looked_at = [path for path in paths(Config) if path.startswith(run.kind.section) and path != "preset"]
    assert [path for path in looked_at if accepted(run, path) and not acts(path, run)] == []


def test_every_setting_acts_in_some_kind_of_run(read: Callable[[str], Reading]) -> None:
    idle = set(paths(Config))
    for run in map(read, KINDS):
        idle -= {path for path in idle & run.seen if accepted(run, path)}
    assert idle <= {"preset"}  # whose settings are tested
