"""How a step's time grows with group size, prompt length and the number of snapshots in memory; a table and a plot.

    python benchmarks/scaling.py [--only groups prompts snapshots] [--repeats 3] [--out scaling.svg]

Each curve varies one measure of W1 and keeps the others. Without shared prompts the time would grow in proportion to
group and prompt; with them it grows much more slowly. It takes half an hour on two cores and prints each timing as soon
as it is known.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt

from magic_rl.bench import W1, Timing, measure, peak_memory, product_rate
from magic_rl.engines.base import Policy
from magic_rl.engines.local.engine import LocalEngine
from magic_rl.engines.local.models import resolve_model
from magic_rl.engines.settings import EngineConfig, LoraConfig

GROUPS = (2, 4, 8, 16, 32)
PROMPTS = (64, 128, 256, 512, 1024, 2048)
SNAPSHOTS = (0, 4, 16)

CURVES = {
    "groups": "completions a group",
    "prompts": "prompt tokens",
    "snapshots": "snapshots in memory",
}

Point = tuple[int, Timing]


def points(curve: str, engine: LocalEngine, repeats: int, rate: float) -> Iterator[Point]:
    """A timing for each value of the measure that a curve varies."""
    if curve == "groups":
        yield from zip(GROUPS, measure(engine, [replace(W1, group=n) for n in GROUPS], repeats, rate), strict=True)
    elif curve == "prompts":
        workloads = [replace(W1, prompt_tokens=n) for n in PROMPTS]
        yield from zip(PROMPTS, measure(engine, workloads, repeats, rate), strict=True)
    else:
        kept: list[Policy] = []
        timings = measure(engine, [W1] * len(SNAPSHOTS), repeats, rate)
        for count in SNAPSHOTS:
            kept += [engine.new_policy(f"kept {number}").snapshot("kept") for number in range(len(kept), count)]
            yield count, next(timings)


def main() -> None:
    """Print and plot the curves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=CURVES, default=list(CURVES), help="these curves alone")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("scaling.svg"))
    args = parser.parse_args()
    engine = LocalEngine(resolve_model("default"), LoraConfig(), EngineConfig())
    rate = product_rate(engine.device, engine.dtype)
    figure, axes = plt.subplots(
        1, len(args.only), figsize=(4 * len(args.only), 3.6), layout="constrained", squeeze=False
    )
    for axis, curve in zip(axes[0], args.only, strict=True):
        print(f"{CURVES[curve]:>22}   step s   sample s   learn s   of floor")
        timings: dict[int, Timing] = {}
        for value, timing in points(curve, engine, args.repeats, rate):
            timings[value] = timing
            seconds = f"{timing.step_s:6.1f}   {timing.sample_s:8.1f}   {timing.learn_s:7.1f}"
            print(f"{value:>22}   {seconds}   {timing.floor_share:8.0%}", flush=True)
        for label, field in (("step", "step_s"), ("sample", "sample_s"), ("learn", "learn_s")):
            axis.plot(list(timings), [getattr(timing, field) for timing in timings.values()], "o-", label=label)
        axis.set(xlabel=CURVES[curve], ylabel="seconds", ylim=(0, None))
    print(f"peak memory {peak_memory(engine.device) / 1e9:.1f} GB")
    axes[0, 0].legend()
    figure.savefig(args.out)
    print(f"wrote {args.out}")


if __name__ == "__main__":
    main()
