"""`magic-rl resume`."""

from __future__ import annotations

import typer

from magic_rl.cli.options import Overrides, Run


def resume(run: Run, overrides: Overrides = None) -> None:
    """Continue a run that was interrupted or killed. It arrives at the same numbers as an unbroken run.

    With --set you can change how players sample and step, the judge, the engine and what is measured from here on.
    Seeds, prompts and models must stay the same.

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
        typer.echo(f"stopped; continue with `magic-rl resume {run}`", err=True)
        raise typer.Exit(130)
