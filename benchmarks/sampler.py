"""Times the demo's step with the built-in sampler and with vLLM, in one run on one machine.

    python benchmarks/sampler.py --python ~/vllm/bin/python [--steps 3] [--config demo] [--set KEY=VALUE] [--json]

Both play the same seeds with untrained adapters, like the first steps of the game. The draws differ, and so do the
lengths, so tokens per second are printed beside seconds. Loading a version into the server counts as sampling. vLLM's
CPU build needs `--arguments="--max-model-len 1024 --no-enable-chunked-prefill"`; see docs/scale.md.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
from pathlib import Path

from magic_rl.config import load_config
from magic_rl.game.schedule import Schedule
from magic_rl.learning.coevolve import coevolve
from magic_rl.runs.assembly import prepare

# Limits that would stop a run of untrained players.
PATIENT = ("learning.max_cut_off=1.0", "learning.max_degenerate=1.0", "judge.max_abstained=1.0")


def timed(config: Path, settings: list[str], steps: int) -> dict[str, dict[str, float]]:
    """Median timings over each player's steps."""
    setup = prepare(load_config(config, [*PATIENT, *settings]))
    print(f"{setup.engines['defender'].path}", file=sys.stderr)
    start = Schedule.start(setup.config.game.schedule)
    rows: dict[str, list[dict[str, float]]] = {}
    for step in itertools.islice(coevolve(setup.arena(), start), steps):
        print(f"step {step.number}: {step.timing['seconds']:.1f} s", file=sys.stderr)
        rows.setdefault(str(step.metrics["learner"]), []).append(step.timing)
    return {
        learner: {key: statistics.median(row[key] for row in timings) for key in timings[0]}
        for learner, timings in rows.items()
    }


def main() -> None:
    """Print both timings and their ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", required=True, help="Python of vLLM's environment")
    parser.add_argument("--arguments", default="--max-model-len 1024", help="of `vllm serve`")
    parser.add_argument("--config", type=Path, default=Path("demo"))
    parser.add_argument("--steps", type=int, default=6, help="a multiple of a round shows both players")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    rounds = [
        "game.schedule.defender_steps=1",
        "game.schedule.attacker_steps=1",
        "game.schedule.rounds=100",
        *given.set,
    ]
    served = [
        "engine.sampler=vllm",
        f"engine.vllm.python={given.python}",
        f"engine.vllm.arguments={json.dumps(given.arguments.split())}",
    ]
    found = {
        name: timed(given.config, [*rounds, *more], given.steps) for name, more in (("ours", []), ("vLLM", served))
    }
    if given.json:
        print(json.dumps(found, indent=2))
        return
    for learner in found["ours"]:
        for name in found:
            row = found[name][learner]
            print(
                f"{learner}'s step, {name}: {row['seconds']:.1f} s, of which sampling {row['sample_seconds']:.1f} "
                f"({row['tokens_per_second']:.0f} tokens/s) and learning {row['learn_seconds']:.1f}"
            )
        ratio = found["ours"][learner]["seconds"] / found["vLLM"][learner]["seconds"]
        print(f"{learner}'s step: vLLM is {ratio:.2f} times as fast")


if __name__ == "__main__":
    main()
