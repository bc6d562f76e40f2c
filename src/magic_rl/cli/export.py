"""`magic-rl export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from magic_rl.cli.options import Run
from magic_rl.errors import UserError


def export(
    run: Run,
    out: Annotated[Path, typer.Option(metavar="DIR", help="New folder for the model.", show_default=False)],
    role: Annotated[str, typer.Option(help="Only the defender can be exported.")] = "defender",
    number: Annotated[
        int | None, typer.Option("--round", min=0, help="Round whose defender is taken; the last if not given.")
    ] = None,
) -> None:
    """Write the trained defender as a merged safetensors model folder with a model card.

    Plain transformers loads it. The attacker never leaves the run directory.

    Example:

      magic-rl export runs/demo --role defender --out models/hardened

      magic-rl export runs/demo --round 2 --out models/hardened-2
    """
    if role != "defender":
        raise UserError(f"--role {role}: only the defender is exported; a trained attacker stays in its run directory")

    from magic_rl.export import export_defender
    from magic_rl.store.run import RunDirectory

    typer.echo(f"model: {export_defender(RunDirectory.open(run), out, number=number)}")
