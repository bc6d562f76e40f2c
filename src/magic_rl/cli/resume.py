"""`magic-rl resume`."""

from __future__ import annotations

import typer

from magic_rl.cli.options import Overrides, Run


def resume(run: Run, overrides: Overrides = None) -> None:
    """Go on with a run that was interrupted or killed. It arrives at the numbers of an unbroken run.

    How players speak and step, the judge, the engine and what is measured may be changed from here on with --set.
    Seeds, prompts and models must be those that the run was begun with.

    Examples:

      magic-rl resume runs/demo

      magic-rl resume runs/demo --set attacker.sampling.max_tokens=256
    """
    from magic_rl.cli.view import make_view
    from magic_rl.runs.progress import is_complete
    from magic_rl.runs.train import resume as go_on

    with make_view() as view:
        trained = go_on(run, view, overrides or ())
    if not is_complete(trained):
        typer.echo(f"stopped; go on with `magic-rl resume {run}`", err=True)
        raise typer.Exit(130)
