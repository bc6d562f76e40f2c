"""The table of a study: every number of its runs' result files, over the runs of each preset.

Pure: documents in, a document out, which is written as `study.json`. Each number comes with its mean over runs, the
spread between them, an interval that holds the spread and the noise of the held-out seeds (`spread.py`), and each
run's value.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np

from magic_rl.errors import UserError
from magic_rl.evaluation.spread import (
    OverRuns,
    SeedNoise,
    Table,
    crossed_noise,
    difference_over_runs,
    rate_over_runs,
    shared_noise,
)

_OUTCOME = {"asr": "escaped", "compliance": "answered"}  # what the rates of summary.json count in outcomes.json
_FROM = {"asr": ("asr",), "compliance": ("compliance",), "j": ("asr", "compliance")}

Document = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class RunResult:
    """The result files of a finished run.

    Attributes:
        name: Of its directory.
        preset: Of its config.
        rng_seed: Of its config.
        summary: `summary.json`.
        outcomes: `outcomes.json`, if there is one.
        attack: `attack.json`, if there is one.
    """

    name: str
    preset: str
    rng_seed: int
    summary: Document
    outcomes: Document | None = None
    attack: Document | None = None


def aggregate(results: Sequence[RunResult]) -> dict[str, Any]:
    """All numbers over runs, by preset.

    Args:
        results: In the order in which presets are to be shown; of a preset, by rng seed.

    Returns:
        `{"presets": {NAME: {"rng_seeds", "split", "held_out", "asr", "compliance", "j", "change", "attackers",
        "attack"}}}`: everything below "asr" and so on is as in summary.json and attack.json with `OverRuns.as_dict` for
        each number; changes also say in how many runs the whole interval is "below" 0 and in how many "above".
        "attackers", "degenerate" (replies that are no longer language) and "attack" are there if all runs of the
        preset have them, points of a curve if all were measured.

    Raises:
        UserError: If runs of one preset were not evaluated on the same held-out seeds, attackers and steps.
    """
    presets = {}
    for preset, found in groupby(results, key=lambda result: result.preset):
        runs = list(found)
        _check_alike(runs)
        presets[preset] = _preset(runs)
    return {"presets": presets}


def _check_alike(runs: Sequence[RunResult]) -> None:
    """Numbers of different things have no mean."""
    first = runs[0]
    for run in runs[1:]:
        if run.rng_seed == first.rng_seed:
            raise UserError(f"{run.name}: {first.name} has the same preset and seed; remove one of them")
        if _keys(run.summary) != _keys(first.summary):
            raise UserError(
                f"{run.name}: its summary.json holds other numbers than {first.name}'s; evaluate both again"
            )
        if run.outcomes and first.outcomes and run.outcomes["seeds"] != first.outcomes["seeds"]:
            raise UserError(f"{run.name}: evaluated on other held-out seeds than {first.name}; a study holds one set")
        if run.attack and first.attack and run.attack["steps"] != first.attack["steps"]:
            raise UserError(
                f"{run.name}: attacked for {run.attack['steps']} steps, {first.name} for {first.attack['steps']}; "
                f"use the same --attack-steps for both"
            )


def _keys(summary: Document) -> list[tuple[str, str, str]]:
    return sorted(
        (measure, who, attacker)
        for measure in _FROM
        for who, row in summary.get(measure, {}).items()
        for attacker in row
    )


def _preset(runs: Sequence[RunResult]) -> dict[str, Any]:
    out: dict[str, Any] = {"rng_seeds": [run.rng_seed for run in runs]}
    seeds = runs[0].outcomes["seeds"] if runs[0].outcomes else {}
    out["split"] = runs[0].summary.get("split", "held_out")
    out["held_out"] = {label: len(ids) for label, ids in seeds.items()}
    summary = runs[0].summary
    for measure in _FROM:
        out[measure] = {
            who: {attacker: _level(runs, measure, who, attacker) for attacker in row}
            for who, row in summary.get(measure, {}).items()
        }
    out["change"] = {
        measure: {attacker: _change(runs, measure, attacker) for attacker in row}
        for measure, row in summary.get("change", {}).items()
    }
    if all(run.summary.get("attackers") for run in runs):
        out["attackers"] = {
            attacker: {
                name: _rates([run.summary["attackers"].get(attacker, {}).get(name) for run in runs]) for name in row
            }
            for attacker, row in summary["attackers"].items()
        }
    if all(run.summary.get("replies") for run in runs):
        out["degenerate"] = {
            who: _rates([run.summary["replies"][who]["degenerate"] for run in runs]) for who in summary["replies"]
        }
    attacks = [run.attack for run in runs if run.attack]
    if len(attacks) == len(runs):
        out["attack"] = _attack(attacks)
    return out


def _level(runs: Sequence[RunResult], measure: str, who: str, attacker: str) -> dict[str, Any] | None:
    """A rate or J of one defender under one attacker."""
    cells = [run.summary[measure][who][attacker] for run in runs]

    def outcomes(name: str) -> Table | None:
        return _table(runs, name, who, attacker)

    if measure == "j":
        return _over_runs(cells, "value", _tables(measure, outcomes), difference_over_runs)
    return _over_runs(cells, "rate", _tables(measure, outcomes), rate_over_runs)


def _change(runs: Sequence[RunResult], measure: str, attacker: str) -> dict[str, Any] | None:
    """What training changed, each run against its own start."""
    cells = [run.summary["change"][measure][attacker] for run in runs]

    def outcomes(name: str) -> Table | None:
        start, trained = (_table(runs, name, who, attacker) for who in ("start", "trained"))
        return None if start is None or trained is None else trained - start

    reach = float(len(_FROM[measure]))  # J is a difference of two rates and changes by up to 2

    def over_runs(values: Sequence[float], noise: SeedNoise) -> OverRuns:
        return difference_over_runs(values, noise, (-reach, reach))

    found = _over_runs(cells, "mean", _tables(measure, outcomes), over_runs)
    if found is None:
        return None
    return {
        **found,
        "below": sum(cell["high"] < 0 for cell in cells),
        "above": sum(cell["low"] > 0 for cell in cells),
    }


def _attack(attacks: Sequence[Document]) -> dict[str, Any]:
    """A fresh attacker's success over its steps, its best of k, and trained against start."""
    out: dict[str, Any] = {"steps": attacks[0]["steps"], "defenders": {}}
    for who, defender in attacks[0]["defenders"].items():
        of_runs = [attack["defenders"][who] for attack in attacks]
        rates = [{point["step"]: point["asr"] for point in each["curve"]} for each in of_runs]
        out["defenders"][who] = {
            "curve": [
                {"step": step, "asr": _rates([of_run[step] for of_run in rates])}
                for step in rates[0]
                if all(step in of_run for of_run in rates)  # runs may have been measured at different steps
            ],
            "best_of": {k: _rates([each["best_of"].get(k) for each in of_runs]) for k in defender["best_of"]},
        }

    def ratio(values: Sequence[float], noise: SeedNoise) -> OverRuns:
        return difference_over_runs(values, noise, (0.0, float("inf")))

    ratios = [attack.get("ratio") or {} for attack in attacks]
    known = [each for each in ratios if None not in (each.get("value"), each.get("low"), each.get("high"))]
    n = min((points[-1]["asr"]["n"] for points in _curves(attacks)), default=1)
    out["ratio"] = _over_runs(known, "value", None, ratio, n) if known else None
    return out


