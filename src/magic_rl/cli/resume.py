"""`magic-rl resume`."""

from __future__ import annotations

import typer

from magic_rl.cli.options import Run


def resume(run: Run) -> None:
    """Go on with a run that was interrupted or killed. It arrives at the numbers of an unbroken run.

    Example:

      magic-rl resume runs/demo
    """
    from magic_rl.cli.view import make_view
    from magic_rl.learning.progress import is_complete
    from magic_rl.learning.train import resume as go_on

    with make_view() as view:
        trained = go_on(run, view)
    if not is_complete(trained):
        raise typer.Exit(130)
