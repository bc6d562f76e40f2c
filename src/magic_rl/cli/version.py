"""`magic-rl version`."""

from __future__ import annotations

import typer


def version() -> None:
    """Print the versions of everything that may change a number. A run keeps the same list."""
    from magic_rl.runs.train import versions

    for name, number in versions().items():
        typer.echo(f"{name} {number}")
