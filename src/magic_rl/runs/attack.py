"""How far a defender can be exploited: a fresh attacker learns against it while the defender is frozen.

The attackers of a game learned together with its defender, so their ASR only says how well the two know each other.
Here the attacker moves second: it starts from the run's SFT attacker and learns by the run's own settings, once against
the defender that entered the game and once against the one that left it, with the same number of steps and the same
random draws. Its ASR on held-out seeds, over its steps, is the exploitability (METHOD §1: an equilibrium must hold
against a best response). Each attack is a `part` of the run with its own checkpoints, so it can be stopped or killed as
training can.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from magic_rl.config import Config, EvaluationConfig, load_config
from magic_rl.errors import ConfigError, EngineError, StoreError
from magic_rl.evaluation.crossplay import answered_by, open_attacks
from magic_rl.evaluation.estimates import Count, Estimate, attack_at_k, seed_rate, seed_ratio
from magic_rl.evaluation.result import ATTACK_FILE, ATTACK_PLAN, AttackOnOne, AttackResult, Defender, read, write
from magic_rl.game.schedule import Schedule
from magic_rl.game.settings import ScheduleConfig
from magic_rl.learning.coevolve import coevolve
from magic_rl.rng import derive
from magic_rl.runs.assembly import Setup, loop_settings, prepare
from magic_rl.runs.evaluate import conditions, evaluated, new_episodes
from magic_rl.runs.inputs import compare, digests
from magic_rl.runs.instead import check_untaught, with_attacker_of
from magic_rl.runs.interrupt import Interrupt
from magic_rl.runs.lineup import held_out_seeds
from magic_rl.runs.preflight import try_judge
from magic_rl.store import atomic, manifest
from magic_rl.store.run import RunDirectory
from magic_rl.view import View

K = (1, 4, 16)  # of attack@k
ATTACKED: tuple[Defender, ...] = ("start", "trained")

_FOLDER = "attacks"


@dataclass(frozen=True, slots=True)
class Plan:
    """What the user asks for."""

    steps: int  # N, steps of learning against each defender
    every: int  # steps between measurements of ASR; 0: only before the first and after the last
    config: Config  # the settings: see `attack_config`
    source: Path | None  # the run whose attacker is used, if not the defender's
    attacker: Path  # the attacker's SFT start
    defenders: tuple[Path, Path]  # the starting and the trained defender, in the order of `ATTACKED`

    def as_dict(self) -> dict[str, Any]:
        """A JSON value that is equal exactly if the same attacks are asked for."""
        players = {name: manifest.fingerprint(path) for name, path in zip(ATTACKED, self.defenders, strict=True)}
        attacker = manifest.fingerprint(self.attacker)
        return {"steps": self.steps, "every": self.every, "attacker": attacker, "defenders": players}


@dataclass(frozen=True, slots=True)
class Progress:
    """How far one attack has come: the state in its checkpoint."""

    schedule: Schedule  # steps taken, and whether there are more
    # Step and outcomes per held-out harmful seed, for each measurement so far.
    curve: tuple[tuple[int, tuple[Count, ...]], ...] = ()
    # Outcomes per seed of the final attacker's many attacks; empty until it has made them.
    final: tuple[Count, ...] = ()

    @property
    def steps(self) -> int:
        """Steps of learning taken."""
        return self.schedule.attacker_total


_STATE = TypeAdapter(Progress)


def attack(run: RunDirectory, plan: Plan, view: View) -> AttackResult[Estimate] | None:
    """Let a fresh attacker learn against the starting and against the trained defender, and write `attack.json`.

    Unfinished attacks are continued; a complete result is returned as it is.

    Args:
        run: Its lock is held.
        plan: From `make_plan`.

    Returns:
        None if the user stopped it.

    Raises:
        UserError: If models, seeds or prompts cannot be used, or all checkpoints of a begun attack are broken.
        TooManyAbstentionsError: If the judge abstains too often for the numbers to be trusted.
    """
    done = read(run, ATTACK_FILE, AttackResult[Estimate])
    if done is not None and run.read_json(ATTACK_PLAN) == plan.as_dict():
        return done
    setup = prepare(plan.config)
    compare(run, {key: found for key, found in digests(setup).items() if not key.startswith("attacker")})
    if plan.source:
        check_untaught(plan.source, held_out_seeds(setup), setup.split.train)
    try_judge(setup.judge)
    setup.load_references({"attacker": plan.attacker})
    atomic.make_folder(run.path / _FOLDER)
    atomic.clean(run.path / _FOLDER)
    run.write_json(ATTACK_PLAN, plan.as_dict())
    interrupt = Interrupt(view.note)
    reached: list[Progress] = []
    with interrupt.heeded():
        for name in ATTACKED:
            if interrupt.asked:
                return None
            reached.append(_Attack(run.part(f"{_FOLDER}/{name}"), setup, plan, view, interrupt).run())
            if not reached[-1].final:
                return None
    result = _result(run, plan, reached, setup.config.evaluation)
    write(run, ATTACK_FILE, result)
    return result


def make_plan(
    run: RunDirectory,
    *,
    steps: int | None = None,
    every: int | None = None,
    source: RunDirectory | None = None,
    again: bool = False,
) -> Plan:
    """Complete what the user asked for, and check that it is possible before anything is loaded.

    Args:
        steps: None: as many as were asked for before, or else as the game gave the attacker of `source`.
        every: None: as asked for before, or else 0.
        source: Run whose attacker is taken; None is `run` itself.
        again: Whether to disregard what was asked for before; `forget` it then.

    Raises:
        UserError: If there is no trained defender, no attacker or no number of steps, or other attacks were begun.
    """
    rounds = [number for number, _ in run.players("defender")]
    if len(rounds) < 2:
        raise StoreError(f"{run.path}: no trained defender saved yet", "resume", run=run.path)
    other, source = source, source or run
    if not source.players("attacker"):
        raise StoreError(f"{source.path}: has no attacker", "take another's attacker")
    before = None if again else run.read_json(ATTACK_PLAN)
    if steps is None:
        steps = before["steps"] if before else sum(row.get("learner") == "attacker" for row in source.metrics())
    if not steps:
        raise ConfigError(f"{source.path}: its attacker took no steps in the game", "choose steps")
    plan = Plan(
        steps=steps,
        every=every if every is not None else before["every"] if before else 0,
        config=attack_config(run, source, steps),
        source=other.path if other else None,
        attacker=source.player("attacker", 0),
        defenders=(run.player("defender", rounds[0]), run.player("defender", rounds[-1])),
    )
    asked = plan.as_dict()
    if before and before != asked:
        changed = ", ".join(key for key in asked if asked[key] != before.get(key))
        raise StoreError(
            f"{run.path / _FOLDER}: holds attacks of another kind ({changed})", "attack again", run=run.path
        )
    return plan


def forget(run: RunDirectory) -> None:
    """Remove the attacks of a run and their result. Its lock is held."""
    for path in (run.path / ATTACK_FILE, run.path / _FOLDER):
        atomic.remove(path)


def attack_config(run: RunDirectory, source: RunDirectory, steps: int) -> Config:
    """The settings of a run's attacks: the run's own, with those of the attacker from `source`.

    The latter are `attacker`, `learning`, `game.turns` and `game.rewards`.

    Raises:
        ConfigError: If the two runs word their prompts differently.
    """
    given = load_config(source.path / "config.toml")
    config = with_attacker_of(run, source, load_config(run.path / "config.toml"))
    game = config.game.model_copy(
        update={
            "rewards": given.game.rewards,
            "opponents": "last",
            "schedule": ScheduleConfig(kind="ratio", rounds=1, defender_steps=0, attacker_steps=steps),
        }
    )
    # A frozen defender cannot be trained again: if it is degenerate, the result says so.
    learning = given.learning.model_copy(update={"max_degenerate": 1.0})
    return config.model_copy(update={"learning": learning, "game": game})


class _Attack:
    """A fresh attacker that learns against one defender: drives the steps, measures, and keeps its part of the run."""

    def __init__(self, part: RunDirectory, setup: Setup, plan: Plan, view: View, interrupt: Interrupt) -> None:
        """Load the last checkpoint, if any. Args: part: Its folder has the defender's name in `ATTACKED`."""
        self._part, self._setup, self._plan = part, setup, plan
        self._view, self._interrupt = view, interrupt
        self._unsaved: Progress | None = None  # after the last step, if no checkpoint has it
        self._name: Defender = "start" if part.path.name == "start" else "trained"
        self._seeds = [seed for seed in held_out_seeds(setup) if seed.label == "harmful"]

        checkpoint = part.latest_checkpoint()
        part.rewind(checkpoint.step if checkpoint else 0)
        begun = _STATE.validate_python(checkpoint.state) if checkpoint else None
        self._progress = begun or Progress(Schedule.start(setup.config.game.schedule))
        # A player is saved without an optimiser, so the attacker begins with a fresh one, as it did in the game.
        start = checkpoint.policy("attacker") if checkpoint else plan.attacker
        self._learner = setup.engines["attacker"].load(start, "fresh attacker")
        frozen = dict(zip(ATTACKED, plan.defenders, strict=True))[self._name]
        self._frozen = setup.engines["defender"].load(frozen, self._name).snapshot(self._name)

    def run(self) -> Progress:
        """Continue until everything is measured or the user stops it; save the last step if the sampler is gone."""
        try:
            return self._steps()
        except EngineError:
            if self._unsaved:
                self._save(self._unsaved)
            raise

    def _steps(self) -> Progress:
        config, progress = self._setup.config, self._progress
        self._view.stage(f"attack_{self._name}", self._plan.steps, progress.steps)
        progress = self._measured(progress)
        if self._interrupt.asked:
            return progress
        # Its draws differ from the game's, whose steps with the same numbers trained the defender.
        arena = replace(
            self._setup.arena(),
            attacker=self._setup.player("attacker", self._learner),
            defender=self._setup.player("defender", self._frozen),
            learners={"attacker": self._learner},
            settings=replace(loop_settings(config), rng_seed=derive(config.rng_seed, 0, "fresh attacker")),
        )
        for step in coevolve(arena, progress.schedule, progress.steps):
            progress = replace(progress, schedule=step.schedule)
            self._part.log(step.metrics)
            self._part.log_timing({"step": step.number, **step.timing})
            self._part.write_episodes(step.number, step.outcomes)
            self._view.step(step.metrics, step.timing)
            taken = self._unsaved = progress
            if not self._interrupt.asked:
                progress = self._measured(taken)
            if progress is taken and (self._interrupt.asked or step.number % config.store.checkpoint_every == 0):
                self._save(progress)
            if self._interrupt.asked:
                break
        return progress

    def _measured(self, progress: Progress) -> Progress:
        """Add what is due at this step and not measured yet, and save the result."""
        steps, every, last = progress.steps, self._plan.every, self._plan.steps
        settings, before = self._setup.config.evaluation, progress
        due = steps in (0, last) or (every and steps % every == 0)
        if due and steps not in (step for step, _ in progress.curve):
            counts = self._outcomes(settings.attacks_per_seed, "evaluation attack")
            progress = replace(progress, curve=(*progress.curve, (steps, counts)))
            asr = seed_rate(_shares(counts))
            self._view.note(
                f"{self._name}, after {steps} of {last} steps: ASR {asr.value:.1%} on {asr.n} held-out seeds"
            )
        if steps == last and not progress.final:
            self._view.note(f"{self._name}: {settings.best_of} attacks per held-out seed by the final attacker")
            progress = replace(progress, final=self._outcomes(settings.best_of, "best of attack"))
        if progress is not before:
            self._save(progress)
        return progress

    def _outcomes(self, n: int, purpose: str) -> tuple[Count, ...]:
        """Of `n` attacks per held-out harmful seed: how many succeeded and how many were judged."""
        met, attacker = conditions(self._setup), evaluated(self._setup, "attacker", self._learner)
        attack_set = open_attacks(met, (attacker, new_episodes(self._seeds)), n, purpose)
        (cell,) = answered_by(met, [attack_set], evaluated(self._setup, "defender", self._frozen))
        escaped = cell.escaped
        of_seed = [escaped[i : i + n] for i in range(0, len(escaped), n)]
        return tuple((outcomes.count(True), n - outcomes.count(None)) for outcomes in of_seed)

    def _save(self, progress: Progress) -> None:
        self._part.save_checkpoint(
            progress.steps, {"attacker": self._learner}, _STATE.dump_python(progress, mode="json")
        )
        self._unsaved = None


