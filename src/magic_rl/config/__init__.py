"""Every setting, once: one typed tree, read from TOML, with unknown keys and impossible values refused."""

from magic_rl.config.asked import EndpointConfig, JudgeMemberConfig
from magic_rl.config.node import Node, paths, section_of
from magic_rl.config.reading import SHIPPED, differences, dump_config, load_config, shipped
from magic_rl.config.sections import (
    DAY,
    DataConfig,
    EngineConfig,
    EvaluationConfig,
    GameConfig,
    LearningConfig,
    LoraConfig,
    OptimiserConfig,
    PlayerConfig,
    RewardConfig,
    ScheduleConfig,
    SftConfig,
    TargetConfig,
)
from magic_rl.config.tree import CHANGEABLE, PRESETS, Config, PresetName

__all__ = [
    "CHANGEABLE",
    "DAY",
    "PRESETS",
    "SHIPPED",
    "Config",
    "DataConfig",
    "EndpointConfig",
    "EngineConfig",
    "EvaluationConfig",
    "GameConfig",
    "JudgeMemberConfig",
    "LearningConfig",
    "LoraConfig",
    "Node",
    "OptimiserConfig",
    "PlayerConfig",
    "PresetName",
    "RewardConfig",
    "ScheduleConfig",
    "SftConfig",
    "TargetConfig",
    "differences",
    "dump_config",
    "load_config",
    "paths",
    "section_of",
    "shipped",
]
