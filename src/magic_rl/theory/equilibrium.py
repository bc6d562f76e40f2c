"""The exact equilibrium of a tabular game, and how far two policies are from it (METHOD §1).

A subgame-perfect equilibrium asks more than a Nash equilibrium: the defender answers *every* attack as well as
possible, including attacks that are not played. So the distance from it counts the defender's worst attack, played or
not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from magic_rl.game.rewards import score
from magic_rl.game.settings import RewardConfig
from magic_rl.theory.tabular import Array, Flags, TabularGame


@dataclass(frozen=True, eq=False, slots=True)
class Payoffs:
    """Every payoff of a game with X seeds, A attacks and Y replies.

    The attacker has M = 2A moves: each attack in the required format, then each attack without it (METHOD §4, R_fmt).
    """

    attacker: Array  # its reward of each move and reply at each seed, shape (X, M, Y); 0 where a seed lacks the move
    defender: Array  # its reward, same shape
    moves: Flags  # which moves each seed has, shape (X, M)
    prior: Array  # probability of each seed, shape (X,): half is benign if there are both labels (METHOD §1)

    @classmethod
    def of(cls, game: TabularGame, weights: RewardConfig | None = None) -> Payoffs:
        """Score every way a game can go (METHOD §4). Args: weights: None for the paper's."""
        attacker, defender = np.zeros((2, *game.moves.shape, len(game.replies)))
        for x, move in np.argwhere(game.moves).tolist():
            attack, well_formed = move % len(game.attacks), move < len(game.attacks)
            for y in range(len(game.replies)):
                rewards = score(game.verdict(attack, y), game.seeds[x].label, well_formed, weights or RewardConfig())
                attacker[x, move, y], defender[x, move, y] = rewards.attacker, rewards.defender
        labels = [seed.label for seed in game.seeds]
        prior = np.array([1 / (len(set(labels)) * labels.count(label)) for label in labels])
        return cls(attacker, defender, game.moves, prior)

    def move_values(self, defender: Array) -> Array:
        """The attacker's expected reward for each move, shape (X, M), against π_D(reply | attack), shape (A, Y)."""
        values = np.einsum("xmy,my->xm", self.attacker, np.tile(defender, (2, 1)))
        return np.asarray(np.where(self.moves, values, -np.inf))

    def reply_values(self, belief: Array) -> Array:
        """The defender's expected reward for each reply to each attack, shape (A, Y), under π(seed | attack)."""
        well_formed = self.defender[:, : len(belief)]  # the attack's format does not matter to the defender
        return np.asarray(np.einsum("ax,xay->ay", belief, well_formed))

    def belief(self, attacker: Array) -> Array:
        """The posterior π(seed | attack), shape (A, X), given π_A(move | seed), shape (X, M).

        For an attack that is never played, it is the prior over the seeds that have this attack.
        """
        played = _either_format(self.prior[:, None] * attacker)
        possible = self.prior[:, None] * _either_format(self.moves)
        joint = np.where(played.sum(axis=0) > 0, played, possible)
        return np.asarray((joint / joint.sum(axis=0)).T)

    def expected(self, attacker: Array, defender: Array) -> tuple[float, float]:
        """Expected rewards of attacker and defender under two policies."""
        chance = np.einsum("x,xm,my->xmy", self.prior, attacker, np.tile(defender, (2, 1)))
        return float((chance * self.attacker).sum()), float((chance * self.defender).sum())


@dataclass(frozen=True, eq=False, slots=True)
class Equilibrium:
    """Pure policies from backward induction."""

    attacker: Array  # π_A(move | seed), shape (X, M)
    defender: Array  # π_D(reply | attack), shape (A, Y)
    attacker_value: float  # the attacker's expected reward
    defender_value: float  # the defender's expected reward


@dataclass(frozen=True, slots=True)
class Exploitability:
    """How far two policies are from a subgame-perfect equilibrium, in reward; all are 0 exactly at an equilibrium."""

    attacker_gain: float  # how much more the best attacker against this defender would get
    defender_gain: float  # how much more the best defender against this attacker would get
    # The largest gain of a best reply over all attacks, played or not; at least `defender_gain`.
    defender_regret: float
    total: float  # `attacker_gain + defender_regret`
    share_of_range: float  # the same sum, each as a share of its own player's range of payoffs


def backward_induction(game: TabularGame, weights: RewardConfig | None = None) -> Equilibrium:
    """Solve a game backwards: the best reply to every attack, then the best move for every seed.

    This is a subgame-perfect equilibrium if the attack alone decides what a reply is worth: no seeds of different
    labels share it, or the judge's label of the attack counts (`weights.request_label`). Otherwise the best reply
    depends on what the defender believes about the seed. Here it believes in the prior over the seeds that could have
    become the attack; this is an equilibrium only if that belief comes true.

    Args:
        game: X seeds, A attacks, Y replies.
        weights: Rewards of METHOD §4; None for the paper's.

    Returns:
        Both players' policies and expected rewards.
    """
    payoffs = Payoffs.of(game, weights)
    defender = _best(payoffs.reply_values(payoffs.belief(np.zeros(game.moves.shape))))
    attacker = _best(payoffs.move_values(defender))
    return Equilibrium(attacker, defender, *payoffs.expected(attacker, defender))


def exploitability(
    game: TabularGame, attacker: Array, defender: Array, weights: RewardConfig | None = None
) -> Exploitability:
    """How much each player could gain by a best response (METHOD §1), in exact expectation.

    Args:
        game: X seeds, A attacks, Y replies.
        attacker: π_A(move | seed), shape (X, M).
        defender: π_D(reply | attack), shape (A, Y).
        weights: Rewards of METHOD §4; None for the paper's.

    Returns:
        The gains, in units of reward.
    """
    payoffs = Payoffs.of(game, weights)
    moves = payoffs.move_values(defender)
    attacker_gain = float(payoffs.prior @ _regrets(attacker, moves))

    regrets = _regrets(defender, payoffs.reply_values(payoffs.belief(attacker)))
    shown = payoffs.prior @ _either_format(attacker)
    defender_regret = float(regrets.max())
    return Exploitability(
        attacker_gain=attacker_gain,
        defender_gain=float(shown @ regrets),
        defender_regret=defender_regret,
        total=attacker_gain + defender_regret,
        share_of_range=_share(attacker_gain, payoffs.attacker[game.moves])
        + _share(defender_regret, payoffs.defender[game.moves]),
    )


def _either_format(moves: Array | Flags) -> Array:
    """Sum over both formats of each attack: from shape (X, M) to (X, A)."""
    return np.asarray(moves.reshape(len(moves), 2, -1).sum(axis=1, dtype=np.float64))


def _regrets(policy: Array, values: Array) -> Array:
    """How far each row's expected value is below its best one."""
    expected = (policy * np.where(policy > 0, values, 0.0)).sum(axis=1)  # moves that a seed lacks are -inf
    return np.asarray(values.max(axis=1) - expected)


def _best(values: Array) -> Array:
    """A policy with all weight of each row on its first best column."""
    return np.asarray(np.eye(values.shape[1])[values.argmax(axis=1)])


def _share(gain: float, payoffs: Array) -> float:
    """A gain as a share of the range of payoffs."""
    span = float(np.ptp(payoffs))
    return gain / span if span else 0.0
