"""Whose turn it is to learn (METHOD §3): fixed steps each, or until a metric crosses a bound.

A schedule is a plain value that is advanced step by step, so it can be saved in a checkpoint and resumed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

from magic_rl.game.settings import ScheduleConfig
from magic_rl.types import Role


@dataclass(frozen=True, slots=True)
class Schedule:
    """Position in the game's rounds. The defender learns first in each round.

    Attributes:
        round: The current round, from 1; `rounds + 1` when the game is over.
        learner: The player that takes the next step.
        taken: Steps the learner has taken in this turn.
        window: The learner's last safe rates, newest last, at most `config.window` of them.
        defender_total: Steps the defender has taken in all rounds.
        attacker_total: Steps the attacker has taken in all rounds.
    """

    round: int
    learner: Role
    taken: int = 0
    window: tuple[float, ...] = ()
    defender_total: int = 0
    attacker_total: int = 0

    @classmethod
    def start(cls, config: ScheduleConfig) -> Self:
        """The first turn of the first round."""
        return cls(1, "defender" if config.defender_steps else "attacker")

    def over(self, config: ScheduleConfig) -> bool:
        """Whether all rounds have been played."""
        return self.round > config.rounds

    def advance(self, safe_rate: float | None, config: ScheduleConfig) -> Schedule:
        """The position after one step of the learner, in which the defender had this safe rate.

        `ratio` hands over after the learner's steps; `metric` also as soon as a full window's mean safe rate
        is at `high` or above (defender learning) or at `low` or below (attacker learning).
        """
        # A step whose episodes were all masked (None) says nothing about safety, so it is not part of the window.
        window = self.window if safe_rate is None else (*self.window, safe_rate)[-config.window :]
        defends = self.learner == "defender"
        moved = replace(
            self,
            taken=self.taken + 1,
            window=window,
            defender_total=self.defender_total + defends,
            attacker_total=self.attacker_total + (not defends),
        )
        done = moved.taken >= (config.defender_steps if defends else config.attacker_steps)
        if config.kind == "metric" and len(window) == config.window:
            mean = sum(window) / len(window)
            done = done or (mean >= config.high if defends else mean <= config.low)
        if not done:
            return moved
        if defends and config.attacker_steps:
            return replace(moved, learner="attacker", taken=0, window=())
        opener: Role = "defender" if config.defender_steps else "attacker"
        return replace(moved, round=self.round + 1, learner=opener, taken=0, window=())

    @property
    def total(self) -> int:
        """Steps the learner has taken in all rounds."""
        return self.defender_total if self.learner == "defender" else self.attacker_total

    def planned(self, config: ScheduleConfig) -> int:
        """Steps the learner will take in all rounds; with `metric`, the most it may take."""
        return config.rounds * (config.defender_steps if self.learner == "defender" else config.attacker_steps)
