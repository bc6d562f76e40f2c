"""attack@k and intervals in which a seed counts once, against enumeration, the bootstrap and simulation."""

from __future__ import annotations

import itertools
import math

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats

from magic_rl.evaluation.best_of import SeedRate, best_of, seed_rate, seed_ratio
from magic_rl.evaluation.metrics import Rate


def attacks(rng: np.random.Generator, chances: npt.NDArray[np.float64], n: int = 16) -> list[tuple[int, int]]:
    """Successes of n attacks on each seed, which has a chance of its own."""
    return [(int(hits), n) for hits in rng.binomial(n, chances)]


def test_attack_at_k_is_the_share_of_all_k_subsets_with_a_success() -> None:
    for n, hits, k in [(6, 0, 2), (6, 1, 4), (7, 3, 3), (5, 5, 1), (5, 4, 5), (16, 2, 4)]:
        outcomes = [True] * hits + [False] * (n - hits)
        subsets = list(itertools.combinations(outcomes, k))
        assert best_of([(hits, n)], k).rate == pytest.approx(sum(any(chosen) for chosen in subsets) / len(subsets))


def test_attack_at_k_is_unbiased() -> None:
    n, p = 16, 0.13
    for k in (1, 4, 16):
        expected = sum(stats.binom.pmf(hits, n, p) * best_of([(hits, n)], k).rate for hits in range(n + 1))
        assert expected == pytest.approx(1 - (1 - p) ** k)


def test_a_seed_counts_once_whatever_the_number_of_its_attacks() -> None:
    once = [(1, 1)] * 3 + [(0, 1)] * 9
    often = [(16, 16)] * 3 + [(0, 16)] * 9
    assert best_of(often, 1) == best_of(once, 1)
    assert best_of(often, 1).n == 12


def test_one_attack_per_seed_gives_wilsons_interval() -> None:
    for hits in (0, 1, 30, 40):
        found, known = seed_rate([1.0] * hits + [0.0] * (40 - hits)), Rate(hits, 40)
        assert (found.rate, found.n) == (known.rate, known.n)
        assert (found.low, found.high) == pytest.approx((known.low, known.high), abs=1e-12)


@pytest.mark.parametrize("k", [1, 4, 16])
def test_nothing_in_1728_attacks_is_a_bound_for_108_seeds(k: int) -> None:
    found = best_of([(0, 16)] * 108, k)
    assert best_of([(16, 16)] * 108, k).low == pytest.approx(1 - found.high)
    assert (found.rate, found.low) == (0.0, 0.0)
    assert found.high == pytest.approx(Rate(0, 108).high)
    assert found.high == pytest.approx(0.034, abs=5e-4)


def test_no_seeds_say_nothing_and_too_few_attacks_leave_a_seed_out() -> None:
    assert best_of([], 4) == best_of([(3, 3)], 4) == SeedRate(0.0, 0, 0.0, 1.0)
    assert best_of([(3, 3), (0, 4), (4, 4)], 4).n == 2


@pytest.mark.parametrize("k", [1, 4, 16])
def test_the_interval_is_about_that_of_a_bootstrap_over_seeds(k: int) -> None:
    rng = np.random.default_rng(0)
    counts = attacks(rng, rng.beta(0.4, 0.8, 300))
    found = best_of(counts, k)
    values = [1 - math.comb(n - hits, k) / math.comb(n, k) for hits, n in counts]
    known = stats.bootstrap((values,), np.mean, method="BCa", rng=rng).confidence_interval
    assert (found.low, found.high) == pytest.approx((known.low, known.high), abs=0.006)


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
        found = best_of(counts, k)
        covered += found.low <= at_k <= found.high
        flat = Rate(sum(hits for hits, _ in counts), sum(n for _, n in counts))
        naive += flat.low <= a / (a + b) <= flat.high
    assert covered / 500 >= 0.92
    if spread == 0.3:
        assert naive / 500 < 0.6  # as if every attack were an observation of its own


def test_the_interval_of_a_ratio_is_about_that_of_a_bootstrap_over_seeds() -> None:
    rng = np.random.default_rng(2)
    chances = rng.beta(2, 2, 400)
    start, trained = (rng.random((2, 400)) < np.array([chances, 0.5 * chances])).astype(float)
    found = seed_ratio(trained.tolist(), start.tolist())
    assert found is not None

    def ratio(one: npt.NDArray[np.float64], other: npt.NDArray[np.float64], axis: int) -> npt.NDArray[np.float64]:
        return np.asarray(one.mean(axis=axis) / other.mean(axis=axis))

    known = stats.bootstrap((trained, start), ratio, paired=True, rng=rng, method="percentile").confidence_interval
    assert found.value == pytest.approx(trained.sum() / start.sum())
    assert (found.low, found.high) == pytest.approx((known.low, known.high), abs=0.02)


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
    assert Rate(0, 54).high / Rate(20, 54).high < found.high < Rate(0, 54).high / Rate(20, 54).low
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
