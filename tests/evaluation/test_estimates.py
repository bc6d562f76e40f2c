"""Rates, differences, ratios and attack@k against published numbers, scipy, the bootstrap and simulation."""

from __future__ import annotations

import itertools
import math

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats

from magic_rl.evaluation.estimates import (
    Estimate,
    attack_at_k,
    difference,
    paired_change,
    rate,
    rate_of,
    seed_rate,
    seed_ratio,
)


def outcomes(both: int, lost: int, gained: int, neither: int) -> tuple[list[bool], list[bool]]:
    """Before and after, from the counts of a paired 2 x 2 table."""
    before = [True] * (both + lost) + [False] * (gained + neither)
    after = [True] * both + [False] * lost + [True] * gained + [False] * neither
    return before, after


def bounds(found: Estimate) -> tuple[float, float, float]:
    return found.value, found.low, found.high


def test_a_rate_has_the_wilson_interval_of_scipy() -> None:
    for hits, n in [(0, 12), (1, 1), (7, 40), (12, 12), (500, 1000)]:
        known = stats.binomtest(hits, n).proportion_ci(0.95, method="wilson")
        assert bounds(rate(hits, n)) == pytest.approx((hits / n, known.low, known.high), abs=1e-12)


def test_nothing_measured_says_that_nothing_is_known() -> None:
    assert rate(0, 0) == seed_rate([]) == attack_at_k([], 4) == Estimate(0.0, 0.0, 1.0, 0)
    assert difference(rate(3, 4), rate(0, 0)) == Estimate(0.0, -1.0, 1.0, 0)
    assert paired_change([], []) == Estimate(0.0, -1.0, 1.0, 0, 1.0)


def test_a_rate_counts_the_outcomes_that_are_known() -> None:
    assert rate_of([True, False, None, True]) == rate(2, 3)


@pytest.mark.parametrize(("hits", "n"), [(2, 1), (-1, 1), (0, -1)])
def test_impossible_counts_are_refused(hits: int, n: int) -> None:
    with pytest.raises(ValueError, match="0 <= hits <= n"):
        rate(hits, n)


@pytest.mark.parametrize(
    ("table", "expected", "p_value"),
    [
        # Response before and after consolidation therapy (Cavo et al. 2012), as worked out in Fagerland, Lydersen
        # and Laake, Statistical Analysis of Contingency Tables (2017), chapter 8.
        ((59, 6, 16, 80), (0.0621, 0.0046, 0.1186), 0.0525),
        # Airway hyper-responsiveness before and after transplantation (Bentur et al. 2009), same source.
        ((1, 1, 7, 12), (0.2857, 0.0256, 0.5069), 0.0703),
    ],
)
def test_a_paired_change_equals_published_examples(
    table: tuple[int, int, int, int], expected: tuple[float, float, float], p_value: float
) -> None:
    before, after = outcomes(*table)
    found, back = paired_change(before, after), paired_change(after, before)
    assert (*bounds(found), found.p_value) == pytest.approx((*expected, p_value), abs=5e-5)
    assert bounds(back) == pytest.approx((-found.value, -found.high, -found.low))
    assert back.p_value == pytest.approx(p_value, abs=5e-5)


def test_pairing_narrows_the_interval_of_items_that_agree() -> None:
    together = paired_change(*outcomes(40, 10, 0, 50))
    apart = paired_change(*outcomes(20, 30, 20, 30))
    assert together.value == pytest.approx(apart.value)
    assert together.high - together.low < apart.high - apart.low


def test_few_items_show_a_change_only_where_the_exact_test_does() -> None:
    for n in range(1, 7):
        for both, lost, gained in itertools.product(range(n + 1), repeat=3):
            if (neither := n - both - lost - gained) >= 0:
                found = paired_change(*outcomes(both, lost, gained, neither))
                exact = stats.binomtest(gained, lost + gained).pvalue if lost + gained else 1.0
                assert found.low <= found.value <= found.high
                assert (found.low <= 0 <= found.high) == (exact > 0.05)


def test_no_change_is_no_evidence_and_items_must_be_paired() -> None:
    same = paired_change([True, False, True, None], [True, False, True, True])
    assert (same.value, same.n, same.p_value) == (0.0, 3, 1.0)
    assert same.low < 0.0 < same.high
    with pytest.raises(ValueError, match="shorter"):
        paired_change([True, False], [True])


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    chances = (0.35, 0.30, 0.10, 0.25)  # both, lost, gained, neither: the truth is 0.10 - 0.30
    covered = 0
    for _ in range(400):
        both, lost, gained, neither = (int(count) for count in rng.multinomial(60, chances))
        found = paired_change(*outcomes(both, lost, gained, neither))
        covered += found.low <= -0.20 <= found.high
    assert 0.92 <= covered / 400 <= 0.99


