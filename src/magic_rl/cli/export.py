"""`magic-rl export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from magic_rl.cli.options import Round, Run
from magic_rl.errors import UserError
from magic_rl.store.run import RunDirectory


def export(
    run: Run,
    out: Annotated[Path, typer.Option(metavar="DIR", help="New folder for the model.", show_default=False)],
    number: Round = None,
    dtype: Annotated[
        Literal["base", "float32"],
        typer.Option(help="Precision of the weights: the base model's, or one that loses nothing."),
    ] = "base",
    adapter: Annotated[bool, typer.Option("--adapter", help="Only the PEFT adapter, exact and small.")] = False,
) -> None:
    """Write the trained defender as a merged safetensors model folder with a model card.

    Transformers and vLLM load it; the chat template says what the defender was told in training. It is loaded and
    compared with the trained defender first. The attacker never leaves the run directory.

    Examples:

      magic-rl export runs/demo --out models/hardened

      magic-rl export runs/demo --round 2 --out models/hardened-2

      magic-rl export runs/demo --adapter --out models/hardened-adapter
    """
    if adapter and dtype != "base":
        raise UserError(f"--adapter writes no weights that --dtype {dtype} could store; leave one of them out")

    from magic_rl.runs.export import Form, export_defender

    form: Form = "adapter" if adapter else dtype
    typer.echo(f"model: {export_defender(RunDirectory.open(run), out, number=number, form=form)}")
