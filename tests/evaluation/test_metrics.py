"""Rates and paired differences against published numbers and against simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from magic_rl.evaluation.metrics import Estimate, Rate, independent_difference, paired_difference, subtract


def outcomes(both: int, lost: int, gained: int, neither: int) -> tuple[list[bool], list[bool]]:
    """Before and after, from the counts of a paired 2 x 2 table."""
    before = [True] * (both + lost) + [False] * (gained + neither)
    after = [True] * both + [False] * lost + [True] * gained + [False] * neither
    return before, after


def test_wilson_interval_equals_its_closed_form() -> None:
    hits, n, z = 7, 40, 1.959963984540054
    p = hits / n
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    rate = Rate(hits, n)
    assert (rate.rate, rate.low, rate.high) == pytest.approx((p, middle - half, middle + half))


def test_a_rate_of_nothing_says_that_nothing_is_known() -> None:
    assert Rate(0, 0).as_dict() == {"rate": 0.0, "n": 0, "low": 0.0, "high": 1.0}


@pytest.mark.parametrize("hits", [0, 12])
def test_bounds_stay_within_zero_and_one_and_hold_the_rate(hits: int) -> None:
    rate = Rate(hits, 12)
    assert 0.0 <= rate.low <= rate.rate <= rate.high <= 1.0
    assert rate.high - rate.low > 0.1


def test_a_rate_counts_outcomes() -> None:
    assert Rate.of([True, False, True]) == Rate(2, 3)


@pytest.mark.parametrize(("hits", "n"), [(2, 1), (-1, 1), (0, -1)])
def test_impossible_counts_are_refused(hits: int, n: int) -> None:
    with pytest.raises(ValueError, match="0 <= hits <= n"):
        Rate(hits, n)


@pytest.mark.parametrize(
    ("table", "mean", "low", "high", "p_value"),
    [
        # Response before and after consolidation therapy (Cavo et al. 2012), as worked out in Fagerland, Lydersen
        # and Laake, Statistical Analysis of Contingency Tables (2017), chapter 8.
        ((59, 6, 16, 80), 0.0621, 0.0046, 0.1186, 0.0525),
        # Airway hyper-responsiveness before and after transplantation (Bentur et al. 2009), same source.
        ((1, 1, 7, 12), 0.2857, 0.0256, 0.5069, 0.0703),
    ],
)
def test_paired_difference_equals_published_examples(
    table: tuple[int, int, int, int], mean: float, low: float, high: float, p_value: float
) -> None:
    found = paired_difference(*outcomes(*table))
    assert (found.mean, found.low, found.high, found.p_value) == pytest.approx((mean, low, high, p_value), abs=5e-5)


def test_swapping_before_and_after_mirrors_the_difference() -> None:
    before, after = outcomes(20, 9, 3, 18)
    there, back = paired_difference(before, after), paired_difference(after, before)
    assert (back.mean, back.low, back.high) == pytest.approx((-there.mean, -there.high, -there.low))
    assert back.p_value == pytest.approx(there.p_value)


def test_pairing_narrows_the_interval_of_items_that_agree() -> None:
    together = paired_difference(*outcomes(40, 10, 0, 50))
    apart = paired_difference(*outcomes(20, 30, 20, 30))
    assert together.mean == apart.mean
    assert together.high - together.low < apart.high - apart.low


def test_no_change_is_no_evidence() -> None:
    same = paired_difference([True, False, True], [True, False, True])
    assert (same.mean, same.p_value) == (0.0, 1.0)
    assert same.low < 0.0 < same.high
    nothing = paired_difference([], [])
    assert (nothing.mean, nothing.low, nothing.high, nothing.p_value) == (0.0, -1.0, 1.0, 1.0)


def test_items_must_be_paired() -> None:
    with pytest.raises(ValueError, match="shorter"):
        paired_difference([True, False], [True])


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    chances = (0.35, 0.30, 0.10, 0.25)  # both, lost, gained, neither: the truth is 0.10 - 0.30
    covered = 0
    for _ in range(400):
        both, lost, gained, neither = (int(count) for count in rng.multinomial(60, chances))
        found = paired_difference(*outcomes(both, lost, gained, neither))
        covered += found.low <= -0.20 <= found.high
    assert 0.92 <= covered / 400 <= 0.99


@pytest.mark.parametrize(
    ("one", "other", "low", "high"),
    [
        # Newcombe 1998, Statistics in Medicine 17:873-890, table II, method 10.
        ((56, 70), (48, 80), 0.0524, 0.3339),
        ((9, 10), (3, 10), 0.1705, 0.8090),
        ((6, 7), (2, 7), 0.0582, 0.8062),
        ((5, 56), (0, 29), -0.0381, 0.1926),
        ((0, 10), (0, 20), -0.1611, 0.2775),
        ((0, 10), (0, 10), -0.2775, 0.2775),
        ((10, 10), (0, 20), 0.6791, 1.0000),
        ((10, 10), (0, 10), 0.6075, 1.0000),
    ],
)
def test_independent_difference_equals_published_examples(
    one: tuple[int, int], other: tuple[int, int], low: float, high: float
) -> None:
    found = independent_difference(Rate(*one), Rate(*other))
    assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)
    assert found.value == pytest.approx(one[0] / one[1] - other[0] / other[1])


def test_a_difference_to_nothing_says_that_nothing_is_known() -> None:
    assert independent_difference(Rate(3, 4), Rate(0, 0)) == Estimate(0.0, -1.0, 1.0)


def test_subtracting_symmetric_estimates_adds_their_variances() -> None:
    found = subtract(Estimate(0.5, 0.2, 0.8), Estimate(0.1, -0.3, 0.5))
    assert (found.value, found.low, found.high) == pytest.approx((0.4, -0.1, 0.9))


def test_subtracting_takes_each_limit_from_the_side_that_moves_it() -> None:
    found = subtract(Estimate(0.5, 0.5, 0.8), Estimate(0.1, 0.1, 0.5))
    assert (found.value - found.low, found.high - found.value) == pytest.approx((0.4, 0.3))
