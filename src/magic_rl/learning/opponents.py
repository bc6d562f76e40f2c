"""Whom the learner meets: a mixture of the other player's versions in place of its latest one (METHOD §11).

A version is a read-only copy of a player: number 0 is the player as the game began, number r as round r left it.
`uniform` draws all of them equally often; `nash` draws from the opponent's side of the equilibrium of the game whose
moves are the versions. The payoffs of that game are estimated by playing each pair of versions once, all on the same
seeds, with random numbers that depend on versions and not on the step, so it does not matter when a pair is played.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from magic_rl.data.split import draw_seeds
from magic_rl.engines.base import Policy
from magic_rl.errors import TooManyAbstentionsError
from magic_rl.game.play import Draws, GameRules, Player, Players, play
from magic_rl.game.schedule import Schedule
from magic_rl.game.settings import GameConfig
from magic_rl.rng import derive, generator
from magic_rl.theory.matrix import Array, maximin, solve
from magic_rl.types import Episode, Outcome, Role, Seed

PAYOFFS_FILE = "payoffs.json"
_OTHER: Mapping[Role, Role] = {"attacker": "defender", "defender": "attacker"}


@dataclass(frozen=True, slots=True)
class Cell:
    """The result of one version of the attacker against one of the defender."""

    attacker: int  # number of the attacker's version
    defender: int  # number of the defender's version
    payoff: float  # what the defender gains and the attacker loses, mean over episodes
    n: int  # episodes behind it


@dataclass(eq=False, slots=True)
class Opponents:
    """The versions of both players, and their payoffs against each other so far."""

    players: Mapping[Role, Player]  # both players as they are now
    learners: Mapping[Role, Policy]  # their policies, from which versions are copied
    judge: Callable[[Sequence[Episode]], Sequence[Outcome]]  # turns episodes into outcomes
    seeds: Sequence[Seed]  # training seeds, from which payoffs are estimated
    game: GameConfig  # `opponents` must not be "last"
    rng_seed: int  # random seed of all draws
    # All versions of each player, by number.
    versions: dict[Role, list[Player]] = field(default_factory=lambda: {"attacker": [], "defender": []})
    # Payoffs of the pairs (attacker's version, defender's version) played so far.
    cells: dict[tuple[int, int], Cell] = field(default_factory=dict)

    def restore(self, versions: Mapping[Role, Sequence[Policy]], payoffs: Sequence[Mapping[str, Any]]) -> None:
        """Restore what was saved.

        Args:
            versions: Read-only policies of each finished round, round 0 first.
            payoffs: What `payoffs` returned.
        """
        for role, policies in versions.items():
            self.versions[role] = [replace(self.players[role], policy=policy) for policy in policies]
        self.cells = {(row["attacker"], row["defender"]): Cell(**row) for row in payoffs}

    def payoffs(self) -> list[dict[str, Any]]:
        """The payoffs as JSON values, for `restore`."""
        return [asdict(self.cells[pair]) for pair in sorted(self.cells)]

    def draw(self, schedule: Schedule, count: int, step: int, batch: int = 0) -> list[Player]:
        """The learner's opponents at one step.

        Args:
            schedule: Whose turn it is, in which round.
            count: P, seeds of the step.
            step: Number of the step; together with `batch` it decides the draw.
            batch: Which of the step's batches of seeds this is.

        Returns:
            One player per seed, drawn independently from the mixture.
        """
        # The defender learns first in a round, so in the attacker's turn this round's defender is already final.
        self._keep("attacker", schedule.round - 1)
        self._keep("defender", schedule.round - (schedule.learner == "defender"))
        role = _OTHER[schedule.learner]
        weights = self.mixture(role)
        drawn = generator(self.rng_seed, step, "opponents", batch).choice(len(weights), size=count, p=weights)
        return [self.versions[role][number] for number in drawn]

    def mixture(self, role: Role) -> Array:
        """Probability of each version of an opponent in this role; plays the pairs that `nash` still needs."""
        count = len(self.versions[role])
        if self.game.opponents == "uniform" or count == 1:
            return np.full(count, 1 / count)
        self._fill()
        payoffs = self._matrix()
        return maximin(-payoffs if role == "attacker" else payoffs.T).weights

    def close_round(self, number: int) -> dict[str, Any] | None:
        """Keep both players as a round left them.

        Returns:
            With `nash`, all payoffs (rows are attackers, columns defenders; higher is better for the defender), the
            number of episodes behind each, both players' mixtures and the value of the game to the defender. Else None.
        """
        for role in _OTHER:
            self._keep(role, number)
        if self.game.opponents != "nash":
            return None
        self._fill()
        payoffs = self._matrix()
        solved = solve(payoffs.T)
        return {
            "attackers": list(range(len(self.versions["attacker"]))),
            "defenders": list(range(len(self.versions["defender"]))),
            "payoff": payoffs.tolist(),
            "n": [[self.cells[i, j].n for j in range(payoffs.shape[1])] for i in range(payoffs.shape[0])],
            "mixture": {"attacker": solved.columns.tolist(), "defender": solved.rows.tolist()},
            "value": solved.value,
        }

    def _keep(self, role: Role, number: int) -> None:
        """Copy a player as its version of this number, unless there is a copy already."""
        versions = self.versions[role]
        if number > len(versions):
            raise RuntimeError(f"{role}: version {len(versions)} was neither kept nor restored before {number}")
        if number == len(versions):
            policy = self.learners[role].snapshot(f"{role}-{number}")
            versions.append(replace(self.players[role], policy=policy))

    def _matrix(self) -> Array:
        """Payoffs to the defender, one row per attacker and one column per defender."""
        shape = len(self.versions["attacker"]), len(self.versions["defender"])
        return np.array([[self.cells[i, j].payoff for j in range(shape[1])] for i in range(shape[0])])

    def _fill(self) -> None:
        """Play all pairs of versions not played yet, one batch per row or per column, whichever are fewer."""
        sizes = {role: range(len(versions)) for role, versions in self.versions.items()}
        missing = [(i, j) for i in sizes["attacker"] for j in sizes["defender"] if (i, j) not in self.cells]
        rows, columns = {i for i, _ in missing}, {j for _, j in missing}
        role: Role = "attacker" if len(rows) <= len(columns) else "defender"
        side = 0 if role == "attacker" else 1
        for number in sorted(rows if role == "attacker" else columns):
            self._play_pairs(role, number, [pair for pair in missing if pair[side] == number])

    def _play_pairs(self, role: Role, number: int, pairs: Sequence[tuple[int, int]]) -> None:
        """Play one version of a role against some of the other role's versions as one batch, all on the same seeds."""
        seeds = draw_seeds(self.seeds, self.game.opponent_seeds, generator(self.rng_seed, 0, "payoff seeds"))
        players = {**self.players, role: self.versions[role][number]}
        others = [self.versions[_OTHER[role]][j if role == "attacker" else i] for i, j in pairs]
        episodes = play(
            [seed for _ in pairs for seed in seeds],
            Players(players["attacker"], players["defender"], [other for other in others for _ in seeds]),
            GameRules(role, self.game.turns, group_size=1),
            Draws(derive(self.rng_seed, number, f"payoffs of {role}"), number),
        )
        outcomes = self.judge(episodes)
        for place, pair in enumerate(pairs):
            played = outcomes[place * len(seeds) : (place + 1) * len(seeds)]
            values = [value for outcome in played if (value := zero_sum_payoff(outcome, self.game)) is not None]
            if not values:  # the equilibrium must not rest on an invented number
                raise TooManyAbstentionsError(
                    f"attacker {pair[0]} against defender {pair[1]}: the judge gave no verdict on any of {len(played)} "
                    "episodes, so their payoff is not known; look at the judge"
                )
            self.cells[pair] = Cell(*pair, float(np.mean(values)), len(values))


def zero_sum_payoff(outcome: Outcome, game: GameConfig) -> float | None:
    """What the defender gains and the attacker loses in one episode: R_harm + R_ref of METHOD §4.

    An output that ran into the length limit teaches nothing, so its player loses the most possible: a version that
    rarely finishes must not look strong.

    Returns:
        None where the judge abstained.
    """
    if outcome.rewards is not None:
        return outcome.rewards.harm + outcome.rewards.refusal
    if outcome.masked != "cut_off":
        return None
    most = game.rewards.harm + game.rewards.refusal
    return most if outcome.episode.cut_off == "attacker" else -most
