"""`magic-rl plan`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from itertools import groupby
from typing import Annotated

import typer

from magic_rl.cli.options import AsJson, ConfigFile, Overrides
from magic_rl.cli.shown import columns
from magic_rl.config import load_config
from magic_rl.files import digits
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
    from magic_rl.report.tables import described, laid_out

    lines: list[tuple[str, ...]] = [("a step of the", "tokens", "TFLOP", "seconds", "of the run")]
    whole = sum(stage.seconds * found.steps[stage.learner] for stage in found.stages) or 1.0
    for learner, stages in groupby(found.stages, lambda stage: stage.learner):
        lines.append((learner,))
        for stage in stages:
            share = f"{stage.seconds * found.steps[learner] / whole:.0%}"
            numbers = (f"{stage.tokens:,.0f}", digits(stage.flops / 1e12), digits(stage.seconds))
            lines.append((f"  {stage.name}", *numbers, share))
    typer.echo(laid_out(lines, columns(80)))
    typer.echo("\n" + "\n".join(described(_facts(found, gpus), columns(80))))
    for note in found.notes:
        typer.echo(f"note: {note}", err=True)


def _facts(found: Plan, gpus: str) -> Iterator[tuple[str, str]]:
    lengths, slowest = found.lengths, found.bottleneck
    yield "assumed", f"{lengths.attack} tokens for an attack and {lengths.reply} for a reply, on average"
    yield "steps", " and ".join(f"{count:,} of the {role}" for role, count in found.steps.items() if count)
    yield "bottleneck", f"{slowest.learner}: {slowest.name}"
    yield "adapters", ", ".join(f"{role} {digits(n / 1e6)} million numbers" for role, n in found.adapters.items())
    for what, (needed, have) in found.memory.items():
        fits = "" if needed <= have else ", does not fit"
        yield "memory", f"the device that {what}: {digits(needed / 1e9)} of {digits(have / 1e9)} GB{fits}"
    before = f", {_span(found.supervised)} of them before the game" if found.supervised else ""
    yield "time", f"{_span(found.hours)} on {gpus}{before}"
    if found.rented:
        yield "rented", f"${found.rented:,.2f}"
    if found.hosted:
        yield "hosted", f"${found.hosted[0]:,.2f} for the game, at the price of {found.hosted[1]}"


def _span(hours: float) -> str:
    """A duration in the largest unit of which it is two or more."""
    units = (("days", 24), ("hours", 1), ("minutes", 1 / 60))
    unit, size = next((each for each in units if hours >= 2 * each[1]), ("seconds", 1 / 3600))
    return f"{digits(hours / size)} {unit}"
