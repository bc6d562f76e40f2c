"""Trains a whole run: attacker SFT, defender warm-up, co-evolution. Steps are recorded and regularly saved.

A run can be killed at any instant: it continues from its last checkpoint and, because all randomness comes from the
step's number, arrives at the same numbers.
"""

from __future__ import annotations

import importlib.metadata
import math
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from magic_rl.config import Config, dump_config, load_config
from magic_rl.errors import DegenerateError, EngineError, StoreError
from magic_rl.game.play import attack, reply
from magic_rl.game.schedule import Schedule
from magic_rl.learning.coevolve import GameStep, Step, coevolve
from magic_rl.learning.opponents import PAYOFFS_FILE
from magic_rl.learning.sft import Example, SftStage, sft
from magic_rl.learning.target import OperatingPoint
from magic_rl.rng import derive
from magic_rl.runs.assembly import NOTHING, Brought, Setup, prepare
from magic_rl.runs.inputs import compare, compare_settings, digests, record_settings
from magic_rl.runs.interrupt import Interrupt
from magic_rl.runs.preflight import preflight, remarks, try_judge, try_players
from magic_rl.runs.tracking import require, tracked
from magic_rl.store.run import ENGINES_FILE, WARMUP_FILE, Checkpoint, RunDirectory, refuse_taken
from magic_rl.types import Episode, Exchange, Role
from magic_rl.view import NOBODY, Count, View, counting

_PAUSE = 10.0  # seconds between progress lines about replies
Stage = Literal["sft_attacker", "warmup_defender", "play", "done"]


@dataclass(frozen=True, slots=True)
class Position:
    """Where a run is: the state in a checkpoint. The step number is also the position of all randomness."""

    stage: Stage = "sft_attacker"  # the stage to continue with
    number: int = 0  # optimiser steps taken over all stages
    stage_step: int = 0  # steps taken in a supervised stage
    schedule: Schedule | None = None  # whose turn it is; None before the game begins
    # The defender's operating point; None before the game begins, or without `learning.target`.
    target: OperatingPoint | None = None
    # Payoffs between versions of the players, see `Opponents.payoffs`; None if opponents are not drawn from versions.
    payoffs: Sequence[Mapping[str, Any]] | None = None


_STATE = TypeAdapter(Position)
_EXAMPLES = TypeAdapter(list[Example])


def train(config: Config, directory: Path, view: View = NOBODY, *, brought: Brought = NOTHING) -> RunDirectory:
    """Begin a run in a new directory and train it to the end, or until interrupted.

    Args:
        config: Every setting.
        directory: The run's; new or empty.
        view: Told of every step and exchange.
        brought: A judge or engines in place of those that `config` names.

    Returns:
        The run's directory.

    Raises:
        UserError: For a directory that is not empty, or models, seeds or prompts that cannot be used; nothing is
            written then.
    """
    refuse_taken(directory)
    require(config)
    setup = prepare(config, view.note, brought=brought)
    checked = preflight(setup)
    for remark in remarks(config):
        view.note(remark)
    lessons = _lessons(setup, Position(), view)
    inputs = {"digests": digests(setup), "checked": checked, "config": config.model_dump(mode="json")}
    run = RunDirectory.create(directory, dump_config(config), versions(), inputs=inputs, keep=config.store.keep)
    with run.lock(), tracked(run, config, view) as watching:
        _keep_answers(run, config, lessons)
        _Training(run, setup, watching, lessons).run(None, Position())
    return run


def resume(
    directory: Path, view: View = NOBODY, overrides: Sequence[str] = (), *, brought: Brought = NOTHING
) -> RunDirectory:
    """Continue a run from its last good checkpoint.

    Args:
        directory: The run's.
        view: Told of every step and exchange.
        overrides: Settings that change from here on, as for `load_config`.
        brought: The judge or engines that the run was begun with, if they were brought.

    Raises:
        UserError: If there is no run, another process uses it, no checkpoint is usable, a setting may not change, or
            seeds, prompts, pool or models are not what the run was begun with.
    """
    config = load_config(RunDirectory.open(directory).path / "config.toml", overrides)
    run = RunDirectory.open(directory, keep=config.store.keep)
    with run.lock():
        checkpoint = run.latest_checkpoint()
        if checkpoint is not None and checkpoint.state["stage"] == "done":
            unused = ", so no setting can change" if overrides else ""
            view.note(f"{directory}: training is complete{unused}")
            return run
        changed = compare_settings(run, config)
        require(config)
        setup = prepare(config, view.note, brought=brought)
        compare(run, digests(setup))
        try_players(setup)
        try_judge(setup.judge)
        position = _STATE.validate_python(checkpoint.state) if checkpoint else Position()
        lessons = _lessons(setup, position, view, None if changed else run.read_json(WARMUP_FILE))
        step = checkpoint.step if checkpoint else 0
        if changed:
            record_settings(run, config, changed, step)
            for key, (old, new) in sorted(changed.items()):
                view.note(f"{key}: {new!r} from here on, {old!r} before")
        run.rewind(step)
        _keep_answers(run, config, lessons)
        with tracked(run, config, view) as watching:
            _Training(run, setup, watching, lessons).run(checkpoint, position)
    return run


