"""Claims about trackers: they get what a run's own files hold and no more, and no failure of a tracker stops it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from magic_rl.config import Config, load_config
from magic_rl.errors import ConfigError
from magic_rl.runs.train import resume, train
from magic_rl.types import Exchange, Verdict
from tests.golden.make import HERE
from tests.runs.test_train import Silent
from tests.support import fake_tracker, tabular_run

KINDS = fake_tracker.NAMES


class Fake:
    """What the fake tracker received."""

    def __init__(self, file: Path) -> None:
        self._file = file

    @property
    def told(self) -> list[Any]:
        return [json.loads(line) for line in self._file.read_text().splitlines()]

    def logged(self) -> list[tuple[int, dict[str, Any]]]:
        return [(rest[0], rest[1]) for what, *rest in self.told if what == "log"]

    def opened(self) -> list[dict[str, Any]]:
        return [rest[0] for what, *rest in self.told if what == "init"]


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    fake_tracker.install(tmp_path, monkeypatch)
    for name in ("WANDB_MODE", "FAKE_KEY", "FAKE_DOWN", "FAKE_FAILS_AT"):
        monkeypatch.delenv(name, raising=False)
    for name in ("prepare", "preflight", "try_players", "try_judge"):
        stand_in = tabular_run.prepare if name == "prepare" else lambda *_: {}
        monkeypatch.setattr(f"magic_rl.runs.train.{name}", stand_in)
    return Fake(tmp_path / "told")


def config(kind: str, *more: str) -> Config:
    return load_config(HERE / "tabular.toml", [f"tracker.kind={kind}", "game.schedule.rounds=1", *more])


def whole(row: dict[str, Any]) -> dict[str, Any]:
    """A row as a tracker gets it."""
    return {key: value for key, value in row.items() if value is not None and key != "step"}


@pytest.mark.parametrize("kind", KINDS)
def test_a_tracker_gets_every_metric_and_the_whole_config(
    fake: Fake, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    settings, view = config(kind), Silent()
    run = train(settings, tmp_path / "run", view)
    rows, times = run.metrics(), run.timings()
    assert fake.logged() == [
        (row["step"], whole(row) | {f"timing/{key}": value for key, value in whole(time).items()})
        for row, time in zip(rows, times, strict=True)
    ]
    assert fake.opened()[0]["config"] == settings.model_dump(mode="json")
    assert fake.told[-1] == ["finish"]
    assert len(view.steps) == len(rows)
    assert not capsys.readouterr().out


@pytest.mark.parametrize("asked", [False, True])
def test_texts_go_to_a_tracker_only_if_asked_for(fake: Fake, tmp_path: Path, asked: bool) -> None:
    view = Silent()
    train(config("trackio", f"tracker.exchanges={str(asked).lower()}"), tmp_path / "run", view)
    said = json.dumps(fake.told)
    of_steps = view.exchanges[1:]  # the first is shown before any step
    assert of_steps
    assert all((exchange.attack in said) is asked for exchange, _ in of_steps)


class Dies(Silent):
    """Stops the work right after a step was logged, before it is saved."""

    def exchange(self, exchange: Exchange, verdict: Verdict) -> None:
        if len(self.steps) == 4:
            raise KeyboardInterrupt


@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_run_goes_on_as_the_same_tracked_run(fake: Fake, tmp_path: Path, kind: str) -> None:
    settings = config(kind, "store.checkpoint_every=2", "game.schedule.defender_steps=6")
    with pytest.raises(KeyboardInterrupt):
        train(settings, tmp_path / "run", Dies())
    assert [step for step, _ in fake.logged()] == [1, 2, 3, 4]
    run = resume(tmp_path / "run", Silent())
    assert [step for step, _ in fake.logged()] == [row["step"] for row in run.metrics()]
    first, second = fake.opened()
    known = "id" if kind == "wandb" else "name"
    assert first[known] == second[known]


def test_a_tracker_named_on_resuming_gets_the_earlier_steps_too(fake: Fake, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(config("none", "store.checkpoint_every=2"), tmp_path / "run", Dies())
    run = resume(tmp_path / "run", Silent(), ["tracker.kind=trackio"])
    assert [step for step, _ in fake.logged()] == [row["step"] for row in run.metrics()]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("trouble", [{"FAKE_DOWN": "1"}, {"FAKE_FAILS_AT": "2"}])
def test_a_tracker_that_fails_costs_a_run_one_warning(
    fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, trouble: dict[str, str]
) -> None:
    expected = train(config("none"), tmp_path / "plain", Silent()).metrics()
    for name, value in trouble.items():
        monkeypatch.setenv(name, value)
    view = Silent()
    assert train(config(kind), tmp_path / "run", view).metrics() == expected
    assert sum("goes on without it" in note for note in view.notes) == 1
    assert len(fake.logged()) == (2 if "FAKE_FAILS_AT" in trouble else 0)


@pytest.mark.parametrize(
    ("key", "modes"), [(None, ["offline"]), ("k", ["online"]), ("no network", ["online", "offline"])]
)
def test_wandb_keeps_a_run_here_where_it_cannot_send_it(
    fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str | None, modes: list[str]
) -> None:
    if key:
        monkeypatch.setenv("FAKE_KEY", key)
    train(config("wandb"), tmp_path / "run", Silent())
    assert [about["mode"] for about in fake.opened()] == modes
    assert fake.opened()[-1]["dir"] == str(tmp_path / "run")
    assert fake.logged()


def test_a_tracker_that_is_not_installed_is_missed_at_once(
    fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match="not installed"):
        train(config("wandb"), tmp_path / "run", Silent())
    assert not (tmp_path / "run").exists()


def test_settings_of_a_tracker_need_one() -> None:
    with pytest.raises(ConfigError, match="no effect"):
        config("none", "tracker.project=mine")
