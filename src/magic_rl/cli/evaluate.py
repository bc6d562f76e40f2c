"""`magic-rl evaluate`."""

from __future__ import annotations

from magic_rl.cli.options import Run


def evaluate(run: Run) -> None:
    """Play every saved attacker against every saved defender on held-out seeds and print the table.

    Writes evaluation.json (all pairs) and summary.json (the table) into the run.

    Example:

      magic-rl evaluate runs/demo
    """
    from magic_rl.cli.table import print_summary
    from magic_rl.cli.view import make_view
    from magic_rl.evaluation.crossplay import evaluate as crossplay
    from magic_rl.store.run import RunDirectory

    directory = RunDirectory.open(run)
    crossplay(directory, make_view())
    print_summary(directory.read_json("summary.json"))
