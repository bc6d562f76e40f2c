"""`magic-rl pool`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from magic_rl.cli.options import Overrides
from magic_rl.config import load_config
from magic_rl.errors import UserError

pool = typer.Typer(no_args_is_help=True, help="Attack pools: what the attacker learns first.")


@pool.command()
def build(
    out: Annotated[Path, typer.Option(metavar="FILE", help="New JSONL file.", show_default=False)],
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Config file; names seeds and strategies.")
    ] = None,
    overrides: Overrides = None,
    strategies: Annotated[
        str, typer.Option(metavar="A,B,…", help="Strategies, comma-separated; wins over the config.")
    ] = "",
) -> None:
    """Rewrite every training seed with every strategy, offline, by templates. Held-out seeds are left out.

    Examples:

      magic-rl pool build --out pool.jsonl

      magic-rl pool build --out pool.jsonl --set data.seeds=seeds.csv --strategies slang,role_play
    """
    chosen = [name.strip() for name in strategies.split(",") if name.strip()]
    chosen_override = [f"attacker.strategies={json.dumps(chosen)}"] if chosen else []
    settings = load_config(config, [*(overrides or ()), *chosen_override])
    if out.exists():
        raise UserError(f"{out}: already exists; choose another file")

    from magic_rl.attacks.pool import build_pool, write_pool
    from magic_rl.data.seeds import load_seeds
    from magic_rl.data.split import split_by_category

    split = split_by_category(load_seeds(settings.data), settings.data.held_out_categories)
    entries = build_pool(split.train, settings.attacker.strategies, settings.seed)
    write_pool(out, entries)
    typer.echo(f"pool: {out} ({len(entries)} rewrites of {len(split.train)} seeds)")


@pool.callback()
def _group() -> None:
    """Keeps `build` a command of its own name."""
