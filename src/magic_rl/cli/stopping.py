"""Ctrl-C: one line that says what is kept and how to go on, and exit status 130."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import typer

CONTINUES = "the same command continues"


@contextmanager
def stoppable(kept: Callable[[], bool], how: str = CONTINUES) -> Iterator[None]:
    """A block that Ctrl-C ends with a word.

    Args:
        kept: Whether there is something to go on from; asked when it has ended.
        how: To go on.
    """
    try:
        yield
    except KeyboardInterrupt as stop:
        typer.echo(f"stopped; {how}" if kept() else "stopped, nothing saved", err=True)
        raise typer.Exit(130) from stop
