"""How a step's time grows with the group, the prompt and the number of snapshots in memory; a table and a plot.

    python benchmarks/scaling.py [--repeats 3] [--out scaling.svg]

All but one measure of W1 stay as they are. A line with slope 1 doubles when its measure doubles; sharing prompts
keeps the lines for group and prompt well below that.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt

from magic_rl.bench import W1, Timing, Workload, measure, peak_memory, product_rate
from magic_rl.config import EngineConfig, LoraConfig
from magic_rl.engines.base import Policy
from magic_rl.engines.local.engine import LocalEngine
from magic_rl.engines.local.models import resolve_model

GROUPS = (2, 4, 8, 16, 32)
PROMPTS = (64, 128, 256, 512, 1024, 2048)
SNAPSHOTS = (0, 4, 16)

Point = tuple[int, Timing]


def curves(repeats: int) -> Iterator[tuple[str, list[Point]]]:
    """What is varied, and a timing for each of its values."""
    engine = LocalEngine(resolve_model("default"), LoraConfig(), EngineConfig())
    rate = product_rate(engine.device, engine.dtype)

    def timed(workload: Workload) -> Timing:
        (timing,) = measure(engine, [workload], repeats, rate)
        return timing

    yield "completions a group", [(group, timed(replace(W1, group=group))) for group in GROUPS]
    yield "prompt tokens", [(length, timed(replace(W1, prompt_tokens=length))) for length in PROMPTS]
    kept: list[Policy] = []
    points: list[Point] = []
    for count in SNAPSHOTS:
        while len(kept) < count:
            kept.append(engine.new_policy(f"kept {len(kept)}").snapshot("kept"))
        points.append((count, timed(W1)))
    yield "snapshots in memory", points
    print(f"peak memory {peak_memory(engine.device) / 1e9:.1f} GB")


def main() -> None:
    """Print and plot the curves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("scaling.svg"))
    args = parser.parse_args()
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
    for axis, (name, points) in zip(axes, curves(args.repeats), strict=True):
        print(f"{name:>22}   step s   sample s   learn s   of floor")
        for value, timing in points:
            seconds = f"{timing.step_s:6.1f}   {timing.sample_s:8.1f}   {timing.learn_s:7.1f}"
            print(f"{value:>22}   {seconds}   {timing.floor_share:8.0%}")
        for label, field in (("step", "step_s"), ("sample", "sample_s"), ("learn", "learn_s")):
            axis.plot([value for value, _ in points], [getattr(t, field) for _, t in points], "o-", label=label)
        axis.set(xlabel=name, ylabel="seconds", ylim=(0, None))
    axes[0].legend()
    figure.savefig(args.out)
    print(f"wrote {args.out}")


if __name__ == "__main__":
    main()
