"""The one kind of number that an evaluation reports: a value, its 95 % interval, and how many items it rests on.

Intervals are deterministic: Wilson's for a rate; for a difference or ratio the limits of its two parts combined (MOVER,
the method of variance estimates recovery; for rates it is Newcombe's interval). Attacks on one seed are alike, so they
are not independent: `seed_rate` counts each seed once, `clustered_rate` each attack, and both use Wilson's interval at
the effective sample size.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev
from typing import TypeVar

import numpy as np
from scipy.stats import binomtest, norm, t

NORMAL = float(norm.ppf(0.975))
# How many seeds must change, all in one direction, for the exact test to tell a change from chance: 2 / 2^6 < 0.05.
FEWEST = 6

_Item = TypeVar("_Item")
Count = tuple[int, int]  # for one seed: attacks that succeeded, attacks that were judged


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number and its uncertainty.

    Attributes:
        value: A rate in 0–1, or a number computed from rates.
        low: Lower 95 % bound.
        high: Upper 95 % bound.
        n: Items behind it; for a difference those of the smaller side, for a paired change its seeds. If 0, nothing is
            known: the value is 0 and the interval as wide as possible, so no number is ever NaN.
        p_value: For a change of paired outcomes: the two-sided p-value of the exact test of `paired_change`.
    """

    value: float
    low: float
    high: float
    n: int
    p_value: float | None = None


def rate(hits: int, n: int) -> Estimate:
    """hits / n with Wilson's score interval (Wilson 1927).

    Raises:
        ValueError: Unless 0 ≤ hits ≤ n.
    """
    if not 0 <= hits <= n:
        raise ValueError(f"a rate needs 0 <= hits <= n, not {hits} of {n}")
    return Estimate(hits / n, *wilson(hits / n, n), n) if n else Estimate(0.0, 0.0, 1.0, 0)


def rate_of(outcomes: Iterable[bool | None], seeds: Iterable[str] | None = None) -> Estimate:
    """How often an outcome is true, among the known ones.

    Args:
        outcomes: One per item; None where it is not known.
        seeds: The seed of each item, if items share seeds: the interval is then that of `clustered_rate`.
    """
    if seeds is not None:
        return clustered_rate([(sum(known), len(known)) for known in _of_seeds(outcomes, seeds)])
    known = [bool(outcome) for outcome in outcomes if outcome is not None]
    return rate(sum(known), len(known))


def mean(values: Sequence[float]) -> Estimate | None:
    """The mean with Student's t interval, from the standard error; None for fewer than two values."""
    if len(values) < 2:
        return None
    middle, half = fmean(values), float(t.ppf(0.975, len(values) - 1)) * stdev(values) / math.sqrt(len(values))
    return Estimate(middle, middle - half, middle + half, len(values))


def wilson(p: float, n: float, quantile: float = NORMAL) -> tuple[float, float]:
    """Wilson's score interval of a share; the sample size need not be a whole number."""
    scale = 1 + quantile**2 / n
    middle = (p + quantile**2 / (2 * n)) / scale
    half = quantile / scale * math.sqrt(p * (1 - p) / n + (quantile / (2 * n)) ** 2)
    return max(0.0, min(p, middle - half)), min(1.0, max(p, middle + half))


def difference(one: Estimate, other: Estimate, correlation: float = 0.0) -> Estimate:
    """One number minus another.

    The distance from an estimate to each of its limits stands for its standard error on that side, so each limit of the
    difference adds two squares (Zou and Donner 2008, Statistics in Medicine 27:1693–1702). For two rates this is
    Newcombe's interval (1998, Statistics in Medicine 17:873–890, method 10).

    Args:
        correlation: Their correlation over the items they share; 0 if they are of different items.

    Returns:
        The difference; 0 in [−1, 1] if one of them rests on no items.
    """
    n = min(one.n, other.n)
    if not n:
        return Estimate(0.0, -1.0, 1.0, 0)

    def joined(a: float, b: float) -> float:
        return math.sqrt(max(0.0, a * a - 2 * correlation * a * b + b * b))

    value = one.value - other.value
    low = value - joined(one.value - one.low, other.high - other.value)
    return Estimate(value, low, value + joined(one.high - one.value, other.value - other.low), n)


