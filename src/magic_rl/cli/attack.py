"""`magic-rl attack`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from magic_rl.cli.options import Run
from magic_rl.cli.shown import columns
from magic_rl.cli.view import Screen
from magic_rl.store.run import RunDirectory


def attack(
    run: Run,
    steps: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Steps that the attacker learns for; by default as many as in the game."),
    ] = None,
    every: Annotated[
        int | None,
        typer.Option(
            metavar="K", min=1, help="Measure every K steps too, not only before the first and after the last."
        ),
    ] = None,
    attacker_from: Annotated[
        Path | None,
        typer.Option(
            metavar="OTHER_RUN",
            help="Take the SFT start and the settings of this run's attacker: for runs without one, such as no-game.",
        ),
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Start over and remove the earlier attacks.")] = False,
) -> None:
    """Let a fresh attacker learn against the frozen defender, at the start and trained; print how often it succeeds.

    The attacker starts from the run's SFT attacker and learns by the run's own settings. Writes attack.json into the
    run; the attackers stay under attacks/. Ctrl-C finishes the step and saves; the same command continues from there.

    Examples:

      magic-rl attack runs/demo --every 3

      magic-rl attack runs/no-game --attacker-from runs/demo
    """
    from magic_rl.report.tables import attack_table
    from magic_rl.runs.attack import attack as learn_to_attack
    from magic_rl.runs.attack import forget, make_plan

    directory = RunDirectory.open(run)
    source = RunDirectory.open(attacker_from) if attacker_from else None
    with directory.lock():
        plan = make_plan(directory, steps=steps, every=every, source=source, again=again)
        if again:
            forget(directory)
        with Screen() as view:
            result = learn_to_attack(directory, plan, view)
    if result is None:
        elsewhere = f" --attacker-from {attacker_from}" if attacker_from else ""
        typer.echo(f"stopped; continue with `magic-rl attack {run}{elsewhere}`", err=True)
        raise typer.Exit(130)
    typer.echo(attack_table(result, columns(80)))
