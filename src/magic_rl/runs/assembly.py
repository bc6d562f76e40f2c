"""Everything a run needs, built from its config: models, policies, judge, prompts and seeds.

Evaluation uses it too, and puts saved players into the same roles.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from magic_rl.attacks.pool import PoolEntry, build_pool, read_pool
from magic_rl.config import Config
from magic_rl.data.split import Split, evenly
from magic_rl.engines.base import Engine, LimitedEngine, Policy
from magic_rl.errors import ConfigError
from magic_rl.game.play import Player, attack, reply
from magic_rl.judges.base import Judge
from magic_rl.learning.arena import Arena, LoopSettings
from magic_rl.learning.fluency import Yardstick
from magic_rl.learning.opponents import Opponents
from magic_rl.learning.rollouts import SCORED, judge_episodes
from magic_rl.learning.sft import Example, attacker_examples, read_examples, warmup_examples
from magic_rl.learning.updates import adam_step
from magic_rl.prompts import Prompts, load_prompts
from magic_rl.rng import derive
from magic_rl.runs.judge import make_judge
from magic_rl.runs.seeds import BY_ROW, split_of
from magic_rl.text.renderer import Renderer, SamplingPolicy
from magic_rl.types import Episode, Role, SamplingParams

_SHARED = "shared"


@dataclass(frozen=True, slots=True)
class Brought:
    """What a caller from Python brings along, in place of what the config names."""

    judge: Judge | None = None  # labels every exchange
    engines: Mapping[Role, Engine] | None = None  # of each role that a model plays


NOTHING = Brought()


class Setup:
    """The players and all that they need.

    Attributes:
        engines: Engine of each role; the same one if both use the same model and adapter shape.
        learners: The trainable policy of each role; the same one in self-play.
        references: π_ref of each role.
    """

    def __init__(
        self, config: Config, prompts: Prompts, split: Split, judge: Judge, engines: Mapping[Role, Engine]
    ) -> None:
        """Args: engines: For every role that is played by a model."""
        self.config, self.prompts, self.split, self.judge = config, prompts, split, judge
        self.engines = engines
        if config.game.shared_parameters:
            shared = engines["defender"].new_policy(_SHARED)
            self.learners: dict[Role, Policy] = {"attacker": shared, "defender": shared}
        else:
            self.learners = {role: engine.new_policy(role) for role, engine in engines.items()}
        self.references: dict[Role, Policy] = {role: engine.base() for role, engine in engines.items()}

    def roles(self) -> list[Role]:
        """The roles that a model plays."""
        return list(self.learners)

    def roles_by_name(self) -> dict[str, Role]:
        """A role that each distinct learner plays, by the learner's name in checkpoints."""
        return {_SHARED: "defender"} if self.config.game.shared_parameters else {role: role for role in self.roles()}

    def learners_by_name(self) -> dict[str, Policy]:
        """Each distinct learner under its name in checkpoints."""
        return {name: self.learners[role] for name, role in self.roles_by_name().items()}

    def load_learners(self, folders: Mapping[str, Path]) -> None:
        """Replace the learners with saved ones, given by name."""
        for name, role in self.roles_by_name().items():
            loaded = self.engines[role].load(folders[name], name)
            for shared in self.roles() if name == _SHARED else [role]:
                self.learners[shared] = loaded

    def load_references(self, folders: Mapping[Role, Path]) -> None:
        """Set π_ref of each role to its saved start, if `learning.reference` asks for that; it is the base so far."""
        if self.config.learning.kl_coef and self.config.learning.reference == "start":
            for role, folder in folders.items():
                self.references[role] = self.engines[role].load(folder, f"{role}-reference").snapshot("reference")

    def version(self, role: Role, folder: Path) -> Policy:
        """A saved player's policy, read-only."""
        return self.engines[role].load(folder, folder.name).snapshot(folder.name)

    def renderer(self, role: Role) -> Renderer:
        """A role's renderer: its model's chat template with the variables that its config sets."""
        return self.engines[role].renderer_with(self.config.player(role).chat_template_kwargs)

    def player(
        self, role: Role, policy: SamplingPolicy | None = None, *, sampling: SamplingParams | None = None
    ) -> Player:
        """A policy (by default the learner) in a role, sampling as in learning unless `sampling` is given."""
        settings = self.config.player(role)
        spoken = settings.sampling
        return Player(
            policy=policy or self.learners[role],
            renderer=self.renderer(role),
            sampling=sampling or SamplingParams(spoken.max_tokens, spoken.temperature, spoken.top_p),
            max_prompt=spoken.max_prompt_tokens,
            system=self.config.defender.system_prompt or "",
            thinks=role == "defender" and self.config.game.defender_thinks,
            prompts=self.prompts,
        )

    def arena(self) -> Arena:
        """Everything the loop plays with."""
        players = {role: self.player(role) for role in self.roles()}
        return Arena(
            attacker=players.get("attacker"),
            defender=players["defender"],
            learners=self.learners,
            references=self.references,
            judge=self.judge,
            seeds=self.split.train,
            settings=loop_settings(self.config),
            opponents=self._opponents(players) if self.config.game.opponents != "last" else None,
            yardstick=self.yardstick(),
        )

    def yardstick(self) -> Yardstick:
        """What a step's replies are compared with: the untouched model's replies to some vanilla seeds."""
        seeds = evenly(sorted(self.split.train, key=lambda seed: seed.label), SCORED)
        base = self.player("defender", self.engines["defender"].base())
        asked = attack([Episode(seed, (), 0) for seed in seeds], None, 1, 0)
        answered = reply(asked, base, 1, derive(self.config.rng_seed, 0, "yardstick"))
        own = [sample for episode in answered if (sample := episode.turns[-1].reply_sample)]
        return Yardstick(self.engines["defender"].base(), own)

    def _opponents(self, players: Mapping[Role, Player]) -> Opponents:
        config, settings = self.config, loop_settings(self.config)
        # A pair of versions has few episodes; too many abstentions or cut-offs show in the steps themselves.
        patient = replace(
            settings, max_abstained=1.0, learning=settings.learning.model_copy(update={"max_cut_off": 1.0})
        )
        return Opponents(
            players=players,
            learners=self.learners,
            judge=lambda episodes: judge_episodes(episodes, self.judge, patient),
            seeds=self.split.train,
            game=config.game,
            rng_seed=config.rng_seed,
        )

    def examples(self, role: Role) -> Sequence[Example]:
        """The examples of a role's supervised stage: from the configured file, or made from the training seeds."""
        stage = self.config.player(role).sft
        if stage.examples:
            return [replace(example, tagged=True) for example in read_examples(Path(stage.examples))]
        pool = self.pool()
        if role == "attacker":
            return attacker_examples(pool, self.prompts)
        base = self.player("defender", self.engines["defender"].base())
        return warmup_examples(self.split.train, pool, base, self.config.rng_seed, stage.steps * stage.batch_size)

    def pool(self) -> list[PoolEntry]:
        """The attack pool: from the configured file, or written offline for the training seeds."""
        if self.config.attacker.pool:
            return read_pool(Path(self.config.attacker.pool))
        return build_pool(self.split.train, self.config.attacker.strategies, self.config.rng_seed)


