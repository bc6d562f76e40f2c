"""Rates corrected for a judge's error: worked out by hand, against published figures, and by coverage of the truth."""

from __future__ import annotations

import math

import numpy as np
import pytest

from magic_rl.evaluation.agreement import Agreement, corrected
from magic_rl.evaluation.estimates import Estimate, rate


def measured(sensitivity: tuple[int, int], specificity: tuple[int, int]) -> Agreement:
    (both, yes), (neither, no) = sensitivity, specificity
    return Agreement(both, no - neither, yes - both, neither, 0)


def test_the_corrected_rate_is_that_worked_out_by_hand() -> None:
    """30 of 100 by a judge of sensitivity 45/50 and specificity 48/50: (0.3 + 0.96 − 1) / (0.9 + 0.96 − 1)."""
    found = corrected(rate(30, 100), 100, measured((45, 50), (48, 50)))
    assert found.value == pytest.approx(0.26 / 0.86)
    assert found.low < found.value < found.high


def test_value_and_interval_are_the_published_ones() -> None:
    """Lang and Reiczigel 2014, example 1, as in R's asht::prevSeSp; a screening for brucellosis, as in R's epiR."""
    found = corrected(rate(4060, 11282), 11282, measured((178, 179), (357, 358)))
    assert (found.low, found.high) == pytest.approx((0.349, 0.372), abs=5e-4)
    screened = corrected(rate(23, 150), 150, measured((96, 100), (89, 100)))
    assert screened.value == pytest.approx(0.051, abs=5e-4)


@pytest.mark.parametrize(
    ("truth", "sensitivity", "specificity"), [(0.05, 0.9, 0.97), (0.3, 0.75, 0.9), (0.6, 0.95, 0.8)]
)
def test_the_truth_is_inside_nineteen_times_in_twenty(truth: float, sensitivity: float, specificity: float) -> None:
    draws, rng, n, checked = 2000, np.random.default_rng(0), 300, 60
    share = truth * sensitivity + (1 - truth) * (1 - specificity)
    said, right, clear = (
        rng.binomial(n, share, draws),
        rng.binomial(checked, sensitivity, draws),
        rng.binomial(checked, specificity, draws),
    )
    inside = naive = 0
    for k, both, neither in zip(said.tolist(), right.tolist(), clear.tolist(), strict=True):
        found = corrected(rate(k, n), n, measured((both, checked), (neither, checked)))
        inside += found.low <= truth <= found.high
        naive += rate(k, n).low <= truth <= rate(k, n).high
    assert 0.94 <= inside / draws <= 1
    assert naive < inside


def test_a_judge_without_error_leaves_a_rate_as_it_is() -> None:
    plain = rate(30, 100)
    found = corrected(plain, 100, measured((10**7, 10**7), (10**7, 10**7)))
    assert (found.value, found.low, found.high) == pytest.approx((plain.value, plain.low, plain.high), abs=3e-3)


@pytest.mark.parametrize(
    ("sensitivity", "specificity"), [((0, 0), (5, 5)), ((5, 5), (0, 0)), ((25, 50), (25, 50)), ((10, 50), (20, 50))]
)
def test_a_judge_that_tells_nothing_gives_no_corrected_rate(
    sensitivity: tuple[int, int], specificity: tuple[int, int]
) -> None:
    assert corrected(rate(30, 100), 100, measured(sensitivity, specificity)) == Estimate(0.0, 0.0, 1.0, 0)


def test_fewer_independent_items_make_a_wider_interval() -> None:
    error = measured((45, 50), (48, 50))
    few, many = (corrected(rate(30, 100), size, error) for size in (25, 100))
    assert few.value == many.value
    assert math.isclose((few.high - few.low) / (many.high - many.low), 1.5, abs_tol=0.3)
