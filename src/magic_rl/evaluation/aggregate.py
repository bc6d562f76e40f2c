"""The numbers of a study: the numbers of its runs' result files, over the runs of each preset.

Pure: results in, a result out. Each number has its mean over runs, the spread between them, an interval that covers
the spread and the noise of the held-out seeds (`spread.py`), and each run's value.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import groupby
from typing import Literal, TypeVar

import numpy as np

from magic_rl.errors import StoreError
from magic_rl.evaluation.estimates import Estimate
from magic_rl.evaluation.result import (
    Attacker,
    AttackOnOne,
    AttackResult,
    ChangeOverRuns,
    Defender,
    Evaluation,
    Measure,
    Outcomes,
    PresetResult,
    StudyResult,
)
from magic_rl.evaluation.spread import (
    OverRuns,
    PerSeed,
    SeedNoise,
    crossed_noise,
    difference_over_runs,
    rate_over_runs,
    shared_noise,
)

# The outcomes that each measure is computed from.
_PARTS: dict[Measure, tuple[Literal["escaped", "answered"], ...]] = {
    "asr": ("escaped",),
    "compliance": ("answered",),
    "j": ("escaped", "answered"),
}
_K = TypeVar("_K")
_Make = Callable[[Sequence[float], SeedNoise], OverRuns]


@dataclass(frozen=True, slots=True)
class RunResult:
    """The result files of a finished run."""

    name: str  # of its directory
    preset: str  # of its config
    rng_seed: int  # of its config
    evaluation: Evaluation
    outcomes: Outcomes
    attack: AttackResult[Estimate] | None = None


def aggregate(results: Sequence[RunResult]) -> StudyResult:
    """All numbers over runs, by preset, without those that no run measured.

    Args:
        results: Results in the order of presets, those of one preset by rng seed.

    Raises:
        StoreError: If runs of one preset were not evaluated on the same held-out seeds, attackers and steps.
    """
    presets = {}
    for preset, found in groupby(results, key=lambda result: result.preset):
        runs = list(found)
        _check_alike(runs)
        presets[preset] = _preset(runs)
    return StudyResult(presets=presets)


def _check_alike(runs: Sequence[RunResult]) -> None:
    """Refuse runs whose numbers are of different things, because these have no mean."""
    first = runs[0]
    for run in runs[1:]:
        if run.rng_seed == first.rng_seed:
            raise StoreError(f"{run.name}: {first.name} has the same preset and seed; remove one of them")
        if _places(run) != _places(first):
            raise StoreError(f"{run.name}: its evaluation holds other numbers than {first.name}'s; evaluate both again")
        if run.outcomes.seeds != first.outcomes.seeds:
            raise StoreError(f"{run.name}: evaluated on other held-out seeds than {first.name}; a study holds one set")
        if run.attack and first.attack and run.attack.steps != first.attack.steps:
            raise StoreError(
                f"{run.name}: a fresh attacker learned for {run.attack.steps} steps, of {first.name} for "
                f"{first.attack.steps}",
                "same attack steps",
            )


def _places(run: RunResult) -> set[tuple[Measure, Defender, Attacker]]:
    table = run.evaluation.table
    return {
        (measure, who, attacker) for measure, grid in table.items() for who, row in grid.items() for attacker in row
    }


def _preset(runs: Sequence[RunResult]) -> PresetResult:
    first, evaluations = runs[0].evaluation, [run.evaluation for run in runs]
    table: dict[Measure, dict[Defender, dict[Attacker, OverRuns]]] = {}
    change: dict[Measure, dict[Attacker, ChangeOverRuns]] = {}
    for measure, grid in first.table.items():
        make = difference_over_runs if measure == "j" else rate_over_runs
        table[measure] = {who: {} for who in grid}
        for who, row in grid.items():
            for attacker in row:
                cells = [each.table[measure][who][attacker] for each in evaluations]
                if found := _over_runs(cells, make, _outcomes(runs, measure, who, attacker)):
                    table[measure][who][attacker] = found
        of_measure = {attacker: _change(runs, measure, attacker) for attacker in first.change[measure]}
        change[measure] = {attacker: found for attacker, found in of_measure.items() if found}
    attacks = [run.attack for run in runs if run.attack]
    return PresetResult(
        rng_seeds=[run.rng_seed for run in runs],
        held_out=first.held_out,
        table=table,
        change=change,
        rewrites={
            attacker: _in_all([each.rewrites.get(attacker, {}) for each in evaluations]) for attacker in first.rewrites
        },
        degenerate=_in_all([{who: each.degenerate for who, each in run.replies.items()} for run in evaluations]),
        attack=_attack(attacks) if len(attacks) == len(runs) else None,
    )


def _change(runs: Sequence[RunResult], measure: Measure, attacker: Attacker) -> ChangeOverRuns | None:
    """What training changed, comparing each run with its own start."""
    cells = [run.evaluation.change[measure][attacker] for run in runs]
    start, trained = (_outcomes(runs, measure, who, attacker) for who in ("start", "trained"))
    reach = float(len(_PARTS[measure]))  # J is a difference of two rates and changes by up to 2
    make = partial(difference_over_runs, bounds=(-reach, reach))
    found = _over_runs(cells, make, [after - before for before, after in zip(start, trained, strict=True)])
    if found is None:
        return None
    below, above = sum(cell.high < 0 for cell in cells), sum(cell.low > 0 for cell in cells)
    return ChangeOverRuns(**asdict(found), below=below, above=above)


def _attack(attacks: Sequence[AttackResult[Estimate]]) -> AttackResult[OverRuns]:
    """A fresh attacker's ASR over its steps, its attack@k, and the ratio of trained to start."""
    defenders: dict[Defender, AttackOnOne[OverRuns]] = {}
    for who in attacks[0].defenders:
        of_runs = [attack.defenders[who] for attack in attacks]
        curve, at_k = _in_all([each.curve for each in of_runs]), _in_all([each.attack_at_k for each in of_runs])
        defenders[who] = AttackOnOne(curve=curve, attack_at_k=at_k)

    known = [attack.ratio for attack in attacks if attack.ratio]
    ratio = _over_runs(known, partial(difference_over_runs, bounds=(0.0, float("inf"))))
    return AttackResult(steps=attacks[0].steps, defenders=defenders, ratio=ratio)


