"""The whole tree of settings, its presets, which may not be combined, and which need others to have an effect."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal, Self

from pydantic import Field, NonNegativeInt, ValidationInfo, model_validator

from magic_rl.config.judge import JudgeConfig
from magic_rl.config.sections import (
    AttackerConfig,
    DataConfig,
    DefenderConfig,
    EvaluationConfig,
    PlayerConfig,
    StoreConfig,
    TrackerConfig,
)
from magic_rl.engines.settings import EngineConfig
from magic_rl.game.settings import GameConfig
from magic_rl.learning.settings import LearningConfig
from magic_rl.settings import Node, unlike_default, values
from magic_rl.types import Role

Tree = dict[str, Any]
PresetName = Literal["magic", "magic-base", "defender-only", "no-game", "defender-cot", "self-play"]

# METHOD.md §8: the baselines and ablations differ from `magic` only by these settings and by those that these leave
# without an effect.
PRESETS: Mapping[PresetName, Tree] = {
    "magic": {},
    "magic-base": {"attacker": {"sft": {"steps": 0}}},
    "defender-only": {"game": {"schedule": {"kind": "ratio", "attacker_steps": 0}}},
    "no-game": {
        "game": {"rewrite": False, "schedule": {"kind": "ratio", "attacker_steps": 0}},
        "attacker": {"sft": {"steps": 0}},
    },
    "defender-cot": {"game": {"defender_thinks": True}},
    "self-play": {"game": {"shared_parameters": True}},
}

# What may change when a run is resumed: how players sample and learn from here on, who judges, where it is computed,
# what is measured, and the places of files and models, whose content is compared with the original. All else defines
# the run: what was learned would not fit a new value.
CHANGEABLE = (
    *("data", "game.prompts", "judge", "store", "tracker", "evaluation", "attacker.writer"),
    *(f"{role}.{key}" for role in ("attacker", "defender") for key in ("model", "sampling", "optimiser", "batch_size")),
    *(f"learning.{key}" for key in ("group_size", "epochs", "minibatches", "clip_low", "clip_high", "kl_coef")),
    *(f"learning.{key}" for key in ("objective", "correction", "look_ahead")),
    *(f"learning.{key}" for key in ("reference", "reduction", "max_cut_off", "max_degenerate")),
    *(f"engine.{key}" for key in EngineConfig.model_fields if key not in ("kind", "date")),
)
LENIENT = "lenient"  # validation context in which settings without an effect are accepted

# What settings need to have an effect. Those of an attacker's learning have one even if it is frozen in the game: a
# fresh attacker learns by them afterwards. Its strategies and writer matter when a pool is written.
_NEEDS = {
    "attacker game.turns game.shared_parameters game.rewards.label": "game.rewrite = true",
    "game.rewards.format": "game.rewrite = true or game.defender_thinks = true",
    "game.rewards.length_free_tokens": "game.rewards.length > 0",
    "game.plain_share": "game.rewrite = true and game.turns = 1 and game.schedule.defender_steps > 0",
    "game.schedule.high": "game.schedule.kind = metric and game.schedule.defender_steps > 0",
    "game.schedule.low": "game.schedule.kind = metric and game.schedule.attacker_steps > 0",
    "game.schedule.window": "game.schedule.kind = metric",
    "game.opponents": "game.schedule.attacker_steps > 0 and game.schedule.defender_steps > 0 and "
    "game.shared_parameters = false",
    "game.opponent_seeds": "game.opponents = nash",
    "defender.optimiser defender.batch_size learning.target": "game.schedule.defender_steps > 0",
    "attacker.sft.batch_size attacker.sft.lr attacker.sft.warmup_steps attacker.sft.examples": "attacker.sft.steps > 0",
    "defender.sft.batch_size defender.sft.lr defender.sft.warmup_steps defender.sft.examples": "defender.sft.steps > 0",
    "attacker.pool": "attacker.sft.steps > 0 and attacker.sft.examples = none or defender.sft.steps > 0 and "
    "defender.sft.examples = none",
    "learning.reference": "learning.kl_coef > 0",
    "learning.clip_low": "learning.objective = ppo or learning.objective = gspo",
    "learning.correction": " and ".join(
        f"{role}.sampling.{key} = 1.0" for role in ("attacker", "defender") for key in ("temperature", "top_p")
    ),
    "learning.dynamic_sampling": "learning.baseline = group",
    "tracker.project tracker.exchanges": "tracker.kind = wandb or tracker.kind = trackio",
    "engine.tinker": "engine.kind = tinker",
    "engine.sampler": "engine.kind = local",
    "engine.processes": "engine.device = auto or engine.device = cpu",
    "engine.vllm": "engine.sampler = vllm",
    "engine.vllm.python engine.vllm.devices engine.vllm.arguments": "engine.vllm.urls = ()",
}


class Config(Node):
    """All settings."""

    preset: PresetName = Field("magic", description="named changes to the defaults; see METHOD §8 in the docs")
    rng_seed: NonNegativeInt = Field(0, description="of all random draws")
    game: GameConfig = GameConfig()
    attacker: AttackerConfig = AttackerConfig()
    defender: DefenderConfig = DefenderConfig()
    judge: JudgeConfig = JudgeConfig()
    data: DataConfig = DataConfig()
    learning: LearningConfig = LearningConfig()
    engine: EngineConfig = EngineConfig()
    store: StoreConfig = StoreConfig()
    tracker: TrackerConfig = TrackerConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    def player(self, role: Role) -> PlayerConfig:
        """The settings of the player in a role."""
        return self.attacker if role == "attacker" else self.defender

    @property
    def roles(self) -> tuple[Role, ...]:
        """The roles that a model plays."""
        return ("attacker", "defender") if self.game.rewrite else ("defender",)

    @model_validator(mode="after")
    def _consistent(self, info: ValidationInfo) -> Self:
        game, attacker, defender = self.game, self.attacker, self.defender
        if not game.rewrite and (game.schedule.attacker_steps or attacker.sft.steps):
            raise ValueError("game.rewrite is false: attacker.sft.steps and game.schedule.attacker_steps must be 0")
        if game.shared_parameters and (attacker.model, attacker.lora) != (defender.model, defender.lora):
            raise ValueError("game.shared_parameters needs attacker and defender to have the same model and lora")
        spoken = {(p.sampling.temperature, p.sampling.top_p) for p in (attacker, defender)}
        needed = self.engine.sampler != "local" and self.learning.correction != "none" and spoken == {(1.0, 1.0)}
        if self.learning.look_ahead and not needed:
            raise ValueError(
                'learning.look_ahead needs servers that sample (engine.sampler = "vllm"), players whose temperature '
                "and top_p are 1.0, and a learning.correction"
            )
        if self.learning.target and defender.batch_size < 2:
            raise ValueError("learning.target needs benign seeds in a step: defender.batch_size above 1")
        if self.evaluation.split == "validation" and not self.data.validation_categories:
            raise ValueError('evaluation.split = "validation" needs data.validation_categories')
        if game.rewards.quality and not any(j.is_own or j.kind in ("llm", "rules") for j in self.judge.judges):
            raise ValueError(
                'game.rewards.quality needs a judge that scores helpfulness: judge.kind = "llm" (or "rules")'
            )
        if info.context != LENIENT:
            for key, needs in without_effect(self):
                raise ValueError(f"{key} has no effect: it needs {needs}")
        return self


def without_effect(config: Config) -> Iterator[tuple[str, str]]:
    """Settings that differ from their default but would do nothing, each with what it needs."""
    have, changed = dict(values(config)), unlike_default(config)

    def holds(term: str) -> bool:
        key, sign, wanted = term.split()
        return bool(have[key] > 0) if sign == ">" else str(have[key]).lower() == wanted

    for names, needs in _NEEDS.items():
        if not any(all(map(holds, terms.split(" and "))) for terms in needs.split(" or ")):
            for name in names.split():
                # Without an attacker `attacker.sft.steps` must be 0, which is not its default.
                inside = (key for key in changed if f"{key}.".startswith(f"{name}.") and key != "attacker.sft.steps")
                yield from ((key, needs) for key in inside)
    if config.engine.remote:
        idle = ["store.checkpoint_every", "engine.recompute_above"]
        asked = (config.attacker.writer, *(judge.endpoint for judge in config.judge.judges))
        if all(endpoint is None or endpoint.url for endpoint in asked):  # none is a model in this process
            idle += (f"engine.{key}" for key in ("device", "dtype", "threads", "processes", "rows_per_batch"))
        yield from ((key, "weights in this process: engine.kind = local") for key in changed if key in idle)
    yield from ((f"data.{key}", needs) for key, needs in config.data.unread())
    if config.store.answers is not True and not (
        config.attacker.writer or any(j.endpoint for j in config.judge.judges)
    ):
        yield "store.answers", "a judge or writer that is a model"
