"""What several attacks on one seed come to: attack@k, and intervals in which a seed counts once.

Attacks on the same seed are alike, so a hundred attacks on ten seeds are closer to ten observations than to a hundred.
Every number here is first computed seed by seed and then averaged over seeds; its interval comes from how much the
seeds differ. Intervals are 95 % and need no random draws.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from magic_rl.evaluation.metrics import Estimate

_Z = float(norm.ppf(0.975))

Count = tuple[int, int]  # of one seed: attacks that succeeded, attacks that were judged


@dataclass(frozen=True, slots=True)
class SeedRate:
    """A mean over seeds of shares in 0–1, with its interval.

    Attributes:
        rate: The mean; 0 if there are no seeds.
        n: Seeds.
        low: Lower 95 % bound.
        high: Upper 95 % bound.
    """

    rate: float
    n: int
    low: float
    high: float

    def as_dict(self) -> dict[str, float | int]:
        """For JSON: `{"rate", "n", "low", "high"}`, as `Rate.as_dict`."""
        return {"rate": self.rate, "n": self.n, "low": self.low, "high": self.high}


def best_of(counts: Sequence[Count], k: int) -> SeedRate:
    """attack@k: how likely at least one of k attacks on a seed succeeds, averaged over seeds.

    Of a seed with c successes among n attacks it is 1 − C(n−c, k) / C(n, k), which is unbiased for every k ≤ n (Chen et
    al. 2021, arXiv 2107.03374, where it is pass@k). Seeds with fewer than k judged attacks are left out, and `n` says
    how many are left.

    Args:
        counts: One pair per seed.
        k: Attacks that the attacker may try.
    """
    enough = [(hits, n) for hits, n in counts if n >= k]
    values = [1 - math.comb(n - hits, k) / math.comb(n, k) for hits, n in enough]
    return seed_rate(values, min((n // k for _, n in enough), default=1))


def seed_rate(values: Sequence[float], draws: int = 1) -> SeedRate:
    """The mean over seeds, with Wilson's interval at the effective sample size.

    The effective size is p (1 − p) / Var(mean), the variance being that between seeds: the number of independent
    attacks that would tell as much (Wilson's interval for clustered samples, as in Franco, Little, Louis and Slud 2019,
    J. Survey Statistics and Methodology 7:334–364). It lies between the number of seeds, where attacks on a seed
    all end alike, and the number of attacks, where seeds make no difference. Where every attack succeeded, or none,
    nothing shows how much seeds differ, and each counts once. With one attack per seed this is Wilson's interval, also
    at 0 and 1, where a bootstrap has no width.

    Args:
        values: A share in 0–1 per seed.
        draws: Independent draws behind each value, at most: what each seed counts for if seeds do not differ.
    """
    n = len(values)
    if not n:
        return SeedRate(0.0, 0, 0.0, 1.0)
    p, between = float(np.mean(values)), float(np.var(values))
    size = float(n if p in (0.0, 1.0) else n * draws)
    if between > 0:
        size = min(size, n * p * (1 - p) / between)
    low, high = _wilson(p, size)
    return SeedRate(p, n, min(low, p), max(high, p))


def seed_ratio(one: Sequence[float], other: Sequence[float], draws: int = 1) -> Estimate | None:
    """`one` / `other`, both means over the same seeds.

    The interval is MOVER-R (Donner and Zou 2012, Statistical Methods in Medical Research 21:347–359): the limits of
    both means, joined by their correlation over seeds. It has a width also where `one` is 0 or both are the same.

    Args:
        one: A share in 0–1 per seed.
        other: The same seeds in the same order.
        draws: As in `seed_rate`.

    Returns:
        None if `other` is 0 throughout, or there are no seeds.

    Raises:
        ValueError: If the two differ in length.
    """
    if len(one) != len(other):
        raise ValueError(f"a ratio needs the same seeds above and below, not {len(one)} and {len(other)}")
    top, bottom = seed_rate(one, draws), seed_rate(other, draws)
    if not bottom.rate:
        return None
    rho = _correlation(one, other)
    product = top.rate * bottom.rate

    # Each limit is a root of D·T² − 2·A·T + C = 0, written so that neither divides by a D that may be 0 or negative.
    c, d = top.low * (2 * top.rate - top.low), bottom.high * (2 * bottom.rate - bottom.high)
    a = product - rho * (top.rate - top.low) * (bottom.high - bottom.rate)
    low = c / (a + math.sqrt(max(0.0, a * a - c * d))) if c > 0 else 0.0
    c, d = top.high * (2 * top.rate - top.high), bottom.low * (2 * bottom.rate - bottom.low)
    a = product - rho * (top.high - top.rate) * (bottom.rate - bottom.low)
    high = (a + math.sqrt(max(0.0, a * a - c * d))) / d
    value = top.rate / bottom.rate
    return Estimate(value, min(low, value), max(high, value))


def _correlation(one: Sequence[float], other: Sequence[float]) -> float:
    """Over seeds; 0 if either is the same everywhere. Shrunk where positive, as Newcombe's φ in `paired_difference`."""
    covariance = float(np.mean(np.multiply(one, other)) - np.mean(one) * np.mean(other))
    if covariance > 0:
        covariance = max(covariance - 1 / (2 * len(one)), 0.0)
    spread = float(np.std(one) * np.std(other))
    return covariance / spread if spread else 0.0


def _wilson(p: float, n: float) -> tuple[float, float]:
    """Wilson's score interval for a sample size that need not be whole."""
    middle = p + _Z**2 / (2 * n)
    half = _Z * math.sqrt(p * (1 - p) / n + _Z**2 / (4 * n * n))
    scale = 1 + _Z**2 / n
    return max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)