def _curves(attacks: Sequence[Document]) -> Iterator[Sequence[Document]]:
    for attack in attacks:
        for defender in attack["defenders"].values():
            yield defender["curve"]


def _rates(cells: Sequence[Document | None]) -> dict[str, Any] | None:
    """Rates whose single outcomes are not kept."""
    known = [cell for cell in cells if cell]
    return _over_runs(known, "rate", None, rate_over_runs) if known else None


def _over_runs(
    cells: Sequence[Document],
    key: str,
    tables: Sequence[Table] | None,
    over_runs: Callable[[Sequence[float], SeedNoise], OverRuns],
    n: int = 0,
) -> dict[str, Any] | None:
    """A number over runs; None if it was measured in none of them.

    Args:
        cells: One per run, with the number under `key` and its interval within the run.
        tables: Outcomes of single seeds, one row per run; None if they are not known.
        n: Held-out seeds, where neither tables nor cells say.
    """
    places = [i for i, cell in enumerate(cells) if cell.get("n", 1)]  # with n = 0 nothing was measured
    if not places:
        return None
    if tables is not None:
        noise = crossed_noise([table[places] for table in tables])
    else:
        widths = [cells[i]["high"] - cells[i]["low"] for i in places]
        noise = shared_noise(widths, min(cells[i].get("n", n) for i in places) or 1)
    return over_runs([float(cells[i][key]) for i in places], noise).as_dict()


def _tables(measure: str, outcomes: Callable[[str], Table | None]) -> list[Table] | None:
    """Outcomes of single seeds that a measure is made of, if all of them are known."""
    tables = [table for part in _FROM[measure] if (table := outcomes(_OUTCOME[part])) is not None]
    return tables if len(tables) == len(_FROM[measure]) else None


def _table(runs: Sequence[RunResult], name: str, who: str, attacker: str) -> Table | None:
    """Outcomes of every held-out seed in every run, shape (R, S): the mean over attacks on it, NaN if there is none."""
    rows = []
    for run in runs:
        seeds = run.outcomes[name].get(who, {}).get(attacker) if run.outcomes else None
        if not seeds:
            return None
        rows.append([_share(outcomes) for outcomes in seeds])
    return np.array(rows, dtype=np.float64)


def _share(outcomes: Sequence[bool | None]) -> float:
    known = [outcome for outcome in outcomes if outcome is not None]
    return sum(known) / len(known) if known else float("nan")


def dump(study: Document) -> bytes:
    """`study.json`: the same bytes for the same runs."""
    return json.dumps(study, indent=1, allow_nan=False).encode() + b"\n"
