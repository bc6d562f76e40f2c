"""A whole run: attacker SFT, defender warm-up, co-evolution, each step recorded and every so often saved.

A run can be killed at any instant: it goes on from its last checkpoint and, because all randomness comes from
the step's number, arrives at the numbers it would have arrived at.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import platform
import signal
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any, Literal, Protocol

from magic_rl.config import Config, dump_config, load_config
from magic_rl.errors import UserError
from magic_rl.game.schedule import Schedule
from magic_rl.learning.coevolve import GameStep, Step, coevolve
from magic_rl.learning.setup import Setup, prepare
from magic_rl.learning.sft import Example, sft
from magic_rl.store.run import Checkpoint, RunDirectory
from magic_rl.types import Role

Stage = Literal["sft_attacker", "warmup_defender", "play", "done"]


class View(Protocol):
    """Somebody who watches a run."""

    def stage(self, name: str, total: int, done: int = 0) -> None:
        """A stage of at most `total` steps begins, or goes on after `done` of them."""
        ...

    def step(self, metrics: Mapping[str, Any], timing: Mapping[str, Any]) -> None:
        """A step was taken."""
        ...

    def note(self, text: str) -> None:
        """Something worth a line happened."""
        ...


@dataclass(frozen=True, slots=True)
class Position:
    """Where a run is: the state in a checkpoint. The step number is also the position of all randomness.

    Attributes:
        stage: The stage to go on with.
        number: Optimiser steps taken over all stages.
        stage_step: Steps taken in a supervised stage.
        schedule: Whose turn it is; None before the game begins.
    """

    stage: Stage = "sft_attacker"
    number: int = 0
    stage_step: int = 0
    schedule: Schedule | None = None

    def as_dict(self) -> dict[str, Any]:
        """A JSON value that `from_dict` reads back."""
        schedule = self.schedule.as_dict() if self.schedule else None
        return {
            "stage": self.stage,
            "number": self.number,
            "stage_step": self.stage_step,
            "schedule": schedule,
        }

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Position:
        """What `as_dict` wrote."""
        schedule = Schedule.from_dict(state["schedule"]) if state["schedule"] else None
        return cls(state["stage"], state["number"], state["stage_step"], schedule)


def start(config: Config, directory: Path, view: View) -> RunDirectory:
    """Begin a run in a new directory and train it to the end, or until interrupted.

    Raises:
        UserError: For a directory that exists, or models, seeds or prompts that cannot be used; nothing has
            been written then.
    """
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise UserError(f"{directory}: already exists; use `magic-rl resume {directory}` or choose another directory")
    setup = prepare(config)
    run = RunDirectory.create(directory, dump_config(config), versions(), keep=config.store.keep)
    with run.lock():
        _Training(run, setup, view).run(None)
    return run


def resume(directory: Path, view: View) -> RunDirectory:
    """Go on with a run from its last good checkpoint.

    Raises:
        UserError: If there is no run, another process is at it, or no checkpoint is usable.
    """
    config = load_config(RunDirectory.open(directory).path / "config.toml")
    run = RunDirectory.open(directory, keep=config.store.keep)
    with run.lock():
        checkpoint = run.latest_checkpoint()
        if checkpoint is not None and checkpoint.state["stage"] == "done":
            view.note(f"{directory}: training is complete")
            return run
        setup = prepare(config)
        run.rewind(checkpoint.step if checkpoint else 0)
        _Training(run, setup, view).run(checkpoint)
    return run


class _Training:
    """One process's work on a run: drives the stages and keeps the run directory."""

    def __init__(self, run: RunDirectory, setup: Setup, view: View) -> None:
        self._run, self._setup, self._view = run, setup, view
        self._stop = False

    def run(self, checkpoint: Checkpoint | None) -> None:
        """Train from a checkpoint, or from the beginning."""
        position = Position()
        if checkpoint is not None:
            position = Position.from_dict(checkpoint.state)
            self._setup.load_learners({name: checkpoint.policy(name) for name in self._setup.learners_by_name()})
            self._view.note(f"resuming after step {position.number}")
        with self._interruptible():
            if position.stage == "sft_attacker":
                position = self._supervise("attacker", position)
                if self._stop:
                    return
                position = replace(position, stage="warmup_defender", stage_step=0)
            if position.stage == "warmup_defender":
                position = self._supervise("defender", position)
                if self._stop:
                    return
                self._save_players(0, position.number)
                # The game begins with fresh optimiser states: moments of the supervised gradients, which are
                # far larger, would hold the first hundreds of steps back.
                self._setup.load_learners({n: self._run.player(r, 0) for n, r in self._setup.roles_by_name().items()})
                position = replace(position, stage="play", stage_step=0)
            self._setup.load_references({role: self._run.player(role, 0) for role in self._setup.roles()})
            self._play(position.number, position.schedule or Schedule.start(self._setup.config.game.schedule))

    def _supervise(self, role: Role, position: Position) -> Position:
        config = self._setup.config
        settings = config.attacker.sft if role == "attacker" else config.defender.sft
        if position.stage_step >= settings.steps:
            return position
        self._view.stage(position.stage, settings.steps, position.stage_step)
        examples: Sequence[Example] = self._setup.examples(role)
        for step in sft(
            self._setup.learners[role],
            self._setup.engines[role].renderer,
            examples,
            settings,
            stage=position.stage,
            run_seed=config.seed,
            first=position.stage_step,
            number=position.number,
        ):
            position = replace(position, number=step.number, stage_step=position.stage_step + 1)
            self._record(step, position)
            if self._stop:
                break
        return position

    def _play(self, number: int, schedule: Schedule) -> None:
        config = self._setup.config
        bounds = config.game.schedule
        total = bounds.rounds * (bounds.defender_steps + bounds.attacker_steps)
        self._view.stage("play", total, schedule.defender_total + schedule.attacker_total)
        for step in coevolve(self._setup.table(), config, schedule, number):
            round_over = step.schedule.round > schedule.round
            if round_over:
                self._save_players(schedule.round, step.number)
            schedule = step.schedule
            stage: Stage = "done" if schedule.over(bounds) else "play"
            self._record(step, Position(stage, step.number, 0, schedule), save=round_over)
            if self._stop:
                return

    def _record(self, step: Step, position: Position, *, save: bool = False) -> None:
        self._run.log(step.metrics)
        self._run.log_timing({"step": step.number, **step.timing})
        if isinstance(step, GameStep):
            self._run.write_episodes(step.number, step.outcomes)
        self._view.step(step.metrics, step.timing)
        if save or self._stop or step.number % self._setup.config.store.checkpoint_every == 0:
            self._run.save_checkpoint(step.number, self._setup.learners_by_name(), position.as_dict())

    def _save_players(self, number: int, step: int) -> None:
        for role in self._setup.roles():
            self._run.save_player(role, number, self._setup.learners[role].snapshot(f"{role}-{number}"), step)

    @contextlib.contextmanager
    def _interruptible(self) -> Iterator[None]:
        """Ctrl-C and a polite kill let the step finish and save; a second one stops at once."""

        def ask_to_stop(_number: int, _frame: FrameType | None) -> None:
            if self._stop:
                raise KeyboardInterrupt
            self._stop = True
            self._view.note("finishing this step, then saving; press Ctrl-C again to stop at once")

        before = {sign: signal.signal(sign, ask_to_stop) for sign in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for sign, handler in before.items():
                signal.signal(sign, handler)
        if self._stop:
            self._view.note(f"stopped; go on with `magic-rl resume {self._run.path}`")


def versions() -> dict[str, str]:
    """Versions of everything that may change a number."""
    names = ("magic-rl", "torch", "transformers", "peft", "safetensors", "numpy")
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in names}}
