"""`magic-rl train` and `magic-rl resume`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from magic_rl.cli.options import ConfigFile, Overrides, Run
from magic_rl.cli.stopping import stoppable
from magic_rl.cli.view import Screen
from magic_rl.config import PRESETS, PresetName, load_config
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
    settings = load_config(config, overrides or (), preset)
    with to_its_end(run, f"continue with `magic-rl resume {run}`") as view:
        from magic_rl.runs.train import train as learn

        learn(settings, run, view)
    typer.echo(f"training is complete; next: magic-rl evaluate {run}", err=True)


def resume(run: Run, overrides: Overrides = None) -> None:
    """Continue a run that was interrupted or killed. It arrives at the same numbers as an unbroken run.

    With --set you can change how players sample and step, the judge, the engine and what is measured from here on.
    Seeds, prompts and models may lie elsewhere by now, but must be the same ones.

    Examples:

      magic-rl resume runs/demo

      magic-rl resume runs/demo --set attacker.sampling.max_tokens=256
    """
    with to_its_end(run, f"continue with `magic-rl resume {run}`") as view:
        from magic_rl.runs.train import resume as go_on

        go_on(run, view, overrides or ())


@contextmanager
def to_its_end(run: Path, how: str) -> Iterator[View]:
    """Watch work on a run that ends early where the user asked it to. Args: how: To continue then."""
    with stoppable((run / "config.toml").is_file, how):
        with Screen() as view:
            yield view
        if not RunDirectory.open(run).is_complete:
            raise KeyboardInterrupt