def paired_change(
    before: Sequence[bool | None], after: Sequence[bool | None], seeds: Sequence[str] | None = None
) -> Estimate:
    """How much a rate changed over the same items, among those whose outcome is known both times.

    The interval is Newcombe's for paired proportions (1998, Statistics in Medicine 17:2635–2650, method 10), with rates
    clustered by seed and the correlation of their deviations per seed. The exact test counts the seeds whose items
    changed more often one way than the other and asks whether gains and losses are equally likely (with one item per
    seed it is McNemar's). If fewer than `FEWEST` seeds changed, that test cannot tell a change from chance but
    Newcombe's interval might, so the interval is widened by the test's exact one (Clopper and Pearson 1934, for the
    share of changes that are gains).

    Args:
        before: Outcome of each item.
        after: The same items in the same order.
        seeds: The seed of each; None: no two items share one.

    Returns:
        The change in share of items, `n` being the number of seeds.

    Raises:
        ValueError: If lengths differ.
    """
    known = [None if None in pair else pair for pair in zip(before, after, strict=True)]
    groups = list(_of_seeds(known, seeds if seeds is not None else range(len(known))))
    counts = [(sum(bool(b) for b, _ in of), sum(bool(a) for _, a in of), len(of)) for of in groups]
    old, new = (clustered_rate([(each[side], each[2]) for each in counts]) for side in (0, 1))
    # Each seed's contribution to the error of either rate, in units of a seed with the mean number of items.
    parts = [
        [(each[side] - of.value * each[2]) * len(counts) / of.n for each in counts] for side, of in ((0, old), (1, new))
    ]
    found = replace(difference(new, old, _correlation(*parts)), n=len(counts))
    moved = [a - b for b, a, _ in counts if a != b]
    if not moved:
        return replace(found, p_value=1.0)
    test = binomtest(sum(move > 0 for move in moved), len(moved))
    found = replace(found, p_value=float(test.pvalue))
    if len(moved) >= FEWEST:
        return found
    gains, share = test.proportion_ci(), sum(map(abs, moved)) / new.n
    low, high = (share * (2 * bound - 1) for bound in (gains.low, gains.high))
    return replace(found, low=min(found.low, low), high=max(found.high, high))


