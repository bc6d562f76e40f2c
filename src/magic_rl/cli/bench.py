"""`magic-rl bench`."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from magic_rl.cli.options import AsJson, Overrides
from magic_rl.cli.shown import columns
from magic_rl.config import load_config

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from magic_rl.bench import Timing
    from magic_rl.engines.local.engine import LocalEngine


def bench(
    model: Annotated[str, typer.Option(help="'default', a hub id or a local folder.")] = "default",
    repeats: Annotated[int, typer.Option(min=1, help="Timed repeats of each workload, after one for warm-up.")] = 3,
    quick: Annotated[bool, typer.Option("--quick", help="Only W1, the reference workload.")] = False,
    as_json: AsJson = False,
    profiled: Annotated[
        bool, typer.Option("--profile", help="In place of timings: what the time of a step of W1 goes into, on a CPU.")
    ] = False,
    overrides: Overrides = None,
) -> None:
    """Time one attacker step on this machine and compare it with the least time that its arithmetic takes.

    W1 is 4 prompts of 225 tokens, 8 completions of 48 tokens each, one optimiser step. The floor is the time its
    matrix products take at the rate at which this machine multiplies matrices, which is measured first.

    Examples:

      magic-rl bench

      magic-rl bench --quick --json

      magic-rl bench --profile

      magic-rl bench --model Qwen/Qwen2.5-0.5B-Instruct --set engine.device=cuda
    """
    config = load_config(None, overrides or ())
    import torch

    from magic_rl.bench import NEIGHBOURS, W1, measure, product_rate
    from magic_rl.engines.local.engine import LocalEngine, device_of, dtype_of
    from magic_rl.engines.local.models import resolve_model

    folder = resolve_model(model, trust_remote_code=config.engine.trust_remote_code)
    if config.engine.threads:
        torch.set_num_threads(config.engine.threads)
    device = device_of(config.engine.device)
    rate = product_rate(device, dtype_of(config.engine.dtype, device))  # before workers load the model on other cores
    engine = LocalEngine(folder, config.attacker.lora, config.engine)
    if profiled:
        _print_profile(engine, as_json=as_json)
        return
    workloads = (W1,) if quick else (W1, *NEIGHBOURS)
    machine = {
        "model": folder.name,
        "device": str(engine.device),
        "dtype": str(engine.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "processes": engine.processes,
        "product_gflops": rate / 1e9,
    }
    if as_json:
        timings = [asdict(timing) for timing in measure(engine, workloads, repeats, rate)]
        typer.echo(json.dumps({**machine, "workloads": timings}, indent=2))
        return
    typer.echo(
        f"{folder.name} in {machine['dtype']} on {engine.device}, {torch.get_num_threads()} threads, "
        f"{engine.processes} {'process' if engine.processes == 1 else 'processes'}: "
        f"matrix products at {rate / 1e9:.0f} GFLOP/s"
    )
    _print_timings(measure(engine, workloads, repeats, rate))


def _print_timings(timings: Iterable[Timing]) -> None:
    from magic_rl.report.tables import laid_out

    names = ("step s", "sample s", "learn s", "floor s", "of floor", "sampled/s", "learned/s", "peak GB")
    lines: list[Sequence[str]] = [("workload", *names)]
    for timing in timings:
        typer.echo(f"{timing.workload}: {timing.step_s:.1f} s", err=True)
        seconds = (timing.step_s, timing.sample_s, timing.learn_s, timing.floor_s)
        speeds = (f"{timing.floor_share:.0%}", f"{timing.sampled_per_s:.0f}", f"{timing.learned_per_s:.0f}")
        lines.append((timing.workload, *(f"{value:.1f}" for value in seconds), *speeds, f"{timing.peak_gb:.1f}"))
    typer.echo(laid_out(lines, columns(80)))


def _print_profile(engine: LocalEngine, *, as_json: bool) -> None:
    from magic_rl.bench import profile, shares
    from magic_rl.report.tables import laid_out

    found = profile(engine)
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    lines = [("stage", "seconds", *next(iter(found.values())))]
    for stage, seconds in found.items():
        lines.append((stage, f"{sum(seconds.values()):.1f}", *(f"{share:.0%}" for share in shares(seconds).values())))
    typer.echo(laid_out(lines, columns(80)))
    typer.echo("\npasses: over activations, such as norms and copies; host: Python, torch's dispatch, the profiler")
