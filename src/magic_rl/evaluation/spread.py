"""A number measured in several runs: its mean, its spread, and an interval that covers both kinds of noise.

Another training run would give another number, and so would other held-out seeds. All runs of a study are evaluated on
the *same* seeds, so both an interval over run means (it treats seeds as fixed) and one over all replies (it treats them
as independent) would be wrong. Here runs and seeds are crossed random factors, like readers and cases in studies of
medical imaging, where the method comes from.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import t

from magic_rl.evaluation.estimates import NORMAL, wilson

PerSeed = npt.NDArray[np.float64]  # (R, S): runs × held-out seeds

_DIGITS = 6  # decimals of the written numbers, which are then the same on every machine


@dataclass(frozen=True, slots=True)
class SeedNoise:
    """The variance that the choice of held-out seeds, common to all runs, adds to a mean over runs."""

    n: int  # number of held-out seeds; with several sets, of the smallest
    terms: tuple[tuple[float, float], ...]  # one (variance, degrees of freedom) per set of seeds


@dataclass(frozen=True, slots=True)
class OverRuns:
    """A number over runs, rounded to six decimals."""

    value: float  # mean of the values
    sd: float | None  # their standard deviation; None for a single run
    low: float | None  # lower 95 % bound of the mean over all possible runs and seeds; None for a single run
    high: float | None  # upper 95 % bound
    values: tuple[float, ...]  # one per run


def crossed_noise(tables: Sequence[PerSeed]) -> SeedNoise:
    """The noise of seeds, from outcomes of the same seeds in several runs.

    For a table of R runs and S seeds it is (MS_S − MS_E) / (R S), or 0 if that is negative: MS_S is the mean square of
    the seeds and MS_E that of the residual, which neither run nor seed explains.

    Args:
        tables: Shape (R, S) each, NaN where an outcome is missing; different tables have independent sets of seeds.
    """
    terms, sizes = [], []
    for table in tables:
        filled = _filled(table)
        runs, seeds = filled.shape
        sizes.append(seeds)
        if runs < 2 or seeds < 2:
            continue  # seeds and residual cannot be told apart
        of_seeds = runs * float(filled.mean(axis=0).var(ddof=1))
        rest = filled - filled.mean(axis=0) - filled.mean(axis=1, keepdims=True) + filled.mean()
        error = float((rest**2).sum()) / ((runs - 1) * (seeds - 1))
        terms.append((max(0.0, of_seeds - error) / (runs * seeds), seeds - 1.0))
    return SeedNoise(max(1, min(sizes)), tuple(terms))


def shared_noise(widths: Sequence[float], n: int) -> SeedNoise:
    """An upper bound on the noise of seeds, for numbers whose outcomes on single seeds are not known.

    All noise within runs is attributed to the seeds, which are the same in all runs. The part that is not theirs is
    counted twice, because it also shows in the spread between runs.

    Args:
        widths: Width of the 95 % interval within each run.
        n: Number of held-out seeds.
    """
    variance = float(np.mean([(width / 2 / NORMAL) ** 2 for width in widths]))
    return SeedNoise(n, ((variance, max(1.0, n - 1.0)),))


def rate_over_runs(values: Sequence[float], noise: SeedNoise) -> OverRuns:
    """A rate in 0…1 over runs.

    The variance is that of `difference_over_runs`. The interval is as in surveys with clusters: Wilson's, with the
    effective sample size p (1 − p) / variance, at most the number of independent replies (Korn and Graubard 1998; Dean
    and Pagano 2015), and with Student's t instead of the normal quantile. It stays inside [0, 1]. A rate of 0 or 1 in
    every run says nothing about its variance; it gets Wilson's interval for as many replies as held-out seeds.
    """
    if len(values) < 2:
        return _rounded(values)
    mean = float(np.mean(values))
    variance, freedom = _variance(values, noise)
    alone, most = mean * (1 - mean), float(len(values) * noise.n)
    if alone <= 0:
        return _rounded(values, wilson(mean, noise.n))
    size = min(alone / variance, most) if variance > 0 else most
    return _rounded(values, wilson(mean, size, float(t.ppf(0.975, freedom))))


def difference_over_runs(
    values: Sequence[float], noise: SeedNoise, bounds: tuple[float, float] = (-1.0, 1.0)
) -> OverRuns:
    """A number that may be negative, such as a change within a run, over runs.

    Model: y_rs = μ + run_r + seed_s + rest_rs, all random, for R runs on the same seeds. The variance of the mean is
    s²/R, with s the standard deviation of the runs' values, which covers run and rest, plus `noise` of the seeds. The
    interval is Student's t with Satterthwaite's degrees of freedom as Hillis gives them (Obuchowski and Rockette 1995;
    Hillis 2007, Statistics in Medicine 26:596–619, for readers × cases), with the seeds' degrees added. Its
    half-width is at least 1/S, the change if one of S held-out seeds had come out differently in all runs.

    It assumes that held-out seeds are independent draws; it ignores what seeds of one category have in common.

    Args:
        values: One per run.
        noise: Noise of the seeds.
        bounds: Smallest and largest possible value.
    """
    if len(values) < 2:
        return _rounded(values)
    mean = float(np.mean(values))
    variance, freedom = _variance(values, noise)
    half = float(t.ppf(0.975, freedom)) * max(math.sqrt(variance), 1 / noise.n)
    return _rounded(values, (max(bounds[0], mean - half), min(bounds[1], mean + half)))


def _variance(values: Sequence[float], noise: SeedNoise) -> tuple[float, float]:
    """Variance of the mean over runs, with its degrees of freedom."""
    terms = [(float(np.var(values, ddof=1)) / len(values), len(values) - 1.0), *noise.terms]
    total = sum(variance for variance, _ in terms)
    if total <= 0:
        return 0.0, len(values) - 1.0
    return total, total**2 / sum(variance**2 / freedom for variance, freedom in terms)


def _filled(table: PerSeed) -> PerSeed:
    """Missing outcomes replaced by their expectation from run and seed (Yates 1933); seeds without any are left out."""
    table = table[:, ~np.isnan(table).all(axis=0)]
    missing = np.isnan(table)
    if not missing.any():
        return table
    rows = np.array([np.nanmean(row) if not np.isnan(row).all() else np.nan for row in table])
    expected = np.nanmean(table, axis=0) + rows[:, None] - np.nanmean(table)
    return np.where(missing, np.where(np.isnan(expected), np.nanmean(table), expected), table)


def _rounded(values: Sequence[float], interval: tuple[float, float] | None = None) -> OverRuns:
    def shown(value: float) -> float:
        return round(value, _DIGITS) + 0.0  # no negative zero

    listed = tuple(map(shown, values))
    low, high = map(shown, interval) if interval else (None, None)
    sd = shown(float(np.std(values, ddof=1))) if interval else None
    return OverRuns(shown(float(np.mean(values))), sd, low, high, listed)