def _lessons(setup: Setup, position: Position, view: View, warmup: Any = None) -> dict[Role, Sequence[Example]]:
    """The examples of the supervised stages that are left, made before any of them so that errors come early.

    Args:
        warmup: What `WARMUP_FILE` holds, so that the base model is not asked for it again.
    """
    stages: dict[Stage, Role] = {"sft_attacker": "attacker", "warmup_defender": "defender"}
    begin = list(stages).index(position.stage) if position.stage in stages else len(stages)
    out: dict[Role, Sequence[Example]] = {}
    for role in list(stages.values())[begin:]:
        stage = setup.config.player(role).sft
        if stage.steps > (position.stage_step if stages.get(position.stage) == role else 0):
            if role == "defender" and not stage.examples:
                if warmup:
                    out[role] = _answers(warmup)
                    continue
                view.note("the base model answers benign seeds, for the defender's warm-up")
            with counting(_answered(view)):
                out[role] = setup.examples(role)
    return out


def _keep_answers(run: RunDirectory, config: Config, lessons: Mapping[Role, Sequence[Example]]) -> None:
    if "defender" in lessons and not config.defender.sft.examples:
        run.write_json(WARMUP_FILE, _EXAMPLES.dump_python(list(lessons["defender"]), mode="json"))


def _answers(kept: Any) -> list[Example]:
    try:
        return _EXAMPLES.validate_python(kept)
    except ValidationError as error:
        raise StoreError(f"{WARMUP_FILE}: damaged; without this file the base model is asked again") from error


def _answered(view: View) -> Count:
    """A function that tells a view now and then how many replies there are."""
    said = time.monotonic()

    def tell(done: int, total: int) -> None:
        nonlocal said
        if time.monotonic() - said >= _PAUSE:
            said = time.monotonic()
            view.note(f"{done} of {total} answered")

    return tell


