"""`magic-rl plan`."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Column, Table

from magic_rl.cli.options import AsJson, ConfigFile, Overrides
from magic_rl.config import load_config
from magic_rl.runs.plan import Plan
from magic_rl.runs.plan import plan as estimate


def plan(
    config: ConfigFile,
    gpus: Annotated[
        str,
        typer.Option(metavar="NxNAME", help="Devices: H100, H200, B200, A100, L40S, L20, RTX4090 or CPU (two cores)."),
    ] = "1xH100",
    attack_tokens: Annotated[
        int | None,
        typer.Option(min=1, help="Mean tokens of an attack with its thoughts; else half its limit, at most 400."),
    ] = None,
    reply_tokens: Annotated[
        int | None, typer.Option(min=1, help="Mean tokens of a reply; else half its limit, at most 400.")
    ] = None,
    as_json: AsJson = False,
    overrides: Overrides = None,
) -> None:
    """Estimate what training from a config takes: tokens, arithmetic, memory, time and money. Loads no model.

    The estimate is good to a factor of two; docs/scale.md explains it and compares it with published step times. What
    the judge takes is not counted.

    Examples:

      magic-rl plan paper --gpus 8xH100

      magic-rl plan node --gpus 8xA100 --reply-tokens 250

      magic-rl plan demo --gpus 1xCPU
    """
    found = estimate(load_config(config, overrides or ()), gpus, attack_tokens, reply_tokens)
    if as_json:
        typer.echo(json.dumps({**asdict(found), "bottleneck": asdict(found.bottleneck)}, indent=2))
        return
    _print(found, gpus)


def _print(found: Plan, gpus: str) -> None:
    console = Console(highlight=False)
    numbers = (Column(name, justify="right") for name in ("tokens", "PFLOP", "seconds", "of the run"))
    table = Table("a step of the", "does", *numbers, box=None, pad_edge=False)
    whole = sum(stage.seconds * found.steps[stage.learner] for stage in found.stages) or 1.0
    for stage in found.stages:
        share = stage.seconds * found.steps[stage.learner] / whole
        row = (f"{stage.tokens:,.0f}", f"{stage.flops / 1e15:.3g}", f"{stage.seconds:.3g}", f"{share:.0%}")
        table.add_row(stage.learner, stage.name, *row)
    console.print(table)
    facts = Table(box=None, show_header=False, pad_edge=False)
    lengths, slowest = found.lengths, found.bottleneck
    facts.add_row("assumed", f"{lengths.attack} tokens for an attack and {lengths.reply} for a reply, on average")
    facts.add_row("steps", " and ".join(f"{count} of the {role}" for role, count in found.steps.items() if count))
    facts.add_row("bottleneck", f"{slowest.learner}: {slowest.name}")
    facts.add_row(
        "adapters", ", ".join(f"{role} {size / 1e6:.3g} million numbers" for role, size in found.adapters.items())
    )
    for what, (needed, have) in found.memory.items():
        facts.add_row("memory", f"the device that {what}: {needed / 1e9:.3g} of {have / 1e9:.3g} GB")
    facts.add_row("time", f"{found.hours:.3g} hours on {gpus}, {found.supervised:.2g} of them before the game")
    if found.rented:
        facts.add_row("rented", f"${found.rented:,.2f}")
    if found.hosted:
        facts.add_row("hosted", f"${found.hosted[0]:,.2f} for the game, at the price of {found.hosted[1]}")
    console.print(facts)
    for note in found.notes:
        typer.echo(f"note: {note}", err=True)
