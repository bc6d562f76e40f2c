"""Rates and paired differences with their uncertainty. No number of an evaluation is reported without it.

Intervals are 95 % and deterministic: Wilson's for a rate, Newcombe's for the difference of two rates over the
same items or over different ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Self

from scipy.stats import binomtest

_LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Rate:
    """How often something happened, with the Wilson score interval (Wilson 1927).

    With n = 0 nothing is known: the rate is 0 and the interval is all of [0, 1], so no number is ever NaN.
    """

    hits: int
    n: int

    def __post_init__(self) -> None:
        """Raises ValueError unless 0 ≤ hits ≤ n."""
        if not 0 <= self.hits <= self.n:
            raise ValueError(f"a rate needs 0 <= hits <= n, not {self.hits} of {self.n}")

    @classmethod
    def of(cls, outcomes: Iterable[bool]) -> Self:
        """The rate of true values."""
        listed = [bool(outcome) for outcome in outcomes]
        return cls(sum(listed), len(listed))

    @property
    def rate(self) -> float:
        """hits / n."""
        return self.hits / self.n if self.n else 0.0

    @property
    def low(self) -> float:
        """Lower 95 % bound."""
        return self._interval()[0]

    @property
    def high(self) -> float:
        """Upper 95 % bound."""
        return self._interval()[1]

    def as_dict(self) -> dict[str, float | int]:
        """For JSON: `{"rate", "n", "low", "high"}`, rates in 0–1."""
        low, high = self._interval()
        return {"rate": self.rate, "n": self.n, "low": low, "high": high}

    def _interval(self) -> tuple[float, float]:
        if not self.n:
            return 0.0, 1.0
        interval = binomtest(self.hits, self.n).proportion_ci(_LEVEL, method="wilson")
        return float(interval.low), float(interval.high)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number and its 95 % interval."""

    value: float
    low: float
    high: float

    def as_dict(self) -> dict[str, float]:
        """For JSON: `{"value", "low", "high"}`."""
        return {"value": self.value, "low": self.low, "high": self.high}


@dataclass(frozen=True, slots=True)
class Difference:
    """A change of a rate over the same items.

    Attributes:
        mean: Rate after minus rate before, in −1…1.
        low: Lower 95 % bound.
        high: Upper 95 % bound.
        p_value: Of no change, exact McNemar test, two-sided.
    """

    mean: float
    low: float
    high: float
    p_value: float


def mean_interval(values: Sequence[float]) -> dict[str, float | int] | None:
    """Mean of a number an item with its 95 % interval (normal, from the standard error), for JSON.

    Returns:
        `{"mean", "n", "low", "high"}`; None for fewer than two items, which say nothing of their spread.
    """
    n = len(values)
    if n < 2:
        return None
    mean, spread = fmean(values), 1.96 * stdev(values) / math.sqrt(n)
    return {"mean": mean, "n": n, "low": mean - spread, "high": mean + spread}


def paired_difference(before: Sequence[bool], after: Sequence[bool]) -> Difference:
    """How much a rate changed, item by item.

    The interval is Newcombe's square-and-add interval for paired proportions (Newcombe 1998, Statistics in Medicine
    17:2635–2650, method 10): Wilson's limits of both rates, joined by their correlation. The test is McNemar's,
    conditional and exact: a binomial test on the items that changed.

    Args:
        before: One outcome an item.
        after: The same items in the same order.

    Returns:
        The change; with no items 0 in [−1, 1] and p = 1.

    Raises:
        ValueError: If the two differ in length.
    """
    pairs = [(bool(a), bool(b)) for a, b in zip(before, after, strict=True)]
    n = len(pairs)
    if not n:
        return Difference(0.0, -1.0, 1.0, 1.0)
    gained, lost = pairs.count((False, True)), pairs.count((True, False))
    old, new = Rate.of(a for a, _ in pairs), Rate.of(b for _, b in pairs)
    mean = (gained - lost) / n
    phi = _correlation(pairs.count((True, True)), gained, lost, pairs.count((False, False)))
    low = mean - _joined(new.rate - new.low, old.high - old.rate, phi)
    high = mean + _joined(new.high - new.rate, old.rate - old.low, phi)
    p_value = float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0
    return Difference(mean, low, high, p_value)


def independent_difference(one: Rate, other: Rate) -> Estimate:
    """One rate minus another over different items, in −1…1.

    Newcombe's square-and-add interval for independent proportions (Newcombe 1998, Statistics in Medicine 17:873–890,
    method 10): `subtract` on Wilson's limits of both.

    Returns:
        The difference; 0 in [−1, 1] where one of the rates has no items.
    """
    if not one.n or not other.n:
        return Estimate(0.0, -1.0, 1.0)
    return subtract(Estimate(one.rate, one.low, one.high), Estimate(other.rate, other.low, other.high))


def subtract(one: Estimate, other: Estimate) -> Estimate:
    """The difference of two independent estimates by MOVER, the method of variance estimates recovery.

    The distance from an estimate to each of its limits stands for its standard error on that side, so each limit of
    the difference adds two squares (Zou and Donner 2008, Statistics in Medicine 27:1693–1702).
    """
    value = one.value - other.value
    return Estimate(
        value,
        value - math.hypot(one.value - one.low, other.high - other.value),
        value + math.hypot(one.high - one.value, other.value - other.low),
    )


def _joined(one: float, other: float, phi: float) -> float:
    return math.sqrt(max(0.0, one**2 - 2 * phi * one * other + other**2))


def _correlation(both: int, gained: int, lost: int, neither: int) -> float:
    """Newcombe's φ of the 2 × 2 table, shrunk by n/2 where positive; 0 if a margin is empty."""
    n = both + gained + lost + neither
    margins = (both + gained) * (both + lost) * (gained + neither) * (lost + neither)
    product = both * neither - gained * lost
    if not margins:
        return 0.0
    return (max(product - n / 2, 0.0) if product > 0 else product) / math.sqrt(margins)
