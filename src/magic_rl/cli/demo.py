"""`magic-rl demo`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from magic_rl.cli.evaluate import evaluation_of
from magic_rl.cli.options import Overrides
from magic_rl.cli.report import report
from magic_rl.cli.shown import columns
from magic_rl.cli.stopping import CONTINUES, stoppable
from magic_rl.cli.train import to_its_end
from magic_rl.config import load_config, shipped
from magic_rl.store.run import RunDirectory

CONFIG = shipped("demo")


def demo(
    run: Annotated[Path, typer.Option("--run", metavar="DIR", help="Directory of the run.")] = Path("runs/demo"),
    overrides: Overrides = None,
) -> None:
    """Train the demo, evaluate it, write its report and print the table: about 25 minutes on two cores.

    The model, of 135 million parameters, is fetched first if it is not there (93 MB). Ctrl-C finishes the step and
    saves; the same command continues from there. When the run is complete, it only prints the table again.

    Examples:

      magic-rl demo

      magic-rl demo --run runs/demo-1 --set rng_seed=1
    """
    config = load_config(CONFIG, overrides or ())
    made = (run / "config.toml").is_file
    typed = os.environ.get("MAGIC_RL_TYPED")  # set by the Makefile: what its user typed is not this command
    how = f"`{typed}` continues" if typed else CONTINUES
    if begun := made():
        from magic_rl.runs.inputs import refuse_another

        refuse_another(RunDirectory.open(run), config)
        typer.echo(f"continuing {run}, which was begun earlier", err=True)
    with to_its_end(run, how) as view:
        from magic_rl.runs import train

        if begun:
            train.resume(run, view, overrides or ())
        else:
            train.train(config, run, view)
    with stoppable(made, how):
        from magic_rl.report.tables import evaluation_table
        from magic_rl.runs.drift import measure_drift

        table = evaluation_table(evaluation_of(run), columns(80))
        measure_drift(RunDirectory.open(run))
        report(run)
    typer.echo(table)
