"""Advantages (METHOD §3, GRPO): how much better than its baseline a sample did.

GRPO's baseline is the mean of the sample's group, so a group with equal rewards teaches nothing, even if every reply
complied with an attack. A wider baseline, the mean over all of the step's samples for requests with the same label,
keeps that signal (METHOD §11).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence
from typing import Literal, TypeVar

import numpy as np

Baseline = Literal["group", "label", "mixture"]
Group = TypeVar("Group", bound=Hashable)
EPSILON = 1e-6


def estimate_advantages(
    rewards: Sequence[float | None],
    groups: Sequence[int],
    labels: Sequence[Hashable],
    *,
    baseline: Baseline = "group",
    scale_by_std: bool = True,
) -> list[float | None]:
    """Advantage of each episode over the baseline.

    Args:
        rewards: Reward of each of N episodes; None where masked. Masked episodes count in no mean.
        groups: Group of each episode.
        labels: Whether each episode's request is harmful or benign.
        baseline: "group" is GRPO; "label" the mean over all episodes with the same label; "mixture" half of each.
        scale_by_std: Divide by the standard deviation of the set the mean is over (for a mixture, the label's).

    Returns:
        N advantages, None where masked.
    """
    if baseline == "group":
        return group_advantages(rewards, groups, scale_by_std=scale_by_std)
    wide = group_advantages(rewards, labels, scale_by_std=scale_by_std)
    if baseline == "label":
        return wide
    within = group_advantages(rewards, groups, scale_by_std=False)
    spreads = _spreads(rewards, labels) if scale_by_std else defaultdict(lambda: 1.0)
    return [
        None if one is None or other is None else (one / spreads[label] + other) / 2
        for one, other, label in zip(within, wide, labels, strict=True)
    ]


def group_advantages(
    rewards: Sequence[float | None], groups: Sequence[Group], *, scale_by_std: bool = True
) -> list[float | None]:
    """A_i = (r_i - mean(r)) / (std(r) + 1e-6) within each group, with the sample standard deviation.

    Args:
        rewards: Reward of each of N episodes; None where masked. Masked episodes count in no mean.
        groups: Group of each episode.
        scale_by_std: False leaves the division out (Dr. GRPO).

    Returns:
        N advantages, None where masked. A group with a single reward left has advantage 0.
    """
    out: list[float | None] = [None] * len(rewards)
    spreads = _spreads(rewards, groups) if scale_by_std else {}
    for group, of_group in _members(rewards, groups).items():
        values = np.array(list(of_group.values()))
        # Equal rewards teach nothing; dividing by 1e-6 must not blow up rounding in the mean.
        centred = values - values.mean() if np.ptp(values) else np.zeros_like(values)
        for index, value in zip(of_group, centred / spreads.get(group, 1.0), strict=True):
            out[index] = float(value)
    return out


def groups_with_signal(rewards: Sequence[float | None], groups: Sequence[int]) -> list[int]:
    """The groups whose unmasked rewards are not all equal, in order: GRPO learns from these alone."""
    return [group for group, of_group in _members(rewards, groups).items() if len(set(of_group.values())) > 1]


def _members(rewards: Sequence[float | None], groups: Sequence[Group]) -> dict[Group, dict[int, float]]:
    """Index and reward of the unmasked episodes of each group."""
    members: dict[Group, dict[int, float]] = defaultdict(dict)
    for index, (reward, group) in enumerate(zip(rewards, groups, strict=True)):
        if reward is not None:
            members[group][index] = reward
    return members


def _spreads(rewards: Sequence[float | None], groups: Sequence[Group]) -> dict[Group, float]:
    """Divisor of each group's advantages; 1 for a single reward, which has no deviation."""
    return {
        group: float(np.std(list(of_group.values()), ddof=1)) + EPSILON if len(of_group) > 1 else 1.0
        for group, of_group in _members(rewards, groups).items()
    }
