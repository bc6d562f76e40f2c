"""`magic-rl evaluate`."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Annotated

import typer

from magic_rl.cli.options import Run
from magic_rl.cli.table import summary_table

if TYPE_CHECKING:
    from magic_rl.store.run import RunDirectory


def evaluate(
    run: Run,
    again: Annotated[bool, typer.Option("--again", help="Repeat an evaluation that is up to date.")] = False,
) -> None:
    """Play every saved attacker against every saved defender on held-out seeds; print the table and a verdict.

    Writes evaluation.json (all pairs), summary.json (the table) and failures.json (what escaped or was refused) into
    the run. If they are up to date, only the table is printed.

    Example:

      magic-rl evaluate runs/demo
    """
    from magic_rl.cli.view import make_view
    from magic_rl.evaluation.crossplay import evaluate as crossplay
    from magic_rl.store.run import RunDirectory

    directory = RunDirectory.open(run)
    if again or not _up_to_date(directory):
        with directory.lock(), make_view() as view:
            crossplay(directory, view)
    typer.echo(summary_table(directory.read_json("summary.json"), shutil.get_terminal_size((120, 24)).columns))


def _up_to_date(run: RunDirectory) -> bool:
    """Whether all players saved by now were evaluated, by a version that gives a verdict."""
    evaluation, summary = run.read_json("evaluation.json"), run.read_json("summary.json")
    if evaluation is None or "verdict" not in (summary or {}):
        return False
    rewriters = len(evaluation["attackers"]) - 1  # the first row is played without any
    return (rewriters, len(evaluation["defenders"])) == (len(run.players("attacker")), len(run.players("defender")))
