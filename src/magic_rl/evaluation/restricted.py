"""The game restricted to the saved players, solved exactly from a cross-play.

The attacker's payoff is −J = ASR − compliance: by ASR alone, a defender that refuses everything would be perfect. A
saved defender's exploitability is how far its J against the best saved attacker is below that of the best mixture of
saved defenders. Other attackers may do more damage, so this is a lower bound; fresh attackers look for them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from magic_rl.evaluation.result import Crossplay
from magic_rl.theory.matrix import solve


@dataclass(frozen=True, slots=True)
class RestrictedEquilibrium:
    """The equilibrium among players that were all measured against each other."""

    value: float  # J at the equilibrium
    attackers: dict[int | None, float]  # share of each attacker in its mixture
    defenders: dict[int, tuple[float, float, float]]  # share, J against its worst attacker, exploitability


def restricted_game(found: Crossplay) -> RestrictedEquilibrium | None:
    """Solve the cross-play; None if no defender was measured against every attacker."""
    n = np.array(
        [[min(a.n, c.n) for a, c in zip(*rows, strict=True)] for rows in zip(found.asr, found.compliance, strict=True)]
    )
    whole = np.flatnonzero((n > 0).all(axis=0))
    if not whole.size:
        return None
    asr, compliance = (
        np.array([[cell.value for cell in row] for row in table]) for table in (found.asr, found.compliance)
    )
    payoffs = (asr - compliance)[:, whole]
    solved = solve(payoffs)
    worst = -payoffs.max(axis=0)
    defenders = {
        found.defenders[place]: (float(solved.columns[i]), float(worst[i]), float(solved.column_exploitability[i]))
        for i, place in enumerate(whole)
    }
    return RestrictedEquilibrium(
        -solved.value, dict(zip(found.attackers, solved.rows.tolist(), strict=True)), defenders
    )
