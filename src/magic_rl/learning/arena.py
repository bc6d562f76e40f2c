"""The arena: players, judge, seeds and settings that the loop plays with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from magic_rl.engines.base import Policy
from magic_rl.game.play import Player
from magic_rl.game.settings import GameConfig
from magic_rl.judges.base import Judge
from magic_rl.learning.fluency import Yardstick
from magic_rl.learning.opponents import Opponents
from magic_rl.learning.settings import LearningConfig, OptimiserConfig
from magic_rl.types import Role, Seed


@dataclass(frozen=True, slots=True)
class LoopSettings:
    """How the game is played and learned from.

    Attributes:
        optimisers: AdamW settings of each role.
        batch_size: P, seeds per step, by the role that learns.
        retries: How often the judge is asked again after an abstention.
        max_abstained: Share of a step's verdicts that may be abstentions.
        rng_seed: Random seed of all draws.
    """

    game: GameConfig = field(default_factory=GameConfig)
    learning: LearningConfig = field(default_factory=LearningConfig)
    optimisers: Mapping[Role, OptimiserConfig] = field(
        default_factory=lambda: {"attacker": OptimiserConfig(), "defender": OptimiserConfig()}
    )
    batch_size: Mapping[Role, int] = field(default_factory=lambda: {"attacker": 64, "defender": 64})
    retries: int = 1
    max_abstained: float = 0.05
    rng_seed: int = 0


@dataclass(frozen=True, slots=True)
class Arena:
    """What the loop plays with.

    Attributes:
        attacker: None when seeds are played as they are.
        learners: The policies that learn; the same object for both roles in self-play.
        references: π_ref of each role, for the KL term.
        opponents: Past versions that the learner meets too; None: only the other player as it is now.
        yardstick: Measures whether replies are still language; None: they are not measured.
    """

    attacker: Player | None
    defender: Player
    learners: Mapping[Role, Policy]
    references: Mapping[Role, Policy]
    judge: Judge
    seeds: Sequence[Seed]
    settings: LoopSettings = field(default_factory=LoopSettings)
    opponents: Opponents | None = None
    yardstick: Yardstick | None = None

    def player(self, role: Role) -> Player:
        """The player in a role.

        Raises:
            ValueError: For the attacker where there is none.
        """
        player = self.defender if role == "defender" else self.attacker
        if player is None:
            raise ValueError("seeds are played as they are, so there is no attacker")
        return player
