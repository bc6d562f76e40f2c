"""`magic-rl train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from magic_rl.cli.options import ConfigFile, Overrides
from magic_rl.cli.resume import stop_unless_complete
from magic_rl.config import PRESETS, PresetName, load_config


def train(
    config: ConfigFile,
    run: Annotated[Path, typer.Option("--run", metavar="DIR", help="New directory for the run.", show_default=False)],
    overrides: Overrides = None,
    preset: Annotated[
        PresetName | None,
        typer.Option(metavar="NAME", help=f"{', '.join(PRESETS)}. Wins over the file; --set wins over it."),
    ] = None,
) -> None:
    """Train attacker and defender from a config file into a new run directory.

    Ctrl-C finishes the step and saves; `magic-rl resume` continues from there.

    Examples:

      magic-rl train demo --run runs/demo

      magic-rl train demo --run runs/no-game --preset no-game --defender.batch_size 24
    """
    settings = load_config(config, overrides or (), preset)

    from magic_rl.cli.view import Screen
    from magic_rl.runs.train import train as begin

    with Screen() as view:
        trained = begin(settings, run, view)
    stop_unless_complete(trained)
    typer.echo(f"training is complete; next: magic-rl evaluate {run}", err=True)
