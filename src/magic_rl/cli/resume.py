"""`magic-rl resume`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from magic_rl.cli.options import Overrides, Run

if TYPE_CHECKING:
    from magic_rl.store.run import RunDirectory


def resume(run: Run, overrides: Overrides = None) -> None:
    """Continue a run that was interrupted or killed. It arrives at the same numbers as an unbroken run.

    With --set you can change how players sample and step, the judge, the engine and what is measured from here on.
    Seeds, prompts and models must stay the same.

    Examples:

      magic-rl resume runs/demo

      magic-rl resume runs/demo --set attacker.sampling.max_tokens=256
    """
    from magic_rl.cli.view import Screen
    from magic_rl.runs.train import resume as go_on

    with Screen() as view:
        trained = go_on(run, view, overrides or ())
    stop_unless_complete(trained)


def stop_unless_complete(run: RunDirectory) -> None:
    """End the command where the user stopped training, and say what continues it."""
    if not run.is_complete:
        typer.echo(f"stopped; continue with `magic-rl resume {run.path}`", err=True)
        raise typer.Exit(130)
