"""Zero-sum games given by their payoff matrix, solved exactly by linear programming.

Each player's share of an equilibrium is its maximin mixture: the one whose worst case, over all that the other player
can do, is best (von Neumann 1928). The two are found one at a time, so nothing here says whose turn it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False, slots=True)
class Maximin:
    """A mixture and what it is worth.

    Attributes:
        weights: Chance of each row, shape (R,); at least 0, sums to 1.
        value: The row player's expected payoff against the column that is worst for it.
    """

    weights: Array
    value: float


def maximin(payoffs: Array) -> Maximin:
    """The row player's maximin mixture; the column player's is `maximin(-payoffs.T)`.

    Where several mixtures are equally good, the solver's choice among them depends on the payoffs alone.

    Args:
        payoffs: What the row player gets at each row and column, shape (R, C); finite, not empty.

    Raises:
        ValueError: If there is no row or no column, or a payoff is not finite.
    """
    from scipy.optimize import linprog  # takes a third of a second to import, and most runs need no solver

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
    if not solved.success:  # every such programme has a solution, so this is no fault of the payoffs
        raise RuntimeError(f"linprog: {solved.message}")
    weights = np.clip(solved.x[:rows], 0.0, None)  # the solver's rounding may leave a weight below 0
    weights /= weights.sum()
    return Maximin(weights, float((weights @ payoffs).min()))
