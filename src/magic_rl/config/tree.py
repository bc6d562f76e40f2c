"""The whole tree of settings, what may not be combined, and the presets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, NonNegativeInt, model_validator

from magic_rl.config.sections import (
    AttackerConfig,
    DataConfig,
    DefenderConfig,
    EngineConfig,
    EvaluationConfig,
    GameConfig,
    JudgeConfig,
    LearningConfig,
    Node,
    PlayerConfig,
    StoreConfig,
)
from magic_rl.types import Role

Tree = dict[str, Any]
PresetName = Literal["magic", "magic-base", "defender-only", "no-game", "defender-cot", "self-play"]

# METHOD.md §8: the baselines and ablations differ from `magic` by these settings and by nothing else.
PRESETS: Mapping[PresetName, Tree] = {
    "magic": {},
    "magic-base": {"attacker": {"sft": {"steps": 0}}},
    "defender-only": {"game": {"opponents": "last", "schedule": {"kind": "ratio", "attacker_steps": 0}}},
    "no-game": {
        "game": {
            "rewrite": False,
            "plain_share": 0.0,
            "opponents": "last",
            "schedule": {"kind": "ratio", "attacker_steps": 0},
        },
        "attacker": {"sft": {"steps": 0}},
    },
    "defender-cot": {"game": {"defender_thinks": True}},
    "self-play": {"game": {"shared_parameters": True, "opponents": "last"}},
}


# What may change when a run is resumed: how players speak and step from here on, who judges, where it is computed, and
# what is measured. Everything else says what the run is, and what was learned would not fit it.
CHANGEABLE = (
    "attacker.sampling",
    "attacker.optimiser",
    "defender.sampling",
    "defender.optimiser",
    "learning.kl",
    "learning.max_cut_off",
    "learning.max_degenerate",
    "judge",
    "engine",
    "store",
    "evaluation",
)


class Config(Node):
    """The whole tree."""

    preset: PresetName = Field("magic", description="named changes to the defaults; see METHOD §8 in the docs")
    seed: NonNegativeInt = 0
    game: GameConfig = GameConfig()
    attacker: AttackerConfig = AttackerConfig()
    defender: DefenderConfig = DefenderConfig()
    judge: JudgeConfig = JudgeConfig()
    data: DataConfig = DataConfig()
    learning: LearningConfig = LearningConfig()
    engine: EngineConfig = EngineConfig()
    store: StoreConfig = StoreConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    def player(self, role: Role) -> PlayerConfig:
        """The settings of the player in a role."""
        return self.attacker if role == "attacker" else self.defender

    def seeds_per_step(self, learner: Role) -> int:
        """P, seeds of a step at which this role learns."""
        return self.player(learner).seeds_per_step or self.learning.seeds_per_step

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.learning.dynamic_sampling and self.learning.baseline != "group":
            raise ValueError(
                'learning.dynamic_sampling replaces groups without signal: it needs learning.baseline = "group"'
            )
        if self.learning.target.compliance != "off" and not self.game.schedule.defender_steps:
            raise ValueError("learning.target holds the defender: it needs game.schedule.defender_steps above 0")
        if self.learning.target.compliance != "off" and self.seeds_per_step("defender") < 2:
            raise ValueError("learning.target needs benign seeds in a step of the defender: seeds_per_step above 1")
        if self.evaluation.split == "validation" and not self.data.validation_categories:
            raise ValueError('evaluation.split = "validation" needs data.validation_categories')
        if not self.game.rewrite and (self.game.schedule.attacker_steps or self.attacker.sft.steps):
            raise ValueError("game.rewrite is false: attacker.sft.steps and game.schedule.attacker_steps must be 0")
        if not self.game.rewrite and self.game.turns > 1:
            raise ValueError("game.rewrite is false: without an attacker there is nothing to say after turn 1")
        if self.game.plain_share and (not self.game.rewrite or self.game.turns > 1):
            raise ValueError("game.plain_share needs an attacker (game.rewrite) and a single turn (game.turns = 1)")
        if self.game.rewards.quality and not {"llm", "rules"} & {m.kind for m in self.judge.members or (self.judge,)}:
            raise ValueError(
                'game.rewards.quality needs a judge that scores helpfulness: judge.kind = "llm" (or "rules")'
            )
        if self.attacker.system_prompt:
            raise ValueError("attacker.system_prompt has no effect: the attacker's is among the prompts (game.prompts)")
        if self.game.shared_parameters and self.attacker.model != self.defender.model:
            raise ValueError("game.shared_parameters needs attacker.model and defender.model to be the same")
        schedule, apart = self.game.schedule, self.game.rewrite and not self.game.shared_parameters
        if self.game.opponents != "last" and not (apart and schedule.attacker_steps and schedule.defender_steps):
            raise ValueError(
                f'game.opponents = "{self.game.opponents}" needs two players that both learn: game.rewrite, no '
                "game.shared_parameters, and game.schedule.attacker_steps and defender_steps above 0; else leave it "
                '"last"'
            )
        return self
