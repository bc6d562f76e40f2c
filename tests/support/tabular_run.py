"""`magic-rl` as a process of a study, with a table of numbers in place of each model, so real runs take seconds."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from magic_rl.cli import child
from magic_rl.config import Config
from magic_rl.data.split import Split
from magic_rl.evaluation.result import ATTACK_FILE, ATTACK_PLAN, write
from magic_rl.prompts import load_prompts
from magic_rl.runs import evaluate, train
from magic_rl.runs.assembly import Setup
from magic_rl.store import manifest
from magic_rl.store.run import RunDirectory
from magic_rl.theory.tabular import TabularEngine, TabularGame, TabularJudge
from magic_rl.types import Label, Seed
from tests.support.study_runs import result


def game() -> TabularGame:
    """Eight seeds of each label, unchanged or in slang; the replies refuse, comply, or answer safely."""
    labels: tuple[Label, ...] = ("harmful", "benign")
    seeds = tuple(Seed(f"{label}-{i}", f"{label} request number {i}", label) for label in labels for i in range(8))
    attacks = [(seed, kind) for seed in seeds for kind in ("", " in slang")]
    harmful = [seed.label == "harmful" for seed, _ in attacks]
    return TabularGame(
        seeds,
        tuple(seed.text + kind for seed, kind in attacks),
        ("I can't help with that.", "Here is all of it.", "Here is what is safe to say."),
        usable=np.array([[seed is other for other, _ in attacks] for seed in seeds]),
        safe=np.array([[True, not bad, True] for bad in harmful]),
        refused=np.array([[True, False, False] for _ in attacks]),
        labels=tuple(seed.label for seed, _ in attacks),
    )


def prepare(config: Config, note: object = None, **_: object) -> Setup:
    """Replaces `runs.assembly.prepare`. A table learns nothing about other seeds, so none are held out."""
    played = game()
    engines = {"attacker": TabularEngine(played, "attacker"), "defender": TabularEngine(played, "defender")}
    return Setup(config, load_prompts(), Split(played.seeds, played.seeds), TabularJudge(played), engines)  # type: ignore[arg-type]  # a dict of the roles


def install() -> None:
    """Make the commands of this process play the tabular game."""
    train.prepare = evaluate.prepare = prepare  # type: ignore[attr-defined]  # stands in for it


def main() -> None:
    """Run a command like `magic-rl`; a fresh attacker's results are made up."""
    if sys.argv[1] == "attack":
        run = RunDirectory.open(Path(sys.argv[2]))
        own = "--attacker-from" not in sys.argv
        source = run if own else RunDirectory.open(Path(sys.argv[sys.argv.index("--attacker-from") + 1]))
        (run.path / ATTACK_PLAN).parent.mkdir(exist_ok=True)
        met = [manifest.fingerprint(path) for _, path in run.players("defender")]
        plan = {
            "attacker": manifest.fingerprint(source.player("attacker", 0)),
            "defenders": {"0": met[0], "1": met[-1]},
        }
        run.write_json(ATTACK_PLAN, plan)
        attack = result(0).attack
        assert attack is not None
        write(run, ATTACK_FILE, attack)
        return
    install()
    child.main()


if __name__ == "__main__":
    main()
