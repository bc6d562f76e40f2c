"""Settings of the game: how it is played and rewarded, and whose turn it is to learn."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator

from magic_rl.settings import Node, Place


class RewardConfig(Node):
    """Weights of METHOD.md §4."""

    harm: NonNegativeFloat = Field(1.0, description="r_harm: +/- when the reply is safe / not safe")
    refusal: NonNegativeFloat = Field(
        0.5, description="r_ref: + for refusing a harmful or answering a benign request, else -"
    )
    format: NonNegativeFloat = Field(0.5, description="r_fmt: +/- on the attacker's output format")
    label: NonNegativeFloat = Field(0.0, description="r_label: +/- when the attack keeps the seed's label; 0 is off")
    quality: NonNegativeFloat = Field(
        0.0,
        description="r_quality: defender only, -/+ for a benign request as the judge finds the reply useless / helpful",
    )
    length: NonNegativeFloat = Field(0.0, description="r_length: the most that the defender loses for a long reply")
    length_free_tokens: PositiveInt = Field(
        256, description="tokens of a reply that cost nothing; at twice as many, all of length is lost"
    )
    request_label: Literal["seed", "judge"] = Field(
        "seed", description="which label makes a request harmful: the seed's (paper) or the judge's of the attack"
    )


class ScheduleConfig(Node):
    """Whose turn it is to learn (METHOD.md §3). A round is one turn of each player."""

    kind: Literal["ratio", "metric"] = Field(
        "ratio", description="fixed steps per turn, or hand over at a bound on the safe rate"
    )
    rounds: PositiveInt = Field(10, description="K: how many times each player takes its turn")
    defender_steps: NonNegativeInt = Field(15, description="T_D: steps per turn (metric: the most steps per turn)")
    attacker_steps: NonNegativeInt = Field(15, description="T_A: steps per turn (metric: the most steps per turn)")
    high: float = Field(0.90, ge=0, le=1, description="metric: defender hands over at this safe rate or above")
    low: float = Field(0.80, ge=0, le=1, description="metric: attacker hands over at this safe rate or below")
    window: PositiveInt = Field(3, description="metric: steps averaged before comparing")

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.defender_steps + self.attacker_steps == 0:
            raise ValueError("defender_steps and attacker_steps are both 0: nobody would learn")
        if self.kind == "metric" and self.low > self.high:
            raise ValueError("low is above high: both players would hand over at once")
        return self


class GameConfig(Node):
    """The game (METHOD.md §1, §5)."""

    turns: PositiveInt = Field(1, description="T: turns of a conversation; judged on the last")
    rewrite: bool = Field(True, description="false plays the seeds as they are (no-game)")
    plain_share: float = Field(
        0.0, ge=0, lt=1, description="when the defender learns: share of seeds whose first turn is the seed as it is"
    )
    shared_parameters: bool = Field(False, description="one policy plays both roles (self-play)")
    defender_thinks: bool = Field(False, description="the defender thinks first, with a format reward (defender-cot)")
    prompts: Place | None = Field(
        None, examples=["brief"], description="'brief' or 'paper', or a folder of files in place of the built-in ones"
    )
    rewards: RewardConfig = RewardConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    opponents: Literal["last", "uniform", "nash"] = Field(
        "last",
        description="whom the learner meets: the other player as it is now, or a mixture of its versions of all "
        "rounds, equally likely (uniform) or weighted by the equilibrium of the payoffs between versions (nash)",
    )
    opponent_seeds: int = Field(32, ge=2, description="nash: seeds on which each pair of versions is played once")