def _in_all(rates: Sequence[Mapping[_K, Estimate]]) -> dict[_K, OverRuns]:
    """Rates that all runs have, and whose outcomes on single seeds are not kept."""
    keys = [key for key in rates[0] if all(key in of_run for of_run in rates)]
    found = {key: _over_runs([of_run[key] for of_run in rates], rate_over_runs) for key in keys}
    return {key: number for key, number in found.items() if number}


def _over_runs(cells: Sequence[Estimate], make: _Make, outcomes: Sequence[PerSeed] = ()) -> OverRuns | None:
    """A number over runs, one cell per run; None if no run measured it. `outcomes`: those on single seeds, if known."""
    places = [i for i, cell in enumerate(cells) if cell.n]
    if not places:
        return None
    if outcomes:
        noise = crossed_noise([table[places] for table in outcomes])
    else:
        noise = shared_noise([cells[i].high - cells[i].low for i in places], min(cells[i].n for i in places))
    return make([cells[i].value for i in places], noise)


def _outcomes(runs: Sequence[RunResult], measure: Measure, who: Defender, attacker: Attacker) -> list[PerSeed]:
    """Outcomes on single seeds for a measure: the mean over attacks on each seed, NaN if there is none."""

    def share(outcomes: Sequence[bool | None]) -> float:
        known = [outcome for outcome in outcomes if outcome is not None]
        return sum(known) / len(known) if known else float("nan")

    return [
        np.array([[share(seed) for seed in getattr(run.outcomes, part)[who][attacker]] for run in runs])
        for part in _PARTS[measure]
    ]
