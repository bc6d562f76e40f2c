"""A tabular game with its players and judge, for tests that run the real loop on it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from magic_rl.config import Config
from magic_rl.game.play import Player
from magic_rl.game.schedule import Schedule
from magic_rl.learning.arena import Arena
from magic_rl.learning.coevolve import GameStep, coevolve
from magic_rl.learning.target import OperatingPoint
from magic_rl.runs.assembly import loop_settings
from magic_rl.theory.tabular import TabularGame, TabularJudge, TabularPolicy
from magic_rl.types import Role, SamplingParams
from tests.theory.test_tabular import engines


def make_arena(game: TabularGame) -> tuple[Arena, dict[Role, TabularPolicy]]:
    """The arena of a game between new policies, and those policies."""
    made = engines(game)
    learners: dict[Role, TabularPolicy] = {role: engine.new_policy(role) for role, engine in made.items()}
    players = {
        role: Player(learners[role], engine.renderer, SamplingParams(max_tokens=1)) for role, engine in made.items()
    }
    arena = Arena(
        attacker=players["attacker"],
        defender=players["defender"],
        learners=dict(learners.items()),
        references={role: engine.base() for role, engine in made.items()},
        judge=TabularJudge(game),
        seeds=game.seeds,
    )
    return arena, learners


def play_out(game: TabularGame, tree: dict[str, Any]) -> tuple[list[GameStep], dict[Role, TabularPolicy]]:
    """Every step of a game with these settings, and the policies at its end."""
    config = Config.model_validate(tree)
    arena, learners = make_arena(game)
    arena = replace(arena, settings=loop_settings(config))
    target = OperatingPoint.start(config.learning.target)
    return list(coevolve(arena, Schedule.start(config.game.schedule), 0, target)), learners
