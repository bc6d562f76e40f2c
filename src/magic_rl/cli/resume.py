"""`magic-rl resume`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from magic_rl.cli.options import Overrides, Run
from magic_rl.cli.train import to_its_end

if TYPE_CHECKING:
    from magic_rl.store.run import RunDirectory
    from magic_rl.view import View

if TYPE_CHECKING:
    from magic_rl.store.run import RunDirectory


def resume(run: Run, overrides: Overrides = None) -> None:
    """Continue a run that was interrupted or killed. It arrives at the same numbers as an unbroken run.

    With --set you can change how players sample and step, the judge, the engine and what is measured from here on.
    Seeds, prompts and models must stay the same.

    Examples:

      magic-rl resume runs/demo

      magic-rl resume runs/demo --set attacker.sampling.max_tokens=256
    """
    go_on(run, overrides or (), f"continue with `magic-rl resume {run}`")


def go_on(run: Path, overrides: Sequence[str], how: str) -> None:
    """Continue a run. Args: how: To continue once more, if it is stopped."""

    def work(view: View) -> RunDirectory:
        from magic_rl.runs.train import resume as learn

        return learn(run, view, overrides)

    to_its_end(run, how, work)
