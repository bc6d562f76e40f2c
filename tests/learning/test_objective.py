"""Objectives as advantages: compared with closed forms, and used on a game small enough to solve."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from magic_rl.learning.objective import Known, coefficients, importance_sampling_datums
from magic_rl.learning.settings import LearningConfig
from magic_rl.types import Datum


def known(ratio: list[float], advantage: float = 1.0, gap: float | None = None) -> Known:
    current = np.linspace(-2.0, -1.0, len(ratio))
    reference = None if gap is None else current + gap
    return Known(current, current - np.log(ratio), np.full(len(ratio), advantage), reference)


@pytest.mark.parametrize("advantage", [2.0, -2.0])
def test_ppo_drops_tokens_only_where_the_advantage_pushes_out(advantage: float) -> None:
    found, metrics = coefficients(known([0.5, 0.9, 1.1, 1.5], advantage), LearningConfig(clip_high=0.3))
    expected = [1.0, 1.8, 2.2, 0.0] if advantage > 0 else [0.0, -1.8, -2.2, -3.0]
    assert found == pytest.approx(expected)
    assert metrics["clip_fraction"] == 1


def test_gspo_gives_every_token_the_ratio_of_its_sequence() -> None:
    sequence = LearningConfig(objective="gspo", clip_low=3e-4, clip_high=4e-4)
    ratio = [0.5, 2.0, 1.0003]  # far apart, but their geometric mean is 1.0001
    assert coefficients(known(ratio, 2.0), sequence)[0] == pytest.approx([2 * 1.0003 ** (1 / 3)] * 3)
    assert coefficients(known([1.001] * 3, 2.0), sequence)[0] == pytest.approx([0.0] * 3)
    assert coefficients(known([1.001] * 3, -2.0), sequence)[0] == pytest.approx([-2.002] * 3)


def test_cispo_caps_the_ratio_and_drops_no_token() -> None:
    found, metrics = coefficients(known([0.1, 1.0, 9.0]), LearningConfig(objective="cispo", clip_high=4.0))
    assert found == pytest.approx([0.1, 1.0, 5.0])
    assert metrics["clip_fraction"] == 1


def test_the_kl_term_is_k3_and_pulls_towards_the_reference() -> None:
    learning = LearningConfig(kl_coef=0.1)
    found, metrics = coefficients(known([1.0], 0.0, gap=np.log(2.0)), learning)
    assert found == pytest.approx([0.1])  # d/d log π_θ of -(exp(d) - d - 1) is exp(d) - 1
    assert metrics["kl"] == pytest.approx(2.0 - np.log(2.0) - 1.0)
    assert coefficients(known([1.0], 0.0, gap=0.0), learning)[0] == pytest.approx([0.0])


@pytest.mark.parametrize("objective", ["ppo", "gspo", "cispo"])
def test_coefficients_are_the_gradient_of_the_stated_objective(objective: Any) -> None:
    rng = np.random.default_rng(0)
    old, reference = rng.normal(-2, 0.2, 6), rng.normal(-2, 0.2, 6)
    advantages = np.full(6, -0.7)
    learning = LearningConfig(objective=objective, kl_coef=0.3, clip_low=0.1, clip_high=0.1)
    current = torch.tensor(rng.normal(-2, 0.2, 6), requires_grad=True)
    gap = torch.tensor(reference) - current
    divergence = (gap.exp() - gap - 1).sum()
    logs = current - torch.tensor(old)
    ratio = (logs.mean() if objective == "gspo" else logs).exp()
    gain = torch.tensor(advantages)
    if objective == "cispo":
        surrogate = (ratio.detach().clamp(max=1.1) * gain * current).sum()
    else:
        # A sequence's mean over tokens times its length, so that both are sums over tokens.
        surrogate = (ratio * gain).minimum(ratio.clamp(0.9, 1.1) * gain).sum()
    (gradient,) = torch.autograd.grad(surrogate - 0.3 * divergence, current)
    found, _ = coefficients(Known(current.detach().numpy(), old, advantages, reference), learning)
    assert found == pytest.approx(gradient.numpy())


def test_metrics_are_means_over_all_tokens() -> None:
    datums = [Datum((1,), (2,) * n, 1.0, (1.0,) * n, (-1.0,) * n) for n in (1, 3)]
    current = [(-1.0,), (-1.0 + float(np.log(2.0)),) * 3]
    taught, metrics = importance_sampling_datums(datums, current, [], LearningConfig(objective="cispo", clip_high=0.5))
    assert metrics == pytest.approx({"loss": -(1 + 3 * 1.5), "ratio": (1 + 3 * 2.0) / 4, "clip_fraction": 0.75})
    assert [datum.logprobs for datum in taught] == current
    assert taught[1].advantages == pytest.approx((1.5,) * 3)
