"""`magic-rl train`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from magic_rl.cli.options import ConfigFile, Overrides
from magic_rl.cli.stopping import stoppable
from magic_rl.config import PRESETS, Config, PresetName, load_config

if TYPE_CHECKING:
    from magic_rl.store.run import RunDirectory
    from magic_rl.view import View


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
    begin(load_config(config, overrides or (), preset), run, f"continue with `magic-rl resume {run}`")
    typer.echo(f"training is complete; next: magic-rl evaluate {run}", err=True)


def begin(settings: Config, run: Path, how: str) -> None:
    """Train into a new run. Args: how: To continue, once it was stopped."""

    def work(view: View) -> RunDirectory:
        from magic_rl.runs.train import train as learn

        return learn(settings, run, view)

    to_its_end(run, how, work)


def to_its_end(run: Path, how: str, work: Callable[[View], RunDirectory]) -> None:
    """Do work on a run that ends early where the user asked it to. Args: how: To continue then."""
    with stoppable((run / "config.toml").is_file, how):
        from magic_rl.cli.view import Screen

        with Screen() as view:
            trained = work(view)
        if not trained.is_complete:
            raise KeyboardInterrupt
