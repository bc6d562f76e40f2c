"""`magic-rl evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from magic_rl.cli.options import Run
from magic_rl.cli.shown import columns


def evaluate(
    run: Run,
    again: Annotated[bool, typer.Option("--again", help="Repeat an evaluation that is up to date.")] = False,
) -> None:
    """Play every saved attacker against every saved defender on held-out seeds; print the table and a verdict.

    Writes evaluation.json (every number), outcomes.json (what came of each seed) and failures.json (what escaped or
    was refused) into the run. If they are up to date, only the table is printed.

    Example:

      magic-rl evaluate runs/demo
    """
    typer.echo(evaluated(run, again=again))


def evaluated(run: Path, *, again: bool = False) -> str:
    """Evaluate a run unless that is up to date, and return its table."""
    from magic_rl.cli.view import make_view
    from magic_rl.evaluation.result import current_evaluation
    from magic_rl.report.tables import evaluation_table
    from magic_rl.runs.evaluate import evaluate as play_all
    from magic_rl.store.run import RunDirectory

    directory = RunDirectory.open(run)
    found = None if again else current_evaluation(directory)
    if found is None:
        with directory.lock(), make_view() as view:
            found = play_all(directory, view)
    return evaluation_table(found, columns(80))