class _Training:
    """One process's work on a run: drives the stages and keeps the run directory."""

    def __init__(self, run: RunDirectory, setup: Setup, view: View, lessons: Mapping[Role, Sequence[Example]]) -> None:
        self._run, self._setup, self._view, self._lessons = run, setup, view, lessons
        self._interrupt = Interrupt(view.note)
        self._unsaved: Position | None = None  # after the last step, if no checkpoint has it

    def run(self, checkpoint: Checkpoint | None, position: Position) -> None:
        """Train from a checkpoint and the position in it, or from the beginning.

        Raises:
            EngineError: If the sampler is gone; every step that was taken is saved.
        """
        try:
            self._stages(checkpoint, position)
        except EngineError:
            if last := self._unsaved:  # sampling precedes gradients, so the learners are as that step left them
                self._save(last)
                self._view.note(f"saved after step {last.number}")
            raise

    def _stages(self, checkpoint: Checkpoint | None, position: Position) -> None:
        self._say_paths()
        if checkpoint is not None:
            self._setup.load_learners({name: checkpoint.policy(name) for name in self._setup.learners_by_name()})
            self._view.note(f"resuming after step {position.number}")
        with self._interrupt.heeded():
            if position.stage == "sft_attacker":
                position = self._supervise("attacker", position)
                if self._interrupt.asked:
                    return
                self._show_first_attack()
                position = replace(position, stage="warmup_defender", stage_step=0)
            if position.stage == "warmup_defender":
                position = self._supervise("defender", position)
                if self._interrupt.asked:
                    return
                self._save_players(0, position.number)
                # The game begins with fresh optimiser states: moments of the supervised gradients, which are far
                # larger, would slow down the first hundreds of steps.
                self._setup.load_learners({n: self._run.player(r, 0) for n, r in self._setup.roles_by_name().items()})
                position = replace(position, stage="play", stage_step=0)
            self._setup.load_references({role: self._run.player(role, 0) for role in self._setup.roles()})
            if position.schedule is None:
                config = self._setup.config
                position = replace(
                    position,
                    schedule=Schedule.start(config.game.schedule),
                    target=OperatingPoint.start(config.learning.target),
                )
            self._play(position)

    def _say_paths(self) -> None:
        """Record how each role's model is computed, and note it if that is the slow path or another program samples."""
        paths = {role: engine.path for role, engine in self._setup.engines.items()}
        self._run.write_json(ENGINES_FILE, {role: str(path) for role, path in paths.items()})
        for role, path in paths.items():
            if path.reason or path.sampler:
                self._view.note(f"{role}: {path}")

    def _supervise(self, role: Role, position: Position) -> Position:
        config = self._setup.config
        settings = config.attacker.sft if role == "attacker" else config.defender.sft
        if position.stage_step >= settings.steps:
            return position
        self._view.stage(position.stage, settings.steps, position.stage_step)
        for step in sft(
            self._setup.learners[role],
            self._setup.renderer(role),
            self._lessons[role],
            settings,
            SftStage(position.stage, config.rng_seed, position.stage_step, position.number),
        ):
            position = replace(position, number=step.number, stage_step=position.stage_step + 1)
            self._record(step, position)
            if self._interrupt.asked:
                break
        return position

    def _show_first_attack(self) -> None:
        """Show the attacker's rewrite of a harmful seed and the untrained defender's reply, before the game begins."""
        setup = self._setup
        if "attacker" not in setup.learners:
            return
        seed = next(seed for seed in setup.split.train if seed.label == "harmful")
        draw = derive(setup.config.rng_seed, 0, "first attack")
        opened = attack([Episode(seed, (), 0)], setup.player("attacker"), 1, draw)
        (episode,) = reply(opened, setup.player("defender"), 1, draw)
        shown = Exchange(seed, episode.attack, episode.reply)
        self._view.exchange(shown, setup.judge.judge([shown])[0])

    def _play(self, position: Position) -> None:
        config, schedule = self._setup.config, position.schedule
        assert schedule is not None  # noqa: S101 - the game has begun
        bounds = config.game.schedule
        arena = self._setup.arena()
        opponents = arena.opponents
        if opponents:
            rounds = range(schedule.round)
            saved = {role: [self._run.player(role, number) for number in rounds] for role in self._setup.roles()}
            versions = {role: [self._setup.version(role, path) for path in paths] for role, paths in saved.items()}
            opponents.restore(versions, position.payoffs or ())
        total = bounds.rounds * (bounds.defender_steps + bounds.attacker_steps)
        self._view.stage("play", total, schedule.defender_total + schedule.attacker_total)
        every = config.store.checkpoint_every  # the step after a checkpoint is never sampled before it
        ahead = (lambda number: number % every > 0) if config.learning.look_ahead else None
        for step in coevolve(arena, schedule, position.number, position.target, ahead):
            round_over = step.schedule.round > schedule.round
            if round_over:
                self._save_players(schedule.round, step.number)
                if opponents and (summary := opponents.close_round(schedule.round)):
                    self._run.write_json(PAYOFFS_FILE, summary)
            schedule = step.schedule
            stage: Stage = "done" if schedule.over(bounds) else "play"
            payoffs = opponents.payoffs() if opponents else None
            self._record(step, Position(stage, step.number, 0, schedule, step.target, payoffs), save=round_over)
            if self._interrupt.asked:
                return

    def _record(self, step: Step, position: Position, *, save: bool = False) -> None:
        _check_finite(step, position.stage)  # before such weights are saved
        self._run.log(step.metrics)
        self._run.log_timing({"step": step.number, **step.timing})
        if isinstance(step, GameStep):
            self._run.write_episodes(step.number, step.outcomes)
        self._view.step(step.metrics, step.timing)
        if isinstance(step, GameStep):
            self._show_exchange(step)
        config = self._setup.config
        # With weights on a server a checkpoint is a few names: save each step, so that none is lost with the server.
        due = config.engine.remote or step.number % config.store.checkpoint_every == 0
        if save or self._interrupt.asked or due:
            self._save(position)
        else:
            self._unsaved = position

    def _save(self, position: Position) -> None:
        state = _STATE.dump_python(position, mode="json")
        self._run.save_checkpoint(position.number, self._setup.learners_by_name(), state)
        self._unsaved = None

    def _show_exchange(self, step: GameStep) -> None:
        """Show one judged exchange of the step, on a harmful and on a benign seed in turns."""
        wanted = "benign" if step.number % 2 else "harmful"
        judged = [
            (outcome.episode, outcome.verdict)
            for outcome in step.outcomes
            if outcome.verdict and outcome.masked is None and outcome.episode.seed.label == wanted
        ]
        if judged:
            episode, verdict = judged[step.number % len(judged)]
            self._view.exchange(Exchange(episode.seed, episode.attack, episode.reply), verdict)

    def _save_players(self, number: int, step: int) -> None:
        for role in self._setup.roles():
            self._run.save_player(role, number, self._setup.learners[role].snapshot(f"{role}-{number}"), step)


def _check_finite(step: Step, stage: Stage) -> None:
    """Raise DegenerateError if a step's loss or gradient is not finite."""
    lost = [name for name in ("loss", "grad_norm") if not math.isfinite(float(step.metrics.get(name) or 0.0))]
    if lost:
        supervised = "attacker.sft.lr" if stage == "sft_attacker" else "defender.sft.lr"
        key = f"{step.metrics['learner']}.optimiser.lr" if isinstance(step, GameStep) else supervised
        raise DegenerateError(
            f"{key}: the {lost[0]} of step {step.number} is not finite, so this policy is lost and was not saved; "
            "use a smaller one"
        )


def versions() -> dict[str, str]:
    """Versions of everything that may change a number."""
    names = ("magic-rl", "torch", "transformers", "peft", "safetensors", "numpy", "scipy")
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in names}}
