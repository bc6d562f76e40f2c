"""`magic-rl train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from magic_rl.cli.options import Overrides
from magic_rl.config import PRESETS, SHIPPED, PresetName, load_config


def train(
    config: Annotated[
        Path,
        typer.Argument(
            help=f"Config file (TOML), or one that comes with magic-rl: {', '.join(SHIPPED)}.", show_default=False
        ),
    ],
    run: Annotated[Path, typer.Option("--run", metavar="DIR", help="New directory for the run.", show_default=False)],
    overrides: Overrides = None,
    preset: Annotated[
        PresetName | None,
        typer.Option(metavar="NAME", help=f"{', '.join(PRESETS)}. Wins over the file; --set wins over it."),
    ] = None,
) -> None:
    """Train attacker and defender from a config file into a new run directory.

    Ctrl-C finishes the step and saves; `magic-rl resume` goes on from there.

    Examples:

      magic-rl train demo --run runs/demo

      magic-rl train demo --run runs/no-game --preset no-game --defender.batch_size 24
    """
    settings = load_config(config, overrides or (), preset)

    from magic_rl.cli.view import make_view
    from magic_rl.runs.progress import is_complete
    from magic_rl.runs.train import train as begin

    with make_view() as view:
        trained = begin(settings, run, view)
    if not is_complete(trained):
        typer.echo(f"stopped; go on with `magic-rl resume {run}`", err=True)
        raise typer.Exit(130)
    typer.echo(f"training is complete; next: magic-rl evaluate {run}", err=True)
