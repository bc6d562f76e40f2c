"""A number measured in several runs: its mean, its spread, and an interval that holds both kinds of noise.

Another training run would come out differently, and so would other held-out seeds. All runs of a study are evaluated
on the *same* seeds, so neither an interval over run means (it takes the seeds for fixed) nor one over all replies (it
takes runs and seeds for independent) is honest. Here runs and seeds are crossed random factors, as readers and cases
are in studies of medical imaging, from where the method comes.
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

_DIGITS = 6  # of the numbers written: the same on every machine


@dataclass(frozen=True, slots=True)
class SeedNoise:
    """What the choice of held-out seeds, common to all runs, adds to the variance of a mean over runs."""

    n: int  # held-out seeds; of several sets, those of the smallest
    terms: tuple[tuple[float, float], ...]  # one (variance, degrees of freedom) per set of seeds


@dataclass(frozen=True, slots=True)
class OverRuns:
    """A number over runs, rounded to six decimals."""

    value: float  # mean of the values
    sd: float | None  # their standard deviation; None for a single run
    low: float | None  # lower 95 % bound of the mean over all runs and seeds there could be; None for a single run
    high: float | None  # upper 95 % bound
    values: tuple[float, ...]  # one per run


def crossed_noise(tables: Sequence[PerSeed]) -> SeedNoise:
    """The noise of seeds, from outcomes of the same seeds in several runs.

    For a table of R runs and S seeds it is (MS_S − MS_E) / (R S), or 0 if that is negative: MS_S is the mean square of
    the seeds and MS_E that of what neither run nor seed explains.

    Args:
        tables: Shape (R, S) each, NaN where an outcome is missing; independent sets of seeds in different tables.
    """
    terms, sizes = [], []
    for table in tables:
        filled = _filled(table)
        runs, seeds = filled.shape
        sizes.append(seeds)
        if runs < 2 or seeds < 2:
            continue  # nothing to tell seeds and the rest apart by
        of_seeds = runs * float(filled.mean(axis=0).var(ddof=1))
        rest = filled - filled.mean(axis=0) - filled.mean(axis=1, keepdims=True) + filled.mean()
        error = float((rest**2).sum()) / ((runs - 1) * (seeds - 1))
        terms.append((max(0.0, of_seeds - error) / (runs * seeds), seeds - 1.0))
    return SeedNoise(max(1, min(sizes)), tuple(terms))


def shared_noise(widths: Sequence[float], n: int) -> SeedNoise:
    """The most that the noise of seeds can be, where outcomes of single seeds are not known.

    All noise within runs is taken to be the seeds', and so the same in all runs; it is in part counted twice, as what
    is not the seeds' also shows in the spread between runs.

    Args:
        widths: Of the 95 % interval within each run.
        n: Held-out seeds.
    """
    variance = float(np.mean([(width / 2 / NORMAL) ** 2 for width in widths]))
    return SeedNoise(n, ((variance, max(1.0, n - 1.0)),))


def rate_over_runs(values: Sequence[float], noise: SeedNoise) -> OverRuns:
    """A rate in 0…1 over runs.

    The variance is that of `difference_over_runs`. It becomes an interval as in surveys with clusters: Wilson's, with
    the effective sample size p (1 − p) / variance, at most that of independent replies (Korn and Graubard 1998; Dean
    and Pagano 2015), and Student's t for the normal quantile. It stays inside [0, 1]. A rate of 0 or 1 in every run
    says nothing of its variance; it gets Wilson's interval of as many replies as there are held-out seeds.
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
    s²/R, with s the standard deviation of the runs' values, which holds run and rest, plus `noise` of the seeds. The
    interval is Student's t with Satterthwaite's degrees of freedom as Hillis gives them (Obuchowski and Rockette 1995;
    Hillis 2007, Statistics in Medicine 26:596–619, for readers × cases), the seeds' own degrees added. It is never
    narrower than if one held-out seed had come out otherwise in all runs.

    It assumes that held-out seeds are independent draws: what seeds of one category have in common is not in it.

    Args:
        values: One per run.
        noise: Of the seeds.
        bounds: What the number cannot leave.
    """
    if len(values) < 2:
        return _rounded(values)
    mean = float(np.mean(values))
    variance, freedom = _variance(values, noise)
    half = float(t.ppf(0.975, freedom)) * max(math.sqrt(variance), 1 / noise.n)
    return _rounded(values, (max(bounds[0], mean - half), min(bounds[1], mean + half)))


def _variance(values: Sequence[float], noise: SeedNoise) -> tuple[float, float]:
    """Of the mean over runs, with its degrees of freedom."""
    terms = [(float(np.var(values, ddof=1)) / len(values), len(values) - 1.0), *noise.terms]
    total = sum(variance for variance, _ in terms)
    if total <= 0:
        return 0.0, len(values) - 1.0
    return total, total**2 / sum(variance**2 / freedom for variance, freedom in terms)


def _filled(table: PerSeed) -> PerSeed:
    """Missing outcomes as run and seed let expect them (Yates 1933); seeds without any outcome left out."""
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