def test_attacks_that_end_alike_on_a_seed_tell_no_more_than_one() -> None:
    for table in [(20, 12, 4, 24), (0, 3, 0, 17), (5, 0, 0, 15), (0, 20, 0, 0)]:
        before, after = outcomes(*table)
        seeds = [str(place) for place in range(len(before))]
        once = paired_change(before, after, seeds)
        often = paired_change(before * 8, after * 8, seeds * 8)
        assert (*bounds(often), often.n, often.p_value) == pytest.approx((*bounds(once), once.n, once.p_value))
        assert bounds(rate_of(before * 8, seeds * 8)) == pytest.approx(bounds(rate_of(before)))
        assert bounds(once) == pytest.approx(bounds(paired_change(before, after)))


def test_with_many_seeds_a_change_has_the_cluster_robust_interval() -> None:
    rng = np.random.default_rng(4)
    chances, attacks = rng.beta(0.6, 0.9, 3000), rng.integers(1, 8, 3000)
    seeds = [str(place) for place in np.repeat(np.arange(3000), attacks)]
    before = rng.random(len(seeds)) < np.repeat(chances, attacks)
    after = rng.random(len(seeds)) < np.repeat(0.5 * chances**2, attacks)
    found = paired_change(before.tolist(), after.tolist(), seeds)
    moved = np.bincount(np.repeat(np.arange(3000), attacks), after.astype(float) - before)
    error = math.sqrt(float(((moved - found.value * attacks) ** 2).sum())) / attacks.sum()
    assert found.value == pytest.approx(moved.sum() / attacks.sum())
    assert (found.value - found.low, found.high - found.value) == pytest.approx((1.96 * error,) * 2, rel=0.01)


@pytest.mark.parametrize(
    ("seeds", "attacks", "start", "end"), [(12, 4, 0.4, 0.1), (30, 4, 0.1, 0.03), (60, 16, 0.3, 0.3)]
)
def test_a_change_covers_the_truth_with_several_attacks_per_seed(
    seeds: int, attacks: int, start: float, end: float
) -> None:
    rng = np.random.default_rng(5)
    names = [str(place) for place in range(seeds) for _ in range(attacks)]
    covered = naive = 0
    for _ in range(400):
        easy = rng.random(seeds)  # how easily a seed is broken, before and mostly after, too
        later = np.where(rng.random(seeds) < 0.7, easy, rng.random(seeds))
        chances = [stats.beta.ppf(of, p / 2, (1 - p) / 2)[:, None] for of, p in ((easy, start), (later, end))]
        before, after = ((rng.random((seeds, attacks)) < chance).ravel().tolist() for chance in chances)
        found, flat = paired_change(before, after, names), paired_change(before, after)
        covered += found.low <= end - start <= found.high
        naive += flat.low <= end - start <= flat.high
    assert covered / 400 >= 0.92
    assert naive / 400 < 0.9  # as if each attack were an independent observation


@pytest.mark.parametrize(
    ("one", "other", "low", "high"),
    [
        # Newcombe 1998, Statistics in Medicine 17:873-890, table II, method 10.
        ((56, 70), (48, 80), 0.0524, 0.3339),
        ((9, 10), (3, 10), 0.1705, 0.8090),
        ((5, 56), (0, 29), -0.0381, 0.1926),
        ((0, 10), (0, 20), -0.1611, 0.2775),
        ((10, 10), (0, 20), 0.6791, 1.0000),
    ],
)
def test_a_difference_of_rates_equals_published_examples(
    one: tuple[int, int], other: tuple[int, int], low: float, high: float
) -> None:
    found = difference(rate(*one), rate(*other))
    assert bounds(found) == pytest.approx((one[0] / one[1] - other[0] / other[1], low, high), abs=5e-5)
    assert found.n == min(one[1], other[1])


def test_a_difference_takes_each_limit_from_the_side_that_moves_it() -> None:
    found = difference(Estimate(0.5, 0.5, 0.8, 1), Estimate(0.1, 0.1, 0.5, 1))
    assert (found.value - found.low, found.high - found.value) == pytest.approx((0.4, 0.3))


def attacks(rng: np.random.Generator, chances: npt.NDArray[np.float64], n: int = 16) -> list[tuple[int, int]]:
    """Successes of n attacks on each seed, where each seed has its own probability."""
    return [(int(hits), n) for hits in rng.binomial(n, chances)]


