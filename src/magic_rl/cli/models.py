"""`magic-rl models`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from magic_rl.cli.options import AsJson, Overrides
from magic_rl.cli.remedies import in_words
from magic_rl.cli.shown import columns, shown
from magic_rl.config import Config, load_config
from magic_rl.errors import UserError
from magic_rl.files import digits

if TYPE_CHECKING:
    from magic_rl.runs.modelcheck import ModelCheck

models = typer.Typer(no_args_is_help=True, help="Fetch models, check them, and say where they are kept.")

_SPEED = "{sampled_per_s:.0f} tokens/s sampled, {learned_per_s:.0f} learned, by a short step, in {dtype} on {device}"
_CONTROL = 12  # control tokens shown


@models.command()
def pull(
    name: Annotated[str, typer.Argument(metavar="MODEL", help="'default', a hub id or a local folder.")] = "default",
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
    from magic_rl.files import cache_folder

    typer.echo(cache_folder())


@models.command()
def check(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="'default', a hub id or a local folder.", show_default=False)
    ],
    config: Annotated[Path | None, typer.Option(metavar="FILE", help="Config file; else the defaults.")] = None,
    overrides: Overrides = None,
    quick: Annotated[bool, typer.Option("--quick", help="Files only: load no weights, time nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Check a model as both players of a config, before anything long begins.

    Prints what its chat template does, what ends its replies, how exactly and how fast it is computed, which layers get
    adapters, how much memory the config will need, and whether it can be exported. Memory is estimated from the model's
    shape. Every problem gets one line that says what to do; exit status 1 if training or export would go wrong.

    Examples:

      magic-rl models check Qwen/Qwen2.5-7B-Instruct --config paper

      magic-rl models check models/own --quick --json
    """
    given = overrides or []
    roles = load_config(config, given).roles
    settings = load_config(config, [*given, *(f"{role}.model={json.dumps(model)}" for role in roles)])
    from magic_rl.report.tables import described
    from magic_rl.runs.modelcheck import check_models

    typer.echo(shown(f"{model}: looking at its files"), err=True)
    checks = check_models(settings)
    problems = [problem for each in checks for problem in _in_words(each)]
    computed: dict[str, Any] = {}
    if not quick and not any(problem["when"] == "training" for problem in problems):
        try:
            computed = _computed(settings)
        except UserError as error:
            problems.append({"when": "training", "text": in_words(error)})
    if as_json:
        found = {
            "model": model,
            "checks": [{**asdict(each), "problems": _in_words(each)} for each in checks],
            "computed": computed,
        }
        typer.echo(json.dumps({**found, "problems": problems}, indent=2))
    else:
        rows = [row for each in checks for row in _rows(each)]
        rows += [("path", computed["says"]), ("speed", _SPEED.format(**computed))] if computed else []
        typer.echo("\n".join(described(((name, shown(text)) for name, text in rows), columns(80))))
    for problem in {problem["text"]: problem for problem in problems}.values():
        typer.echo(f"{'note' if problem['when'] == 'may' else 'problem'}: {shown(problem['text'])}", err=True)
    if any(problem["when"] != "may" for problem in problems):
        raise typer.Exit(1)


def _in_words(check: ModelCheck) -> list[dict[str, str]]:
    return [{"when": problem.when, "text": in_words(problem.error)} for problem in check.problems]


def _computed(config: Config) -> dict[str, Any]:
    """What only the loaded model tells: its path, and its speed in a short step."""
    from magic_rl.bench import Workload, measure
    from magic_rl.engines.local.engine import LocalEngine
    from magic_rl.engines.local.models import resolve_model

    name, code = config.defender.model, config.engine.trust_remote_code
    typer.echo("loading its weights, and comparing how it can be computed", err=True)
    engine = LocalEngine(resolve_model(name, trust_remote_code=code), config.defender.lora, config.engine)
    typer.echo("timing a short step, twice", err=True)
    workload = Workload("short", seeds=2, group=4, prompt_tokens=64, new_tokens=16)
    (timing,) = measure(engine, [workload], 1, rate=1.0)  # against no floor
    where = {"device": str(engine.device), "dtype": str(engine.dtype).removeprefix("torch.")}
    speeds = {"sampled_per_s": timing.sampled_per_s, "learned_per_s": timing.learned_per_s, "peak_gb": timing.peak_gb}
    return {**where, "path": asdict(engine.path), "says": str(engine.path), **speeds}


def _rows(found: ModelCheck) -> Iterator[tuple[str, str]]:
    yield "model", f"{found.model} as {' and '.join(found.roles)}"
    if template := found.template:
        turns = "several turns" if template.turns else "a single turn"
        yield "template", f"system prompt in {template.system}, {template.date}, {turns}"
        yield "thoughts", template.thoughts
        yield "stops", ", ".join(f"{text} ({number})" for text, number in template.stops.items())
        more = f" and {len(template.control) - _CONTROL} more" if len(template.control) > _CONTROL else ""
        yield "control tokens", " ".join(template.control[:_CONTROL]) + more
    if adapter := found.adapter:
        layers = ", ".join(f"{name} ({number})" for name, number in adapter.layers.items())
        yield "adapters", f"{digits(adapter.parameters / 1e6)} million numbers a player, on {layers}"
        if others := [name for name in adapter.fits if name not in adapter.layers]:
            yield "", f"would fit, too: {', '.join(others)}"
        yield "", f"refused: {', '.join(f'{name} ({why})' for name, why in adapter.refused.items()) or 'none'}"
        if found.unshared:
            yield "path", f"prompts are not shared, as {found.unshared}"
    if memory := found.memory:
        parts = {**asdict(memory), "before any text": memory.certain}
        counted = ", ".join(f"{name} {digits(size / 1e9)}" for name, size in parts.items() if size)
        yield "memory", f"{digits(memory.most / 1e9)} GB at most: {counted}"
        late = any(problem.when == "export" for problem in found.problems)
        yield "export", "not possible, see below" if late else "possible"