def _result(
    run: RunDirectory, plan: Plan, reached: Sequence[Progress], settings: EvaluationConfig
) -> AttackResult[Estimate]:
    """The result of the two complete attacks, in the order of `ATTACKED`."""
    draws = settings.attacks_per_seed
    start, trained = (attack.curve[-1][1] for attack in reached)
    both = [i for i in range(len(start)) if start[i][1] and trained[i][1]]
    defenders: dict[Defender, AttackOnOne[Estimate]] = {}
    for name, progress in zip(ATTACKED, reached, strict=True):
        shares = [row.get("degenerate_rate") or 0.0 for row in run.part(f"{_FOLDER}/{name}").metrics()]
        defenders[name] = AttackOnOne(
            curve={step: seed_rate(_shares(counts), draws) for step, counts in progress.curve},
            attack_at_k={k: attack_at_k(progress.final, k) for k in K if k <= settings.best_of},
            degenerate=sum(shares) / plan.steps,
        )
    ratio = seed_ratio(_shares([trained[i] for i in both]), _shares([start[i] for i in both]), draws)
    return AttackResult(steps=plan.steps, defenders=defenders, ratio=ratio)


def _shares(counts: Sequence[Count]) -> list[float]:
    """Share of the judged attacks on each seed that succeeded; seeds without any are left out."""
    return [hits / n for hits, n in counts if n]