def test_attack_at_k_is_the_share_of_all_k_subsets_with_a_success() -> None:
    for n, hits, k in [(6, 0, 2), (6, 1, 4), (7, 3, 3), (5, 5, 1), (5, 4, 5), (16, 2, 4)]:
        outcomes = [True] * hits + [False] * (n - hits)
        subsets = list(itertools.combinations(outcomes, k))
        assert attack_at_k([(hits, n)], k).value == pytest.approx(sum(any(chosen) for chosen in subsets) / len(subsets))


def test_a_seed_counts_once_with_any_number_of_attacks() -> None:
    once = [(1, 1)] * 3 + [(0, 1)] * 9
    often = [(16, 16)] * 3 + [(0, 16)] * 9
    assert attack_at_k(often, 1) == attack_at_k(once, 1)
    assert attack_at_k(often, 1).n == 12


def test_one_attack_per_seed_gives_wilsons_interval() -> None:
    for hits in (0, 1, 30, 40):
        found, known = seed_rate([1.0] * hits + [0.0] * (40 - hits)), rate(hits, 40)
        assert (found.value, found.n) == (known.value, known.n)
        assert (found.low, found.high) == pytest.approx((known.low, known.high), abs=1e-12)


@pytest.mark.parametrize("k", [1, 4, 16])
def test_nothing_in_1728_attacks_is_a_bound_for_108_seeds(k: int) -> None:
    found = attack_at_k([(0, 16)] * 108, k)
    assert attack_at_k([(16, 16)] * 108, k).low == pytest.approx(1 - found.high)
    assert (found.value, found.low) == (0.0, 0.0)
    assert found.high == pytest.approx(rate(0, 108).high)
    assert found.high == pytest.approx(0.034, abs=5e-4)


def test_seeds_with_too_few_attacks_are_left_out() -> None:
    assert attack_at_k([(3, 3)], 4).n == 0
    assert attack_at_k([(3, 3), (0, 4), (4, 4)], 4).n == 2


@pytest.mark.parametrize("k", [1, 4])
@pytest.mark.parametrize("spread", [0.3, 3.0, 1000.0])
def test_the_interval_covers_the_truth_however_alike_attacks_on_a_seed_are(k: int, spread: float) -> None:
    rng = np.random.default_rng(1)
    a, b = 0.2 * spread, 0.8 * spread
    at_k = 1 - math.exp(
        math.lgamma(b + k) + math.lgamma(a + b) - math.lgamma(a + b + k) - math.lgamma(b)
    )  # E[1 − (1 − p)^k] of a beta distribution
    covered = naive = 0
    for _ in range(500):
        counts = attacks(rng, rng.beta(a, b, 54))
        found = attack_at_k(counts, k)
        covered += found.low <= at_k <= found.high
        flat = rate(sum(hits for hits, _ in counts), sum(n for _, n in counts))
        naive += flat.low <= a / (a + b) <= flat.high
    assert covered / 500 >= 0.92
    if spread == 0.3:
        assert naive / 500 < 0.6  # as if each attack were an independent observation


@pytest.mark.parametrize(("start", "factor"), [(0.5, 0.4), (0.3, 1.0), (0.15, 0.5)])
def test_the_interval_of_a_ratio_covers_the_truth(start: float, factor: float) -> None:
    rng = np.random.default_rng(3)
    covered = 0
    for _ in range(500):
        chances = rng.beta(start * 2, (1 - start) * 2, 60)
        before = (rng.random(60) < chances).astype(float)
        after = (rng.random(60) < factor * chances).astype(float)
        found = seed_ratio(after.tolist(), before.tolist())
        covered += found is None or found.low <= factor <= found.high
    assert 0.92 <= covered / 500 <= 0.995


def test_a_ratio_of_0_has_a_bound_and_one_over_0_is_none() -> None:
    some, none = [1.0] * 20 + [0.0] * 34, [0.0] * 54
    found = seed_ratio(none, some)
    assert found is not None
    assert (found.value, found.low) == (0.0, 0.0)
    assert rate(0, 54).high / rate(20, 54).high < found.high < rate(0, 54).high / rate(20, 54).low
    assert seed_ratio(some, none) is None
    assert seed_ratio([], []) is None
    with pytest.raises(ValueError, match="same seeds"):
        seed_ratio(some, none[1:])


@pytest.mark.parametrize("n", [1, 2, 5])
def test_a_ratio_over_few_seeds_still_holds_its_value(n: int) -> None:
    for one, other in itertools.product(itertools.product([0.0, 1.0], repeat=n), repeat=2):
        found = seed_ratio(one, other)
        if found is not None:
            assert 0 <= found.low <= found.value < found.high < math.inf
