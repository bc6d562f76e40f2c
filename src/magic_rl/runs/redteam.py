"""Runs the attacks that a command names on any target: puts target, attackers and seeds together."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from magic_rl.attacks.checks import Checks
from magic_rl.attacks.pool import read_pool
from magic_rl.chat.base import ChatRequest
from magic_rl.config import Config, EndpointConfig
from magic_rl.data.split import evenly
from magic_rl.errors import ChatError, UserError
from magic_rl.evaluation.estimates import rate
from magic_rl.evidence.attackers import Attack, PoolAttacker, TrainedAttacker
from magic_rl.evidence.findings import Audit, found_in
from magic_rl.evidence.foreign import ConversationAttack, Gcg, Tool, converse
from magic_rl.evidence.redteam import RESULT_FILE, AttackRow, Log, RedTeam, Target, play, summed_up
from magic_rl.evidence.unseen import BestOfN, ManyShot, PastTense, Prefill
from magic_rl.game.play import Player
from magic_rl.prompts import load_prompts
from magic_rl.runs.export.player import saved_player
from magic_rl.runs.instead import check_untaught
from magic_rl.runs.judge import about_rules, key_of, make_chat, make_judge, open_memory
from magic_rl.runs.preflight import try_judge
from magic_rl.runs.seeds import read_sources, split_of
from magic_rl.runs.serve import served_player
from magic_rl.runs.target import chat_of, endpoint_of
from magic_rl.runs.writer import refuses, same_topic
from magic_rl.store import atomic
from magic_rl.store.run import RunDirectory
from magic_rl.types import Message, SamplingParams, Seed

# Queries per seed by default. PAIR, TAP, GCG and multi-turn: the paper's (METHOD §9); Crescendo: PyRIT's turns.
BUDGETS = {
    "best-of-n": 100,
    "prefill": Prefill.max_attempts,
    "past-tense": 20,
    "many-shot": ManyShot.max_attempts,
    "multi-turn": 30,
    "pair": 3,
    "tap": 14,
    "crescendo": 10,
    "gcg": 1,
}
_PYRIT = ("pair", "tap", "crescendo")
_TURNS = 3
_GCG = {"steps": 50, "width": 128}

Note = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class RedTeamSpec:
    """What is attacked, and by what."""

    target: str  # a run, for its trained defender, or what `endpoint_of` takes
    attacker: str = ""  # a run, for its last attacker, or a pool file; "" is the target's own run
    number: int | None = None  # round of a run's defender; None is the last
    budget: int | None = None  # queries per seed, at most; None: `BUDGETS`
    per_minute: int | None = None  # calls per minute to a server; None: no limit
    # Interpreters that have PyRIT and nanoGCG, by package; by default this one.
    pythons: Mapping[str, Path | None] = field(default_factory=dict)

    @property
    def is_run(self) -> bool:
        """Whether the target is a run."""
        return (Path(self.target) / "config.toml").is_file()

    @property
    def attackers_run(self) -> Path | None:
        """The run whose attacker is used, if any."""
        run = self.attacker or (self.target if self.is_run else "")
        return Path(run) if run and not Path(run).is_file() else None

    @property
    def settings_file(self) -> Path | None:
        """The config of the target's run or, if it is not a run, of the attacker's; None without either."""
        run = Path(self.target) if self.is_run else self.attackers_run
        return RunDirectory.open(run).path / "config.toml" if run else None


class Attackers:
    """The target, its attackers and the seeds, each made when it is asked for."""

    def __init__(self, spec: RedTeamSpec, config: Config, folder: Path, note: Note) -> None:
        """Args: folder: For results. note: Told of every attempt."""
        self._spec, self._config, self._folder, self._note = spec, config, folder, note

    @cached_property
    def endpoint(self) -> EndpointConfig | None:
        """The target's endpoint, unless it is a run."""
        if self._spec.is_run:
            return None
        found, pace = endpoint_of(self._spec.target), self._spec.per_minute
        return found.model_copy(update={"per_minute": pace}) if pace and found.url else found

    def target(self) -> Target:
        """The target, with a judge that was found to answer."""
        settings, engine, spec = self._config.evaluation, self._config.engine, self._spec
        judge = make_judge(self._config, needs_refusal=False)
        try_judge(judge, fresh=False)
        where = self.endpoint
        chat = make_chat(where, engine, "target") if where else chat_of(spec.target, engine, spec.number)
        name = (where and where.url) or spec.target
        return Target(name, chat, judge, settings.max_reply_tokens, settings.temperature, self._config.judge.retries)

    def seeds(self) -> list[Seed]:
        """Harmful seeds: those that the run's split holds out, or all of them if no run takes part."""
        data, settings = self._config.data, self._config.evaluation
        if self._spec.settings_file:
            split = split_of(data)
            found = split.held_out if settings.split == "held_out" else split.validation
        else:
            found = read_sources(data).seeds
        return evenly([seed for seed in found if seed.label == "harmful"], settings.max_seeds or 0)

    def trained(self, turns: int, name: str) -> TrainedAttacker:
        """The last attacker of a run.

        Raises:
            UserError: If there is no such run, it has no attacker, or its attacker was trained on seeds held out here.
        """
        if self._spec.attackers_run is None:
            raise UserError(f"{name}: needs the attacker of a run", "name an attacker")
        from magic_rl.engines.local.engine import LocalEngine  # torch takes seconds to import

        saved = saved_player(RunDirectory.open(self._spec.attackers_run), "attacker")
        if self._spec.is_run and self._spec.attacker:
            check_untaught(self._spec.attackers_run, self.seeds(), split_of(self._config.data).train)
        config, settings = saved.config, saved.settings
        engine = LocalEngine(saved.base, settings.lora, config.engine)
        player = Player(
            policy=engine.load(saved.adapter, "attacker").snapshot("attacker"),
            renderer=engine.renderer_with(settings.chat_template_kwargs),
            sampling=SamplingParams(settings.sampling.max_tokens, config.evaluation.attacker_temperature),
            max_prompt=settings.sampling.max_prompt_tokens,
            prompts=load_prompts(config.game.prompts),
        )
        return TrainedAttacker(player, turns=turns, rng_seed=self._config.rng_seed, name=name)

    def attack(self, name: str) -> Attack | ConversationAttack:
        """An attack by its name.

        Raises:
            UserError: If something that it needs is missing.
        """
        if name not in BUDGETS:
            raise UserError(f"no attack is called {name!r}; there are {', '.join(BUDGETS)}")
        writer, rng_seed = self._config.attacker.writer, self._config.rng_seed
        if name in _PYRIT:
            return self._conversation(name)
        if name == "gcg":
            tool = self._tool("nanogcg")  # first, as making the folder takes a while
            job = {"model": self._weights(), "rng_seed": rng_seed, "settings": _GCG}
            return Gcg(tool, job, self._note)
        if name == "past-tense":
            if writer is None:
                raise UserError("past-tense: needs a model that rewrites", "name a writer")
            chat = make_chat(writer, self._config.engine, "attacker.writer")
            return PastTense(chat, Checks(refuses, same_topic), open_memory(self._config.store.answers))
        if name == "multi-turn":
            return self.trained(_TURNS, name)
        return Prefill() if name == "prefill" else BestOfN(rng_seed) if name == "best-of-n" else ManyShot(rng_seed)

    def _weights(self) -> str:
        """A folder with the target's weights and its template."""
        endpoint = self.endpoint
        if endpoint is None:
            run = RunDirectory.open(Path(self._spec.target))
            return str(served_player(run, "defender", self._spec.number, "transformers").folder)
        if endpoint.url:
            raise UserError("gcg: needs the target's weights; name its run or folder")
        from magic_rl.engines.local.models import resolve_model  # torch takes seconds to import

        return str(resolve_model(endpoint.model))

    def _tool(self, package: str) -> Tool:
        tool = Tool(package, self._spec.pythons.get(package) or Path(sys.executable), self._folder)
        tool.require()
        return tool

    def _budget(self, attack: Attack | ConversationAttack) -> int:
        """Queries per seed, at most."""
        if isinstance(attack, ConversationAttack):
            return self._spec.budget or BUDGETS[attack.name]
        once = attack.max_attempts if isinstance(attack, PoolAttacker) else attack.turns  # the default of an audit
        return min(self._spec.budget or BUDGETS.get(attack.name, once), attack.max_attempts * attack.turns)

    def _announce(self, attacks: Sequence[Attack | ConversationAttack], seeds: Sequence[Seed]) -> None:
        """Report how many queries will be made, and a remark on the judge, before the first query."""
        names, most = ", ".join(attack.name for attack in attacks), len(seeds) * sum(map(self._budget, attacks))
        self._note(f"{len(seeds)} seeds, attacked by {names}: at most {most:,} queries of {self._spec.target}")
        for remark in about_rules(self._config):
            self._note(remark)

    def _conversation(self, name: str) -> ConversationAttack:
        helper, target, settings = self._config.attacker.writer, self.endpoint, self._config.evaluation
        if target is None or target.url is None:
            raise UserError(f"{name}: asks its target by address", "serve it first", target=self._spec.target)
        if helper is None or helper.url is None:
            raise UserError(f"{name}: needs a model behind a server that words and scores attacks", "name a writer")
        budget = self._spec.budget or BUDGETS[name]
        own: dict[str, Any] = {
            "pair": {"tree_width": max(1, budget // 3), "tree_depth": 3},
            "tap": {"tree_width": 2, "tree_depth": 3, "branching_factor": 3},
            "crescendo": {"max_turns": budget, "max_backtracks": budget},
        }[name]
        job = {
            "attack": name,
            "target": {"url": target.url, "model": target.model},
            "helper": {"url": helper.url, "model": helper.model},
            "keys": {"target": key_of(target, "target"), "helper": key_of(helper, "attacker.writer")},
            "budget": budget,
            "max_tokens": settings.max_reply_tokens,
            "temperature": settings.temperature,
            "settings": own,
        }
        return ConversationAttack(name, self._tool("pyrit"), job)

    def redteam(self, names: tuple[str, ...]) -> RedTeam:
        """Let every attack try every seed, and write `redteam.json` beside the items.

        Raises:
            ChatError: If the target fails; what it answered is kept.
            UserError: If something that an attack needs is missing; checked before the first one begins.
        """
        attacks = [self.attack(name) for name in names]
        seeds = self.seeds()
        target = self.target()
        self._announce(attacks, seeds)
        log = Log(target, self._folder, self._note)
        rows: dict[str, AttackRow] = {}
        for attack in attacks:
            name, budget, why = attack.name, self._budget(attack), ""
            if isinstance(attack, ConversationAttack):
                converse(log, attack, seeds, self._note)
            elif name == "prefill" and (why := _refuses_prefill(target)):
                self._note(f"prefill: left out, as {why}")
            else:
                play(log, attack, seeds, budget)
            own = attack.job["settings"] if isinstance(attack, ConversationAttack | Gcg) else {}
            rows[name] = AttackRow(rate(0, 0), budget, settings=own, left_out=why)
        result = summed_up(log, seeds, rows)
        atomic.write_file(self._folder / RESULT_FILE, json.dumps(asdict(result), indent=1).encode() + b"\n")
        return result

    def audit(self, *, show_text: bool) -> Audit:
        """Let a trained attacker, or a pool, attack every seed, and sum up the replies.

        Args:
            show_text: Whether findings hold the text of attacks and replies.

        Returns:
            What was found, up to the point where the target failed, if it did.
        """
        attack: PoolAttacker | TrainedAttacker
        if Path(self._spec.attacker).is_file():
            attack = PoolAttacker(read_pool(Path(self._spec.attacker)))
            seeds = attack.seeds
        else:
            attack = self.trained(self._config.game.turns, "trained attacker")
            seeds = self.seeds()
        log, stopped = Log(self.target(), self._folder, self._note), None
        self._announce([attack], seeds)
        try:
            play(log, attack, seeds, self._budget(attack), exhaustive=True)
        except ChatError as error:
            stopped = str(error)
        about = {"attacker": self._spec.attacker, "stopped": stopped}
        return found_in(log, about, show_text=show_text)


def _refuses_prefill(target: Target) -> str:
    """Why a target does not continue a prefilled reply; "" if it does."""
    trial = ChatRequest((Message("user", "Say hello."),), target.max_tokens, prefill="Hello", beginning=True)
    (said,) = target.chat.complete([trial])
    return f"the target does not go on from a begun reply ({said.failed})" if said.failed else ""
