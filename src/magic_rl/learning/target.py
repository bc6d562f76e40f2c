"""The defender's operating point: how many benign requests it must still answer while it learns to refuse.

Rewards with fixed weights leave it to chance where a defender ends on the trade-off between safety and helpfulness.
Here helpfulness is a constraint instead: a Lagrange multiplier weights benign requests against harmful ones, and rises
after each step with measured compliance below the target (Safe RLHF, Dai et al. 2023, arXiv 2310.12773, with the roles
of the two exchanged). A multiplier that only integrates past gaps oscillates around the target, because the policy
integrates too, so the present gap is added (PID Lagrangian, Stooke et al. 2020, arXiv 2007.03964).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Self

from magic_rl.learning.settings import TargetConfig
from magic_rl.types import Label


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """The multiplier and its target; a plain value, so it can be saved in a checkpoint and resumed."""

    # Target rate of benign requests answered; None until the first step measures it ("start").
    compliance: float | None = None
    multiplier: float = 1.0  # λ, the weight of a benign request relative to a harmful one
    # What past gaps between target and measured compliance have added to the multiplier's logarithm.
    integral: float = 0.0

    @classmethod
    def start(cls, config: TargetConfig | None) -> Self | None:
        """The operating point before the first step; None if there is no target."""
        if config is None:
            return None
        return cls(None if config.compliance == "start" else config.compliance)

    def weights(self) -> dict[Label, float]:
        """Factor of the advantages for each label. They sum to 2, so a multiplier of 1 changes nothing."""
        harmful = 2 / (1 + self.multiplier)
        return {"harmful": harmful, "benign": 2 - harmful}

    def advance(self, measured: float | None, config: TargetConfig) -> Self:
        """The operating point after a step of the defender.

        The multiplier is adapted in its logarithm, so it stays positive.

        Args:
            measured: Share of the step's benign requests that were answered; None if none could be judged.
        """
        if measured is None:
            return self
        target = measured if self.compliance is None else self.compliance
        gap, bound = target - measured, math.log(config.max_multiplier)
        integral = min(bound, max(-bound, self.integral + config.rate * gap))
        logarithm = min(bound, max(-bound, integral + config.gain * gap))
        return replace(self, compliance=target, multiplier=math.exp(logarithm), integral=integral)
