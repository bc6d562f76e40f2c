"""`magic-rl evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from magic_rl.cli.options import A_MODEL, Overrides, Run
from magic_rl.cli.shown import columns
from magic_rl.cli.stopping import stoppable
from magic_rl.cli.view import Screen
from magic_rl.store.run import RunDirectory

if TYPE_CHECKING:
    from magic_rl.evaluation.result import Evaluation
    from magic_rl.runs.instead import Instead


def evaluate(
    run: Run,
    judge: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Another judge: the [judge] of this config file.")
    ] = None,
    seeds: Annotated[
        str | None,
        typer.Option(metavar="SOURCES", help="Other seeds, as data.seeds names them: a file or a named set."),
    ] = None,
    defender: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help=f"Another model beside the trained defender: {A_MODEL}"),
    ] = None,
    attackers: Annotated[
        Path | None, typer.Option(metavar="OTHER_RUN", help="The attackers of another run in place of its own.")
    ] = None,
    overrides: Overrides = None,
    again: Annotated[bool, typer.Option("--again", help="Repeat an evaluation that is up to date.")] = False,
) -> None:
    """Play every saved attacker against every saved defender on held-out seeds; print the table and a verdict.

    Writes evaluation.json (every number), items.jsonl (every exchange with its verdict), outcomes.json (what came of
    each seed), failures.json (what escaped or was refused), summary.tsv and cost.json into the run. If they are up to
    date, only the table is printed. After Ctrl-C or a crash the same command continues.

    With another judge, other seeds, another model, other attackers or settings they go into a folder of their own under
    evaluations/, and the run's own evaluation stays as it is. How many replies it takes is said before it begins.

    Examples:

      magic-rl evaluate runs/demo

      magic-rl evaluate runs/demo --judge guard.toml

      magic-rl evaluate runs/demo --seeds xstest --evaluation.max_seeds 100

      magic-rl evaluate runs/demo --defender http://localhost:8000/v1

      magic-rl evaluate runs/no-game --attackers runs/demo
    """
    said = ("unfinished/*/*", "evaluations/*/unfinished/*/*")  # what was said in an evaluation that has not ended
    with stoppable(lambda: any(next(run.glob(each), None) for each in said)):
        from magic_rl.report.tables import evaluation_table
        from magic_rl.runs.instead import Instead

        lent = RunDirectory.open(attackers) if attackers else None
        instead = Instead(judge, seeds, defender, lent, tuple(overrides or ()))
        typer.echo(evaluation_table(evaluation_of(run, instead, again=again), columns(80)))


def evaluation_of(run: Path, instead: Instead | None = None, *, again: bool = False) -> Evaluation:
    """Evaluate a run unless that is up to date."""
    from magic_rl.runs.evaluate import current
    from magic_rl.runs.evaluate import evaluate as play_all
    from magic_rl.runs.instead import OWN, subject_of

    directory = RunDirectory.open(run)
    subject = subject_of(directory, instead or OWN)
    found = None if again else current(subject)
    if found is None:
        with directory.lock(), Screen() as view:
            found = play_all(directory, view, instead or OWN)
    if subject.out is not directory:
        typer.echo(f"results: {subject.out.path}", err=True)
    return found
