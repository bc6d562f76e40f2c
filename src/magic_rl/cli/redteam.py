"""`magic-rl redteam`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from magic_rl.cli.options import Overrides, Round, Target
from magic_rl.cli.shown import columns, shown
from magic_rl.cli.stopping import stoppable
from magic_rl.config import load_config


def redteam(
    target: Target,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where results and items are written.")],
    attacks: Annotated[
        str, typer.Option(metavar="A,B,…", help="Or past-tense, multi-turn, pair, tap, crescendo, gcg.")
    ] = "best-of-n,prefill,many-shot",
    budget: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Queries per seed and attack; by default those of docs/BENCHMARKS.md."),
    ] = None,
    number: Round = None,
    attacker: Annotated[
        str, typer.Option(metavar="RUN", help="multi-turn: the run whose attacker it is; by default the target's.")
    ] = "",
    pyrit: Annotated[Path | None, typer.Option(metavar="PYTHON", help="Interpreter that has PyRIT.")] = None,
    nanogcg: Annotated[Path | None, typer.Option(metavar="PYTHON", help="Interpreter that has nanoGCG.")] = None,
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Config file; names judge, seeds and attacker.writer.")
    ] = None,
    overrides: Overrides = None,
) -> None:
    """Attack a model with attacks that are not in training, on a budget of queries; print ASR by attack and worst case.

    Each seed is attacked until it breaks or the budget is spent. For past-tense, pair, tap and crescendo a model writes
    the attacks: attacker.writer. pair, tap and crescendo are PyRIT's, gcg is nanoGCG's. Writes redteam.json, and every
    query with its reply and verdict into items.jsonl. After Ctrl-C the same command continues.

    Examples:

      magic-rl redteam runs/demo --attacks best-of-n,prefill,many-shot,multi-turn --budget 10 --out redteam

      magic-rl redteam http://localhost:8000/v1 --attacks pair,tap --pyrit pyrit/bin/python --out redteam \
--set attacker.writer.url=http://localhost:8001/v1 --set attacker.writer.model=NAME
    """
    with stoppable((out / "answers.sqlite").is_file):
        from magic_rl.report.tables import redteam_table
        from magic_rl.runs.redteam import Attackers, RedTeamSpec

        spec = RedTeamSpec(target, attacker, number, budget, None, {"pyrit": pyrit, "nanogcg": nanogcg})
        settings = load_config(config or spec.settings_file, overrides or ())
        names = tuple(name.strip() for name in attacks.split(",") if name.strip())
        found = Attackers(spec, settings, out, partial(typer.echo, err=True)).redteam(names)
    typer.echo(redteam_table(found, columns(80)))
    for name, row in found.attacks.items():
        if row.errors:
            typer.echo(shown(f"{name}: {row.errors} errors, most often: {row.why}"))
