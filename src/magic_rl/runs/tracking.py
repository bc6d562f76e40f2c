"""Sends what goes into `metrics.jsonl` to wandb or trackio too, if the config says so.

The run directory stays the record. A tracker that fails is reported once, and training continues without it. The run's
id at the tracker and the last step sent are kept in the run directory, so a resumed run continues the same one there.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import os
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from magic_rl.config import Config
from magic_rl.errors import ConfigError
from magic_rl.store.run import TRACKER_FILE, RunDirectory
from magic_rl.types import Exchange, Verdict
from magic_rl.view import View

_LAST_WORDS = 60.0  # seconds that a tracker may take to send the rest when a run ends


def require(config: Config) -> None:
    """Check that the tracker is installed, before anything long begins.

    Raises:
        ConfigError: If it is not.
    """
    kind = config.tracker.kind
    if kind and importlib.util.find_spec(kind) is None:
        raise ConfigError(f"tracker.kind: the package {kind} is not installed", "install", extra=kind)


@contextlib.contextmanager
def tracked(run: RunDirectory, config: Config, view: View) -> Iterator[View]:
    """A view that passes everything on to another one, and steps to the config's tracker too.

    Args:
        run: The run, rewound to where it continues.
        view: The user's own.
    """
    if config.tracker.kind is None:
        yield view
        return
    with contextlib.closing(_Tracked(config.tracker.kind, run, config, view)) as watching:
        yield watching


class _Tracked(View):
    """A view with a tracker beside it."""

    def __init__(self, kind: str, run: RunDirectory, config: Config, view: View) -> None:
        """Open the tracked run, and send the steps that it has missed."""
        self._run, self._view, self._settings = run, view, config.tracker
        self._there: Any = None  # what `log` and `finish` are called on; None once it has failed
        where = {"kind": kind, "project": config.tracker.project}
        known = run.read_json(TRACKER_FILE) or {}
        same = {key: known.get(key) for key in where} == where
        self._state: dict[str, Any] = known if same else {**where, "id": uuid.uuid4().hex[:8], "sent": 0}
        self._current = 0  # the step that an exchange belongs to
        with self._trouble():
            self._there, place = _OPEN[kind](run, config, self._state["id"])
        if self._there is not None:
            view.note(f"{kind}: {place}")
        for row in run.metrics():
            self._send(row["step"], row)

    def close(self) -> None:
        """Let the tracker send the rest."""
        if self._there is not None:
            with self._trouble():
                self._there.finish()

    def _send(self, step: int, row: Mapping[str, Any]) -> None:
        """Send one row, unless it was sent before the run was resumed from an earlier step."""
        self._current = step
        if self._there is None or step <= self._state["sent"]:
            return
        with self._trouble():
            known = {key: value for key, value in row.items() if value is not None and key != "step"}
            self._there.log(known, step=step)
            self._state["sent"] = step
            self._run.write_json(TRACKER_FILE, self._state)

    @contextlib.contextmanager
    def _trouble(self) -> Iterator[None]:
        """Report a tracker's first failure and stop using it; what it prints is dropped."""
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                yield
        except Exception as error:  # noqa: BLE001 - a tracker must not stop a run by any error
            self._there = None
            self._view.note(f"{self._settings.kind}: {_line(error)}; training goes on without it")

    def stage(self, name: str, total: int, done: int = 0) -> None:
        self._view.stage(name, total, done)

    def note(self, text: str) -> None:
        self._view.note(text)

    def step(self, metrics: Mapping[str, Any], timing: Mapping[str, Any]) -> None:
        self._view.step(metrics, timing)
        self._send(metrics["step"], {**metrics, **{f"timing/{key}": value for key, value in timing.items()}})

    def exchange(self, exchange: Exchange, verdict: Verdict) -> None:
        self._view.exchange(exchange, verdict)
        if self._settings.exchanges and self._there is not None and self._current == self._state["sent"] > 0:
            said = {"seed": exchange.seed.text, "attack": exchange.attack, "reply": exchange.reply}
            with self._trouble():
                self._there.log({f"exchange/{key}": text for key, text in said.items()}, step=self._current)


def _wandb(run: RunDirectory, config: Config, known_as: str) -> tuple[Any, str]:
    """A run at wandb; in a folder of the run directory if there is no key or network, or the user wants it so.

    The user is not asked for a key. Terminal output is not sent, because it holds exchanges.
    """
    wandb = importlib.import_module("wandb")
    wandb.setup(settings=wandb.Settings(silent=True))
    settings = wandb.Settings(
        silent=True, console="off", disable_git=True, save_code=False, finish_timeout=_LAST_WORDS, init_timeout=30.0
    )
    about: dict[str, Any] = {"project": config.tracker.project, "name": run.path.name, "id": known_as}
    about |= {"dir": str(run.path), "config": config.model_dump(mode="json"), "settings": settings}
    mode, why = os.environ.get("WANDB_MODE", "online"), "as WANDB_MODE says"
    if mode == "online":
        try:
            if wandb.login(prompt=False):
                there = wandb.init(**about, mode=mode, resume="allow")
                return there, str(there.url)
            why = "it has no key; `wandb login` gives it one"
        except Exception as error:  # noqa: BLE001 - of many kinds without a network
            why = _line(error)
    there = wandb.init(**about, mode="offline" if mode == "online" else mode)
    if mode == "disabled":
        return there, f"is off, {why}"
    return there, f"kept in {run.path / 'wandb'} until `wandb sync` sends it ({why})"


def _trackio(run: RunDirectory, config: Config, known_as: str) -> tuple[Any, str]:
    """A run at trackio: in the user's cache, or where TRACKIO_SPACE_ID or TRACKIO_SERVER_URL say."""
    trackio = importlib.import_module("trackio")
    name, project = f"{run.path.name}-{known_as}", config.tracker.project
    settings = {"config": config.model_dump(mode="json"), "private": True, "embed": False}
    trackio.init(project=project, name=name, resume="allow", **settings)
    return trackio, f"{name} of project {project}; `trackio show` shows it"


_OPEN: dict[str, Callable[[RunDirectory, Config, str], tuple[Any, str]]] = {"wandb": _wandb, "trackio": _trackio}


def _line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
