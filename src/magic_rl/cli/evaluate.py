"""`magic-rl evaluate`."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer

from magic_rl.cli.options import Run
from magic_rl.cli.table import summary_table


def evaluate(
    run: Run,
    again: Annotated[bool, typer.Option("--again", help="Repeat an evaluation that is up to date.")] = False,
) -> None:
    """Play every saved attacker against every saved defender on held-out seeds; print the table and a verdict.

    Writes evaluation.json (all pairs), summary.json (the table), outcomes.json (what came of each seed) and
    failures.json (what escaped or was refused) into the run. If they are up to date, only the table is printed.

    Example:

      magic-rl evaluate runs/demo
    """
    typer.echo(evaluated(run, again=again))


def evaluated(run: Path, *, again: bool = False) -> str:
    """Evaluate a run unless that is up to date, and return its table."""
    from magic_rl.cli.view import make_view
    from magic_rl.evaluation.crossplay import evaluate as crossplay
    from magic_rl.evaluation.outcomes import is_evaluated
    from magic_rl.store.run import RunDirectory

    directory = RunDirectory.open(run)
    if again or not is_evaluated(directory):
        with directory.lock(), make_view() as view:
            crossplay(directory, view)
    return summary_table(directory.read_json("summary.json"), shutil.get_terminal_size((120, 24)).columns)