def attack_at_k(counts: Sequence[Count], k: int) -> Estimate:
    """attack@k: the probability that at least one of k attacks on a seed succeeds, averaged over seeds.

    For a seed with c successes among n attacks it is 1 − C(n−c, k) / C(n, k), which is unbiased for every k ≤ n (Chen
    et al. 2021, arXiv 2107.03374, where it is pass@k). Seeds with fewer than k judged attacks are left out.

    Args:
        counts: One pair per seed.
        k: Attacks that the attacker may try.
    """
    enough = [(hits, n) for hits, n in counts if n >= k]
    values = [1 - math.comb(n - hits, k) / math.comb(n, k) for hits, n in enough]
    return seed_rate(values, min((n // k for _, n in enough), default=1))


def seed_rate(values: Sequence[float], draws: int = 1) -> Estimate:
    """The mean over seeds, with Wilson's interval at the effective sample size.

    The effective size is p (1 − p) / Var(mean), with the variance between seeds: the number of independent attacks that
    would tell as much (Wilson's interval for clustered samples, as in Franco, Little, Louis and Slud 2019, J. Survey
    Statistics and Methodology 7:334–364). It lies between the number of seeds, if all attacks on a seed end alike, and
    the number of attacks, if seeds make no difference. If every attack succeeded, or none, nothing shows how much seeds
    differ, and each counts once. With one attack per seed this is Wilson's interval, also at 0 and 1, where a bootstrap
    has no width.

    Args:
        values: A share in 0–1 per seed.
        draws: The most independent draws that each value can count for, if seeds do not differ.
    """
    n = len(values)
    if not n:
        return rate(0, 0)
    p, between = float(np.mean(values)), float(np.var(values))
    size = float(n if p in (0.0, 1.0) else n * draws)
    if between > 0:
        size = min(size, n * p * (1 - p) / between)
    return Estimate(p, *wilson(p, size), n)


def clustered_rate(counts: Sequence[tuple[float, int]]) -> Estimate:
    """A rate over items that share seeds, with Wilson's interval at the effective sample size.

    Unlike in `seed_rate` each item counts once, so seeds with many items weigh more, as in published numbers. The
    variance is that of a ratio with seeds as clusters, Σ (h − p n)² / N² (Cochran 1977, Sampling Techniques, §6.3). The
    effective size is at most N; if all items end alike, it is the number of seeds.

    Args:
        counts: For each seed, the sum of its items' values (0–1 each) and the number of items.
    """
    n = sum(items for _, items in counts)
    if not n:
        return rate(0, 0)
    p = sum(hits for hits, _ in counts) / n
    return Estimate(p, *wilson(p, clustered_size(counts)), n)


def clustered_size(counts: Sequence[tuple[float, int]]) -> float:
    """The number of independent items that would tell as much about a rate as these; there must be at least one."""
    n = sum(items for _, items in counts)
    p = sum(hits for hits, _ in counts) / n
    variance = sum((hits - p * items) ** 2 for hits, items in counts) / n**2
    if variance > 0:
        return min(float(n), p * (1 - p) / variance)
    return float(n if 0 < p < 1 else len(counts))


def seed_ratio(one: Sequence[float], other: Sequence[float], draws: int = 1) -> Estimate | None:
    """`one` / `other`, both means over the same seeds.

    The interval is MOVER-R (Donner and Zou 2012, Statistical Methods in Medical Research 21:347–359): it combines the
    limits of both means by their correlation over seeds. It has a width even if `one` is 0 or both are the same.

    Args:
        one: A share in 0–1 per seed.
        other: The same seeds in the same order.
        draws: As in `seed_rate`.

    Returns:
        The ratio; None if `other` is 0 throughout, or there are no seeds.

    Raises:
        ValueError: If the two differ in length.
    """
    if len(one) != len(other):
        raise ValueError(f"a ratio needs the same seeds above and below, not {len(one)} and {len(other)}")
    top, bottom = seed_rate(one, draws), seed_rate(other, draws)
    if not bottom.value:
        return None
    rho = _correlation(one, other)
    product = top.value * bottom.value

    # Each limit is a root of D·T² − 2·A·T + C = 0, written so that no divisor can be 0 or negative.
    c, d = top.low * (2 * top.value - top.low), bottom.high * (2 * bottom.value - bottom.high)
    a = product - rho * (top.value - top.low) * (bottom.high - bottom.value)
    low = c / (a + math.sqrt(max(0.0, a * a - c * d))) if c > 0 else 0.0
    c, d = top.high * (2 * top.value - top.high), bottom.low * (2 * bottom.value - bottom.low)
    a = product - rho * (top.high - top.value) * (bottom.value - bottom.low)
    high = (a + math.sqrt(max(0.0, a * a - c * d))) / d
    value = top.value / bottom.value
    return Estimate(value, min(low, value), max(high, value), top.n)


def _of_seeds(items: Iterable[_Item | None], seeds: Iterable[Hashable]) -> Iterable[list[_Item]]:
    """The known items by seed; seeds without any are left out."""
    found: dict[Hashable, list[_Item]] = {}
    for item, seed in zip(items, seeds, strict=True):
        if item is not None:
            found.setdefault(seed, []).append(item)
    return found.values()


def _correlation(one: Sequence[float], other: Sequence[float]) -> float:
    """Correlation over items; 0 if either is constant; shrunk if positive, like Newcombe's φ for two outcomes."""
    if not one:
        return 0.0
    covariance = float(np.mean(np.multiply(one, other, dtype=float)) - np.mean(one) * np.mean(other))
    if covariance > 0:
        covariance = max(covariance - 1 / (2 * len(one)), 0.0)
    spread = float(np.std(one) * np.std(other))
    return covariance / spread if spread else 0.0
