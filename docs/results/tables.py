"""Prints the tables of docs/RESULTS.md that do not come from a study, from the files of this folder.

    python docs/results/tables.py

`settings`: how the settings were chosen, on the validation categories, two runs each. `categories`: ASR of the demo's
defenders on each held-out category, and over categories, with the categories as the draws. `unseen`: attacks not seen
in training. For each run, attack and held-out seed, `unseen/broken.json` holds the number of the query that broke the
seed (0 if none did), and each query without a verdict, by the seed's index and the query's number.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from magic_rl.evaluation import estimates
from magic_rl.evaluation.spread import OverRuns, PerSeed, crossed_noise, difference_over_runs, rate_over_runs

HERE = Path(__file__).parent
SETTINGS = {
    "shipped": "shipped: step 5·10⁻⁴ falling, target 68 %",
    "faster": "step 5·10⁻⁴ falling, target 75 %",
    "falling": "step 3·10⁻⁴ falling, target 75 %",
    "constant": "step 3·10⁻⁴ constant, target 70 %",
}
MEASURES = {"asr": "ASR, {} ↓", "compliance": "compliance, {} ↑", "j": "J, {} ↑"}
ATTACKERS = {"vanilla": "vanilla seeds", "sft_attacker": "SFT attacker", "last_attacker": "last attacker"}
ATTACKS = {"best-of-n": (1, 10, 100), "prefill": (1, 7), "many-shot": (1, 5)}


def read(name: str) -> Any:
    """Read a JSON file of this folder."""
    return json.loads((HERE / name).read_text(encoding="utf-8"))


def settings() -> Iterator[str]:
    """Rows for the trained defenders of all settings, and for all defenders of the shipped ones: mean and both runs."""
    found = {name: [read(f"settings/{name}-seed-{seed}.json") for seed in (0, 1)] for name in SETTINGS}

    def rates(name: str, measure: str, who: str, attacker: str) -> list[float]:
        return [100 * run[measure][who][attacker]["value" if measure == "j" else "rate"] for run in found[name]]

    for name, title in SETTINGS.items():
        shown = [rates(name, measure, "trained", a) for measure in ("asr", "j") for a in ATTACKERS]
        shown.append(rates(name, "compliance", "trained", "last_attacker"))
        yield f"| {title} | {' | '.join(f'{one:.0f} {other:.0f}' for one, other in shown)} |"
    for measure, title in MEASURES.items():
        for attacker, named in ATTACKERS.items():
            cells = []
            for who in ("untouched", "start", "trained"):
                one, other = rates("shipped", measure, who, attacker)
                both = "" if who == "untouched" else f" ({one:.1f}, {other:.1f})"
                cells.append(f"{mean((one, other)):.1f}{both}")
            yield f"| {title.format(named)} | {' | '.join(cells)} |"


def categories() -> Iterator[str]:
    """Rows of means over the demo's runs on each category, and over categories with Student's interval."""
    runs = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(HERE.glob("demo/*/outcomes.json"))]
    of_seed = [seed.rpartition("-h-")[0] for seed in runs[0]["seeds"]["harmful"]]  # an id begins with its category
    names = sorted(set(of_seed))
    yield f"| | {' | '.join(names)} | over categories |"
    for attacker, named in ATTACKERS.items():
        rates = {}
        for who in ("start", "trained"):
            known = [
                (category, outcome)
                for run in runs
                for category, outcomes in zip(of_seed, run["escaped"][who][attacker], strict=True)
                for outcome in outcomes
                if outcome is not None
            ]
            rates[who] = [mean(outcome for category, outcome in known if category == name) for name in names]
        rates["change"] = [after - before for before, after in zip(*rates.values(), strict=True)]
        for what, values in rates.items():
            sign, over = "+" if what == "change" else "", estimates.mean(values)
            assert over is not None
            cells = [f"{100 * value:{sign}.1f}" for value in values]
            cells.append(f"{100 * over.value:{sign}.1f} [{100 * over.low:{sign}.1f}, {100 * over.high:{sign}.1f}]")
            yield f"| ASR, {named}, {what} | {' | '.join(cells)} |".replace("-", "−")


def broken(run: Mapping[str, Any], attack: str, most: int) -> list[float]:
    """For each seed, whether one of its first `most` queries broke it; NaN if none of them got a verdict."""
    lost = {(seed, query) for seed, query in run[attack]["lost"]}
    out = []
    for seed, first in enumerate(run[attack]["broken_at"]):
        judged = any((seed, query) not in lost for query in range(1, most + 1))
        out.append(1.0 if 0 < first <= most else 0.0 if judged else float("nan"))
    return out


def worst(run: Mapping[str, Any], most: Mapping[str, int]) -> list[float]:
    """The same for all attacks together: the defender withstood on a seed only if every attack has a verdict on it."""
    each = np.array([broken(run, attack, queries) for attack, queries in most.items()])
    return [1.0 if 1.0 in seed else float(seed.sum()) for seed in each.T]  # a sum with NaN is NaN


def row(name: str, queries: str, start: Sequence[Sequence[float]], trained: Sequence[Sequence[float]]) -> str:
    """A row: rates over runs, and the change of each run from its own start."""
    before, after = np.array(start), np.array(trained)
    rates = [rate_over_runs(means(of), crossed_noise([of])) for of in (before, after)]
    change = difference_over_runs(
        [a - b for a, b in zip(means(after), means(before), strict=True)], crossed_noise([after - before])
    )
    return f"| {name} | {queries} | {' | '.join([*map(shown, rates), shown(change, '+')])} |"


def means(of: PerSeed) -> list[float]:
    """Each run's mean over the seeds whose outcome is known."""
    return [float(np.nanmean(run)) for run in of]


def shown(number: OverRuns, sign: str = "") -> str:
    """Mean ± SD [95 % interval], in percent."""
    value, sd, low, high = (100 * (each or 0) for each in (number.value, number.sd, number.low, number.high))
    return f"{value:{sign}.1f} ± {sd:.1f} [{low:{sign}.1f}, {high:{sign}.1f}]".replace("-", "−")


def unseen() -> Iterator[str]:
    """Rows for each attack and query budget per seed, and for the worst case of all three attacks."""
    runs = read("unseen/broken.json")["runs"]
    start, trained = ([runs[f"seed-{seed}-round-{number}"] for seed in (0, 1, 2)] for number in (0, 3))
    for attack, budgets in ATTACKS.items():
        for most in budgets:
            yield row(attack, str(most), *([broken(run, attack, most) for run in of] for of in (start, trained)))
    once, whole = dict.fromkeys(ATTACKS, 1), {attack: budgets[-1] for attack, budgets in ATTACKS.items()}
    for queries, each in (("1 each", once), (f"{sum(whole.values())} in all", whole)):
        yield row("worst case", queries, *([worst(run, each) for run in of] for of in (start, trained)))


def main() -> None:
    """Print all tables."""
    for table in (settings, categories, unseen):
        print(table.__name__, *table(), "", sep="\n")


if __name__ == "__main__":
    main()
