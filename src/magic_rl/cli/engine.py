"""`magic-rl engine`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from magic_rl.cli.options import Overrides
from magic_rl.cli.shown import shown
from magic_rl.config import load_config

engine = typer.Typer(no_args_is_help=True, help="Check where models are computed.")


@engine.command()
def check(
    config: Annotated[Path, typer.Argument(help="Config file (TOML).", show_default=False)],
    overrides: Overrides = None,
) -> None:
    """Check that the engine of a config does what training relies on, in minutes.

    Two adapters are apart, a snapshot stays as it is, samples come from the policy that was asked, gradients add up, a
    saved policy continues as if it had not been saved. Worth doing with any server before a long run on it: what goes
    wrong there seldom shows. Exit status 1 if anything does not hold.

    Examples:

      magic-rl engine check server.toml

      magic-rl engine check demo --engine.kind tinker --engine.tinker.server skyrl-jax --engine.tinker.url http://gpu1:8000
    """
    settings = load_config(config, overrides or ())
    from magic_rl.runs.assembly import load_engines
    from magic_rl.runs.conformance import conformance

    failed = False
    engines = load_engines(settings)
    for made in {id(each): each for each in engines.values()}.values():
        roles = " and ".join(role for role, each in engines.items() if each is made)
        title = shown(f"{roles}: {made.path}")
        table = Table("", "claim", "measured", box=None, title=title, title_justify="left")
        for finding in conformance(made):
            typer.echo(f"{finding.claim}: {'yes' if finding.holds else 'NO'}", err=True)
            table.add_row("yes" if finding.holds else "NO", shown(finding.claim), shown(finding.measured))
            failed |= not finding.holds
        Console().print(table)
    if failed:
        raise typer.Exit(1)
