"""`magic-rl drift`."""

from __future__ import annotations

from typing import Annotated

import typer

from magic_rl.cli.options import A_MODEL, Run
from magic_rl.cli.shown import columns
from magic_rl.cli.view import Screen
from magic_rl.store.run import RunDirectory


def drift(
    run: Run,
    model: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help=f"Model that names the classes of attacks: {A_MODEL}"),
    ] = None,
    attacks: Annotated[int, typer.Option(metavar="N", min=2, help="Attacks per round to measure, at most.")] = 100,
) -> None:
    """Measure how the attackers' attacks change from round to round; the report shows it.

    Without a model: self-BLEU and, if the extra `drift` is installed, the distance to the attack pool. With a model,
    also the classes of attacks, and how well the model agrees with people on labelled examples. Writes drift.json.

    Examples:

      magic-rl drift runs/demo

      magic-rl drift runs/demo --model http://localhost:8000/v1
    """
    from magic_rl.report.tables import drift_table
    from magic_rl.runs.drift import measure_drift

    directory = RunDirectory.open(run)
    with directory.lock(), Screen() as view:
        found = measure_drift(directory, model, attacks, view)
    typer.echo(drift_table(found, columns(80)))
