"""All settings in one typed tree, read from TOML; unknown keys and impossible values are refused."""

from magic_rl.config.judge import EndpointConfig, JudgeMemberConfig
from magic_rl.config.reading import SHIPPED, ShippedName, differences, dump_config, load_config, shipped
from magic_rl.config.sections import DataConfig, EvaluationConfig, PlayerConfig
from magic_rl.config.tree import CHANGEABLE, PRESETS, Config, PresetName

__all__ = [
    "CHANGEABLE",
    "PRESETS",
    "SHIPPED",
    "Config",
    "DataConfig",
    "EndpointConfig",
    "EvaluationConfig",
    "JudgeMemberConfig",
    "PlayerConfig",
    "PresetName",
    "ShippedName",
    "differences",
    "dump_config",
    "load_config",
    "shipped",
]
