"""MAGIC: chat models made robust to jailbreaks by adversarial co-evolution of an attacker and a defender.

The public API is exported here; `examples/` shows how to use it. A name is loaded when it is first used, so
`import magic_rl` costs nothing and a judge behind a server never loads torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from magic_rl.attacks.pool import build_pool
    from magic_rl.chat.base import Endpoint
    from magic_rl.chat.server import Server
    from magic_rl.config import Config, load_config
    from magic_rl.engines.base import Engine, Policy
    from magic_rl.engines.local.engine import LocalEngine
    from magic_rl.errors import (
        ChatError,
        ConfigError,
        DataError,
        EngineError,
        JudgeError,
        ModelError,
        StoreError,
        UserError,
    )
    from magic_rl.game.play import Draws, GameRules, Player, Players, play
    from magic_rl.game.rewards import ReplyForm, score
    from magic_rl.game.schedule import Schedule
    from magic_rl.judges.base import Judge
    from magic_rl.judges.guards import GUARDS
    from magic_rl.judges.model import ModelJudge
    from magic_rl.judges.panel import Panel
    from magic_rl.judges.rubric import Rubric
    from magic_rl.judges.rules import RulesJudge
    from magic_rl.learning.arena import Arena, LoopSettings
    from magic_rl.learning.coevolve import coevolve
    from magic_rl.learning.sft import Example, SftStage, attacker_examples, sft
    from magic_rl.prompts import load_prompts
    from magic_rl.runs.assembly import loop_settings
    from magic_rl.runs.evaluate import evaluate
    from magic_rl.runs.instead import Instead
    from magic_rl.runs.train import train
    from magic_rl.store.run import open_run
    from magic_rl.theory.equilibrium import backward_induction, exploitability
    from magic_rl.theory.tabular import TabularEngine, TabularGame, TabularJudge
    from magic_rl.types import Exchange, Role, SamplingParams, Seed, Verdict
    from magic_rl.view import View

__version__ = "0.1.0"

__all__ = [
    "GUARDS",
    "Arena",
    "ChatError",
    "Config",
    "ConfigError",
    "DataError",
    "Draws",
    "Endpoint",
    "Engine",
    "EngineError",
    "Example",
    "Exchange",
    "GameRules",
    "Instead",
    "Judge",
    "JudgeError",
    "LocalEngine",
    "LoopSettings",
    "ModelError",
    "ModelJudge",
    "Panel",
    "Player",
    "Players",
    "Policy",
    "ReplyForm",
    "Role",
    "Rubric",
    "RulesJudge",
    "SamplingParams",
    "Schedule",
    "Seed",
    "Server",
    "SftStage",
    "StoreError",
    "TabularEngine",
    "TabularGame",
    "TabularJudge",
    "UserError",
    "Verdict",
    "View",
    "attacker_examples",
    "backward_induction",
    "build_pool",
    "coevolve",
    "evaluate",
    "exploitability",
    "load_config",
    "load_prompts",
    "loop_settings",
    "open_run",
    "play",
    "score",
    "sft",
    "train",
]

_HOMES = {
    "attacks.pool": ("build_pool",),
    "chat.base": ("Endpoint",),
    "chat.server": ("Server",),
    "config": ("Config", "load_config"),
    "engines.base": ("Engine", "Policy"),
    "engines.local.engine": ("LocalEngine",),
    "errors": (
        "ChatError",
        "ConfigError",
        "DataError",
        "EngineError",
        "JudgeError",
        "ModelError",
        "StoreError",
        "UserError",
    ),
    "game.play": ("Draws", "Player", "Players", "GameRules", "play"),
    "game.rewards": ("ReplyForm", "score"),
    "game.schedule": ("Schedule",),
    "judges.base": ("Judge",),
    "judges.guards": ("GUARDS",),
    "judges.model": ("ModelJudge",),
    "judges.panel": ("Panel",),
    "judges.rubric": ("Rubric",),
    "judges.rules": ("RulesJudge",),
    "learning.arena": ("Arena", "LoopSettings"),
    "learning.coevolve": ("coevolve",),
    "learning.sft": ("Example", "SftStage", "attacker_examples", "sft"),
    "prompts": ("load_prompts",),
    "runs.assembly": ("loop_settings",),
    "runs.evaluate": ("evaluate",),
    "runs.instead": ("Instead",),
    "runs.train": ("train",),
    "store.run": ("open_run",),
    "theory.equilibrium": ("backward_induction", "exploitability"),
    "theory.tabular": ("TabularEngine", "TabularGame", "TabularJudge"),
    "types": ("Exchange", "Role", "SamplingParams", "Seed", "Verdict"),
    "view": ("View",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
