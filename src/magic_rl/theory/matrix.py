"""Zero-sum games given by their payoff matrix, solved exactly by linear programming.

Each player's part of an equilibrium is its maximin mixture: the one with the best worst case over all that the other
player can do (von Neumann 1928). The two mixtures are computed independently.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False, slots=True)
class Maximin:
    """A mixture and its value."""

    weights: Array  # probability of each row, shape (R,); at least 0, sums to 1
    value: float  # the row player's expected payoff against the column that is worst for it


def maximin(payoffs: Array) -> Maximin:
    """The row player's maximin mixture; the column player's is `maximin(-payoffs.T)`.

    If several mixtures are equally good, the solver's choice among them depends only on the payoffs.

    Args:
        payoffs: What the row player gets at each row and column, shape (R, C); finite, not empty.

    Raises:
        ValueError: If there is no row or no column, or a payoff is not finite.
    """
    from scipy.optimize import linprog  # importing it takes a third of a second, and most runs need no solver

    payoffs = np.asarray(payoffs, dtype=np.float64)
    if payoffs.ndim != 2 or not payoffs.size or not np.isfinite(payoffs).all():
        raise ValueError(f"payoffs: expected a matrix of finite numbers, got {payoffs!r}")
    rows, columns = payoffs.shape
    # Variables are the weights and the value v. Maximise v such that no column gives the mixture less than v.
    solved = linprog(
        c=np.append(np.zeros(rows), -1.0),
        A_ub=np.hstack([-payoffs.T, np.ones((columns, 1))]),
        b_ub=np.zeros(columns),
        A_eq=np.append(np.ones(rows), 0.0)[None],
        b_eq=[1.0],
        bounds=[*[(0.0, 1.0)] * rows, (None, None)],
        method="highs",
    )
    if not solved.success:  # every such program has a solution, so the payoffs are not to blame
        raise RuntimeError(f"linprog: {solved.message}")
    weights = np.clip(solved.x[:rows], 0.0, None)  # the solver's rounding may leave a weight below 0
    weights /= weights.sum()
    return Maximin(weights, float((weights @ payoffs).min()))


@dataclass(frozen=True, eq=False, slots=True)
class Solution:
    """An equilibrium, and how far from it each pure choice of a player is. Distances are in units of payoff."""

    rows: Array  # probability of each row in the row player's mixture, shape (R,)
    columns: Array  # probability of each column in the column player's mixture, shape (C,)
    value: float  # what the row player gets at the equilibrium, and the column player loses
    row_exploitability: Array  # how far each row's worst case is below the value, shape (R,); at least 0
    column_exploitability: Array  # how far the best answer to each column is above the value, shape (C,); at least 0


def solve(payoffs: Array) -> Solution:
    """The equilibrium of a game, and each player's exploitability in it.

    If rows and columns are versions of two players, this is the game restricted to them (the empirical game of
    Lanctot et al. 2017, arXiv 1711.00832). If row i meets column j, the sum of `row_exploitability[i]` and
    `column_exploitability[j]` is how far the two are from an equilibrium (NashConv). A version that is not among them
    may exploit either more, so each number is a lower bound on exploitability in the whole game.

    Args:
        payoffs: See `maximin`.

    Raises:
        ValueError: See `maximin`.
    """
    row, column = maximin(payoffs), maximin(-payoffs.T)
    short = np.clip(row.value - payoffs.min(axis=1), 0.0, None)  # below 0 only by the solver's rounding
    above = np.clip(payoffs.max(axis=0) - row.value, 0.0, None)
    return Solution(row.weights, column.weights, row.value, short, above)
