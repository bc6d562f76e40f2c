"""Claims about intervals over runs: with few runs they cover the truth as often as they should; simpler ones do not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean, stdev
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy.special import expit
from scipy.stats import t

from magic_rl.evaluation.aggregate import aggregate
from magic_rl.evaluation.estimates import Estimate, rate, rate_of
from magic_rl.evaluation.spread import (
    OverRuns,
    SeedNoise,
    crossed_noise,
    difference_over_runs,
    rate_over_runs,
    shared_noise,
)
from tests.support.study_runs import result

Array = npt.NDArray[np.float64]
REPEATS = 600
DRAWN = 400_000  # draws that give the true rate


class World:
    """Outcomes whose logit is the sum of normal effects of run, seed and chance, for a pair of defenders per run."""

    def __init__(self, logit: float, of_runs: float, of_seeds: float, gain: float = 0.0) -> None:
        self.logit, self.of_runs, self.of_seeds, self.gain = logit, of_runs, of_seeds, gain
        self.rng = np.random.default_rng(0)
        parts = self.rng.normal(0, math.hypot(of_runs, of_seeds, 0.5), DRAWN)
        self.rate = float(expit(logit + parts).mean())
        trained = self.rng.normal(0, math.hypot(1.4 * of_runs, of_seeds, 0.5), DRAWN)
        self.change = float(expit(logit - gain + trained).mean()) - self.rate

    def draw(self, runs: int, seeds: int) -> tuple[Array, Array]:
        """Outcomes of the same seeds in each run, at the start and after training, shape (R, S) each."""
        run = self.rng.normal(0, self.of_runs, (2, runs, 1))
        seed, rest = self.rng.normal(0, self.of_seeds, seeds), self.rng.normal(0, 0.5, (runs, seeds))
        start = expit(self.logit + run[0] + seed + rest)
        moved = self.logit - self.gain + run[0] + math.sqrt(1.4**2 - 1) * run[1] + seed + rest
        return tuple((self.rng.random((2, runs, seeds)) < np.stack([start, expit(moved)])).astype(float))


@pytest.mark.parametrize("runs", [3, 5])
@pytest.mark.parametrize(("logit", "of_runs", "of_seeds"), [(-1, 0.3, 1), (-1, 0.3, 2.5), (-2.5, 0.6, 1), (0, 0, 1)])
def test_a_rate_is_covered_with_few_runs_and_both_kinds_of_noise(
    runs: int, logit: float, of_runs: float, of_seeds: float
) -> None:
    world = World(logit, of_runs, of_seeds)
    hits = []
    for _ in range(REPEATS):
        table, _ = world.draw(runs, 54)
        found = rate_over_runs([float(row.mean()) for row in table], crossed_noise([table]))
        hits.append(covers(found.low, world.rate, found.high))
    assert 0.92 <= fmean(hits) <= 0.995


@pytest.mark.parametrize("runs", [3, 5])
@pytest.mark.parametrize(("of_runs", "of_seeds"), [(0.3, 1), (0.6, 1), (0.3, 2.5)])
def test_a_change_is_covered_with_few_runs_and_both_kinds_of_noise(runs: int, of_runs: float, of_seeds: float) -> None:
    world = World(-0.5, of_runs, of_seeds, gain=1.0)
    hits = []
    for _ in range(REPEATS):
        start, trained = world.draw(runs, 54)
        change = trained - start
        found = difference_over_runs([float(row.mean()) for row in change], crossed_noise([change]))
        hits.append(covers(found.low, world.change, found.high))
    assert 0.92 <= fmean(hits) <= 0.99


def test_an_interval_that_forgets_one_kind_of_noise_covers_too_little() -> None:
    world = World(-1, 0.5, 2.5)
    both, runs_alone, replies_alone = [], [], []
    for _ in range(REPEATS):
        table, _ = world.draw(5, 54)
        means = [float(row.mean()) for row in table]
        found = rate_over_runs(means, crossed_noise([table]))
        both.append(covers(found.low, world.rate, found.high))
        half = float(t.ppf(0.975, 4)) * stdev(means) / math.sqrt(5)
        runs_alone.append(abs(fmean(means) - world.rate) <= half)
        pooled = rate(int(table.sum()), table.size)
        replies_alone.append(covers(pooled.low, world.rate, pooled.high))
    assert fmean(both) > 0.92
    assert fmean(runs_alone) < 0.9
    assert fmean(replies_alone) < 0.75


def test_unknown_outcomes_give_the_wider_interval() -> None:
    world = World(-1, 0.3, 1)
    covered, wider = [], []
    for _ in range(REPEATS):
        table, _ = world.draw(5, 54)
        rates = [rate_of(row > 0) for row in table]
        found = rate_over_runs([r.value for r in rates], shared_noise([r.high - r.low for r in rates], 54))
        covered.append(covers(found.low, world.rate, found.high))
        known = rate_over_runs([r.value for r in rates], crossed_noise([table]))
        wider.append(width(found) > width(known))
    assert fmean(covered) > 0.94
    assert fmean(wider) > 0.7


def test_where_seeds_do_not_differ_it_is_students_interval_of_the_runs() -> None:
    values = [-0.3, -0.1, -0.25, -0.2]
    found = difference_over_runs(values, SeedNoise(1000, ()))
    half = float(t.ppf(0.975, 3)) * stdev(values) / 2
    assert (found.low, found.high) == pytest.approx((fmean(values) - half, fmean(values) + half), abs=1e-6)
    assert found.sd == pytest.approx(stdev(values), abs=1e-6)


def test_nothing_in_any_run_is_a_bound_and_not_a_certainty() -> None:
    none = np.zeros((3, 54))
    found = rate_over_runs([0.0] * 3, crossed_noise([none]))
    assert (found.value, found.low) == (0.0, 0.0)
    assert found.high == pytest.approx(rate(0, 54).high, abs=1e-6)
    assert difference_over_runs([0.0] * 3, crossed_noise([none])).high == pytest.approx(
        float(t.ppf(0.975, 2)) / 54, abs=1e-6
    )


def test_a_single_run_has_no_spread_and_no_interval() -> None:
    found = rate_over_runs([0.25], crossed_noise([np.array([[0.0, 1.0, 0.0, 0.0]])]))
    assert (found.value, found.sd, found.low, found.high) == (0.25, None, None, None)


def test_a_silent_judge_leaves_the_others_outcomes_to_count() -> None:
    table, _ = World(-1, 0.5, 1).draw(4, 80)
    holed = table.copy()
    holed[np.random.default_rng(1).random(table.shape) < 0.05] = np.nan
    holed[:, 3] = np.nan
    whole, some = crossed_noise([table]), crossed_noise([holed])
    assert some.n == 79
    assert some.terms[0][0] == pytest.approx(whole.terms[0][0], rel=0.5)


# The document


def test_every_number_of_the_result_files_is_in_the_study() -> None:
    runs = [result(rng_seed) for rng_seed in range(4)]
    found = aggregate(runs).presets["magic"]

    def holds(number: OverRuns, cells: Sequence[Estimate]) -> None:
        values = [cell.value for cell in cells]
        assert number.values == pytest.approx(values, abs=1e-6)
        assert (number.value, number.sd) == pytest.approx((fmean(values), stdev(values)), abs=1e-6)
        assert covers(number.low, number.value, number.high)

    for measure, grid in found.table.items():
        for who, row in grid.items():
            for attacker, number in row.items():
                holds(number, [run.evaluation.table[measure][who][attacker] for run in runs])
        for attacker, change in found.change[measure].items():
            cells = [run.evaluation.change[measure][attacker] for run in runs]
            holds(change, cells)
            assert change.below == sum(cell.high < 0 for cell in cells)
            assert change.above == sum(cell.low > 0 for cell in cells)
    assert found.attack is not None
    assert found.attack.ratio is not None
    holds(found.attack.ratio, [run.attack.ratio for run in runs if run.attack and run.attack.ratio])
    assert list(found.attack.defenders["trained"].curve) == [0, 2, 4]
    assert (found.held_out.harmful, found.held_out.benign) == (40, 40)


def test_what_only_some_runs_have_is_left_out() -> None:
    runs = [result(rng_seed) for rng_seed in range(3)]
    assert aggregate([runs[0], replace(runs[1], attack=None)]).presets["magic"].attack is None
    unknown = [replace(run, attack=run.attack and run.attack.model_copy(update={"ratio": None})) for run in runs]
    found = aggregate(unknown).presets["magic"].attack
    assert found is not None
    assert found.ratio is None


def test_curves_measured_at_different_steps_keep_the_common_ones() -> None:
    runs = [result(rng_seed) for rng_seed in range(3)]
    attack = runs[2].attack
    assert attack is not None
    ends = {
        who: each.model_copy(update={"curve": {step: each.curve[step] for step in (0, 4)}})
        for who, each in attack.defenders.items()
    }
    runs[2] = replace(runs[2], attack=attack.model_copy(update={"defenders": ends}))
    found = aggregate(runs).presets["magic"].attack
    assert found is not None
    assert list(found.defenders["trained"].curve) == [0, 4]


def covers(low: float | None, value: float, high: float | None) -> bool:
    assert low is not None
    assert high is not None
    return low <= value <= high


def width(found: Any) -> float:
    return float(found.high - found.low)
