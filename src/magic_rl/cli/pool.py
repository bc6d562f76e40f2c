"""`magic-rl pool`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from magic_rl.cli.options import Overrides
from magic_rl.cli.remedies import in_words
from magic_rl.cli.view import Screen
from magic_rl.config import Config, EndpointConfig, load_config
from magic_rl.errors import ChatError, UserError
from magic_rl.types import Seed

pool = typer.Typer(no_args_is_help=True, help="Attack pools: what the attacker learns first.")


@pool.command()
def build(
    out: Annotated[Path, typer.Option(metavar="FILE", help="New JSONL file.", show_default=False)],
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Config file; names seeds, strategies and the writer.")
    ] = None,
    overrides: Overrides = None,
    strategies: Annotated[
        str, typer.Option(metavar="A,B,…", help="Strategies, comma-separated; wins over the config.")
    ] = "",
    max_failed: Annotated[
        float,
        typer.Option(
            metavar="SHARE", min=0.0, max=1.0, help="Share of the writer's calls that may fail and be left out."
        ),
    ] = 0.05,
) -> None:
    """Rewrite every training seed with every strategy. Held-out seeds are left out.

    With `attacker.writer.model` a model writes the rewrites and then the reasoning that leads to them; encodings are
    exact in either case. Without, templates write everything offline, translations excepted.

    What the model answers is remembered (store.answers): after Ctrl-C, a crash or a spent budget the same command
    continues from there. Rewrites that cannot be used are left out and listed in pool.rejected.jsonl.

    Examples:

      magic-rl pool build --out pool.jsonl

      magic-rl pool build --out pool.jsonl --set data.seeds=seeds.csv --strategies slang,role_play

      magic-rl pool build --out pool.jsonl --config my.toml --set attacker.writer.model=NAME
    """
    chosen = [name.strip() for name in strategies.split(",") if name.strip()]
    chosen_override = [f"attacker.strategies={json.dumps(chosen)}"] if chosen else []
    settings = load_config(config, [*(overrides or ()), *chosen_override])
    writer = settings.attacker.writer
    if out.exists():
        raise UserError(f"{out}: already exists; choose another file")

    from magic_rl.attacks.pool import build_pool
    from magic_rl.runs.seeds import split_of
    from magic_rl.store.atomic import write_rows

    seeds = split_of(settings.data).train
    if writer is None:
        entries = build_pool(seeds, settings.attacker.strategies, settings.rng_seed)
        write_rows(out, entries)
        typer.echo(f"pool: {out} ({len(entries)} rewrites of {len(seeds)} seeds)")
    else:
        _have_written(settings, writer, seeds, out, max_failed)


def _have_written(
    settings: Config, writer: EndpointConfig, seeds: Sequence[Seed], out: Path, max_failed: float
) -> None:
    """Have the model write the pool, and say what it came to."""
    from magic_rl.runs.judge import open_memory
    from magic_rl.runs.writer import have_written
    from magic_rl.store.atomic import write_rows

    memory = open_memory(settings.store.answers)
    kept = f"; the answers so far are kept in {memory.path}: the same command continues from there" if memory else ""
    rejected = out.with_name(f"{out.name.removesuffix('.jsonl')}.rejected.jsonl")
    try:
        with Screen(pause=10.0) as view:
            written = have_written(settings, seeds, memory, view, max_failed)
    except ChatError as error:
        place = "" if error.url else "attacker.writer: "
        raise UserError(f"{place}{in_words(error)}{kept}") from error
    except KeyboardInterrupt as stop:
        typer.echo(f"stopped{kept}", err=True)
        raise typer.Exit(130) from stop
    rejected.unlink(missing_ok=True)
    left_out = f"left out {len(written.rejected)}"
    if written.rejected:
        write_rows(rejected, written.rejected)
        left_out += (
            f" ({', '.join(f'{count} {reason}' for reason, count in written.reasons.most_common())}): {rejected}"
        )
    if not written.entries:
        raise UserError(f"{out}: no rewrite can be used; {left_out}")
    write_rows(out, written.entries)
    harmful = sum(entry.seed.label == "harmful" for entry in written.entries)
    labels = f"{harmful} harmful, {len(written.entries) - harmful} benign"
    typer.echo(f"pool: {out} ({len(written.entries)} rewrites of {len(seeds)} seeds: {labels})")
    typer.echo(f"{left_out}\nwriter: {writer.model}, {written.calls} calls, {written.tokens} tokens")
