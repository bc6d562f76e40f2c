"""`magic-rl models`."""

from __future__ import annotations

from typing import Annotated

import typer

models = typer.Typer(no_args_is_help=True, help="Fetch models, and say where they are kept.")


@models.command()
def pull(
    name: Annotated[str, typer.Argument(help="'default', a hub id or a local folder.")] = "default",
) -> None:
    """Fetch a model, check it, and print its folder. Training does the same on first use.

    Examples:

      magic-rl models pull

      magic-rl models pull Qwen/Qwen2.5-7B-Instruct
    """
    from magic_rl.engines.local.models import resolve_model

    typer.echo(resolve_model(name))


@models.command()
def path() -> None:
    """Print the folder in which the default model is kept. MAGIC_RL_CACHE moves it."""
    from magic_rl.engines.local.models import cache_folder

    typer.echo(cache_folder())
