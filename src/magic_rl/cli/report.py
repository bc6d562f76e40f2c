"""`magic-rl report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from magic_rl.cli.options import Run
from magic_rl.store.run import RunDirectory


def report(
    run: Run,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where to write it; by default report.html in the run.")
    ] = None,
    show_transcripts: Annotated[
        bool, typer.Option("--show-transcripts", help="Show harmful transcripts, which are redacted otherwise.")
    ] = False,
) -> None:
    """Write one self-contained HTML page: verdict, table, cost, categories, curves, cross-play, failures, episodes.

    How attacks drift is part of it once `magic-rl drift` has measured that.

    Example:

      magic-rl report runs/demo --out demo.html
    """
    from magic_rl.report.page import write_report

    replaced = " (written over an earlier file)" if out and out.exists() else ""
    written = write_report(RunDirectory.open(run), out, show_transcripts=show_transcripts)
    typer.echo(f"report: {written}{replaced}")
