"""`magic-rl engine`."""

from __future__ import annotations

import typer

from magic_rl.cli.options import ConfigFile, Overrides
from magic_rl.cli.shown import columns, shown
from magic_rl.config import load_config

engine = typer.Typer(no_args_is_help=True, help="Check where models are computed.")


@engine.command()
def check(
    config: ConfigFile,
    overrides: Overrides = None,
) -> None:
    """Check that the engine of a config does what training relies on, in minutes.

    For example: two adapters do not affect each other, a snapshot does not change, samples come from the policy that
    was asked, gradients add up, a saved policy continues as if it had not been saved. Do this with any server before a
    long run on it, because its faults seldom show. Exit status 1 if a check fails.

    Examples:

      magic-rl engine check server.toml

      magic-rl engine check demo --engine.kind tinker --engine.tinker.server skyrl-jax --engine.tinker.url http://gpu1:8000
    """
    settings = load_config(config, overrides or ())
    from magic_rl.report.tables import described
    from magic_rl.runs.assembly import load_engines
    from magic_rl.runs.conformance import conformance

    failed = False
    engines = load_engines(settings)
    for made in {id(each): each for each in engines.values()}.values():
        roles = " and ".join(role for role, each in engines.items() if each is made)
        typer.echo(shown(f"{roles}: {made.path}"))
        for finding in conformance(made):
            held = "yes" if finding.holds else "NO "
            found = shown(f"{finding.claim}: {finding.measured}")
            typer.echo("\n".join(described([(held, found)], columns(100))))
            failed |= not finding.holds
    if failed:
        raise typer.Exit(1)