def loop_settings(config: Config) -> LoopSettings:
    """What the loop needs from all settings.

    Args:
        config: Every setting.

    Returns:
        The settings that `coevolve` plays and learns by.
    """
    roles: tuple[Role, ...] = ("attacker", "defender")
    learning = config.learning
    if learning.correction == "auto":
        elsewhere = config.engine.sampler != "local"
        learning = learning.model_copy(update={"correction": "token_truncate" if elsewhere else "none"})
    return LoopSettings(
        game=config.game,
        learning=learning,
        optimisers={role: config.player(role).optimiser for role in roles},
        batch_size={role: config.player(role).batch_size for role in roles},
        retries=config.judge.retries,
        max_abstained=config.judge.max_abstained,
        rng_seed=config.rng_seed,
    )


def prepare(config: Config, note: Callable[[str], None] | None = None, *, brought: Brought = NOTHING) -> Setup:
    """Load what the config names.

    Args:
        note: Told what may go wrong with the models later. If given, the models are checked before any is loaded.
        brought: What need not be made here.

    Raises:
        UserError: For seeds, prompts or models that cannot be used. Writes nothing but the model cache.
    """
    prompts = load_prompts(config.game.prompts)
    split = split_of(config.data)
    if note and split.by_row:
        note(BY_ROW)
    judge = brought.judge or make_judge(config)  # first, so that a missing key is reported at once
    if note and not brought.engines and not config.engine.remote:
        from magic_rl.runs.modelcheck import look_at_models  # imports torch too

        look_at_models(config, note)
    return Setup(config, prompts, split, judge, brought.engines or load_engines(config))


def load_engines(config: Config) -> dict[Role, Engine]:
    """The engine of each role that a model plays; roles with the same model and adapter shape share one.

    Raises:
        UserError: If a model or a setting cannot be used.
    """
    from magic_rl.engines.local.models import resolve_model  # torch and transformers take seconds to import
    from magic_rl.engines.making import make_engines

    # Every name is resolved before anything is loaded, so that a wrong one is reported at once.
    code = config.engine.trust_remote_code
    names = {role: config.player(role).model for role in config.roles}
    folders: Mapping[Role, str | Path] = names
    if not config.engine.remote:
        folders = {role: resolve_model(name, trust_remote_code=code) for role, name in names.items()}
    models = {role: (folders[role], config.player(role).lora) for role in config.roles}
    engines: dict[Role, Any] = {**make_engines(models, config.engine, config.rng_seed)}
    for role in config.roles:
        engines[role].renderer.require(config.player(role).chat_template_kwargs, f"{role}.chat_template_kwargs")
        if isinstance(engines[role], LimitedEngine):
            for field, why in engines[role].unable(adam_step(config.player(role).optimiser, 0, 1)).items():
                raise ConfigError(f"{role}.optimiser.{field}: cannot be chosen here, as {why}")
    return engines
