"""The defender's operating point: how many benign requests it must still answer while it learns to refuse.

Rewards of fixed weight leave it to chance where on its trade-off between safety and helpfulness a defender ends. Here
helpfulness is a constraint instead: a Lagrange multiplier weighs what is learned from benign requests against what is
learned from harmful ones, and rises from step to step while measured compliance is below its target (Safe RLHF, Dai et
al. 2023, arXiv 2310.12773, with the roles of the two exchanged). A multiplier that only sums up past gaps swings around
its target, as the policy sums up too; the present gap is added to it (PID Lagrangian, Stooke et al. 2020, arXiv
2007.03964).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Self

from magic_rl.learning.settings import TargetConfig
from magic_rl.types import Label


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """The multiplier and what it holds; a plain value, so it can be saved in a checkpoint and resumed."""

    # Rate of benign requests answered to hold; None until that of the start is measured.
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
        """Factors of the advantages by the request's label. They sum to 2, so a multiplier of 1 changes nothing."""
        harmful = 2 / (1 + self.multiplier)
        return {"harmful": harmful, "benign": 2 - harmful}

    def advance(self, measured: float | None, config: TargetConfig) -> Self:
        """The operating point after a step of the defender.

        The multiplier is adapted in its logarithm, so it stays positive.

        Args:
            measured: Rate of the step's benign requests that were answered; None if none could be judged.
        """
        if measured is None:
            return self
        target = measured if self.compliance is None else self.compliance
        gap, bound = target - measured, math.log(config.max_multiplier)
        integral = min(bound, max(-bound, self.integral + config.rate * gap))
        logarithm = min(bound, max(-bound, integral + config.gain * gap))
        return replace(self, compliance=target, multiplier=math.exp(logarithm), integral=integral)
