"""Group-relative advantages (METHOD §3, GRPO)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

EPSILON = 1e-6


def group_advantages(
    rewards: Sequence[float | None], groups: Sequence[int], *, scale_by_std: bool = True
) -> list[float | None]:
    """A_i = (r_i - mean(r)) / (std(r) + 1e-6) within each group, with the sample standard deviation.

    Args:
        rewards: Reward of each of N episodes; None where masked. Masked episodes count in no mean.
        groups: Group of each episode.
        scale_by_std: False leaves the division out (Dr. GRPO).

    Returns:
        N advantages, None where masked. A group with a single reward left has advantage 0.
    """
    members: dict[int, list[int]] = defaultdict(list)
    for index, (reward, group) in enumerate(zip(rewards, groups, strict=True)):
        if reward is not None:
            members[group].append(index)
    out: list[float | None] = [None] * len(rewards)
    for indices in members.values():
        values = np.array([rewards[i] for i in indices], dtype=np.float64)
        # Equal rewards teach nothing; rounding in the mean must not be blown up by a division by 1e-6.
        centred = values - values.mean() if np.ptp(values) else np.zeros_like(values)
        if scale_by_std and len(values) > 1:
            centred /= values.std(ddof=1) + EPSILON
        for index, value in zip(indices, centred, strict=True):
            out[index] = float(value)
    return out
