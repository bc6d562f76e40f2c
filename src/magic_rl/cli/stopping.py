"""Ctrl-C: one line that says what is kept and how to go on, and exit status 130."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import typer

CONTINUES = "the same command continues"


@contextmanager
def stoppable(kept: Callable[[], bool], how: str = CONTINUES) -> Iterator[None]:
    """Within the block, Ctrl-C prints one line and ends the command with exit status 130.

    Args:
        kept: Whether there is something to continue from; called after Ctrl-C.
        how: How to continue.
    """
    try:
        yield
    except KeyboardInterrupt as stop:
        typer.echo(f"stopped; {how}" if kept() else "stopped, nothing saved", err=True)
        raise typer.Exit(130) from stop
