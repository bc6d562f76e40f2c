"""`magic-rl cross`."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Annotated

import typer

from magic_rl.cli.evaluate import evaluation_of
from magic_rl.cli.options import Overrides
from magic_rl.cli.shown import columns
from magic_rl.errors import UserError
from magic_rl.store.run import RunDirectory


def cross(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN", help="Run directories, two or more.", show_default=False)
    ],
    overrides: Overrides = None,
) -> None:
    """Play the last attacker of each run against the trained defender of every run; print who withstands whom.

    All runs must hold out the same seeds. Results against another run's attacker are kept under the defending run's
    evaluations/, so the same command continues. A run without an attacker, such as no-game, only defends.

    Examples:

      magic-rl cross runs/magic runs/no-game

      magic-rl cross runs/a runs/b runs/c --evaluation.max_seeds 100
    """
    runs = list({run.resolve(): run for run in runs}.values())
    if len(runs) < 2:
        raise UserError("give at least two runs")

    from magic_rl.evaluation.result import BETTER, MEASURES, Evaluation, Measure
    from magic_rl.report.tables import Line, laid_out, shown
    from magic_rl.runs.instead import Instead

    opened = {run: RunDirectory.open(run) for run in runs}
    armed = [run for run in runs if opened[run].players("attacker")]
    if not armed:
        raise UserError(f"{runs[0]}: has no attacker, nor has any other of these runs; add one that does")
    settings, met = tuple(overrides or ()), dict[tuple[Path, Path], Evaluation]()
    for attacker, defender in product(armed, runs):
        lent = None if attacker == defender else opened[attacker]
        met[attacker, defender] = evaluation_of(defender, Instead(attackers=lent, settings=settings))
    measures: tuple[Measure, ...] = ("asr", "compliance")
    names = [run.resolve().name for run in runs]
    named = {run: name if names.count(name) == 1 else str(run) for run, name in zip(runs, names, strict=True)}
    lines: list[Line] = [("rows attack, columns defend, %", *named.values())]
    for measure in measures:
        lines.append((f"{MEASURES[measure]} {BETTER[measure]}",))
        lines += [
            (named[run], *(shown(met[run, other].table[measure]["trained"].get("last_attacker")) for other in runs))
            for run in armed
        ]
    typer.echo(laid_out(lines, columns(80)))
