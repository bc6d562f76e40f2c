"""`magic-rl rejudge`."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import track

from magic_rl.cli.options import Overrides, Results, measuring
from magic_rl.cli.shown import columns, shown
from magic_rl.errors import DataError

if TYPE_CHECKING:
    from magic_rl.evidence.rejudge import Errors, Row

_AT_ONCE = 256  # replies judged between two steps of the progress


def rejudge(
    results: Results,
    judge: Annotated[Path, typer.Option(metavar="FILE", help="Config file that names the judge.", show_default=False)],
    overrides: Overrides = None,
    checked: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="What `judge check --json` wrote of one of the judges. May be given twice."),
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the items with the new verdicts.")] = None,
) -> None:
    """Label saved replies by another judge: how well it agrees with the first, and how each rate changes.

    With --checked, rates are corrected for a judge's error, measured against people's labels. Answers of models are
    remembered, so after an interruption the same command continues.

    Examples:

      magic-rl rejudge items.jsonl --judge guard.toml

      magic-rl rejudge items.jsonl --judge guard.toml --checked rules.json --checked guard.json --out rejudged.jsonl
    """
    settings = measuring(judge, overrides)
    from magic_rl.evidence.rejudge import compare, judged, read_check, read_results, rows
    from magic_rl.report import tables
    from magic_rl.runs.judge import make_judge
    from magic_rl.store.atomic import write_rows

    items = read_results(results)
    errors = {check.judge: check.errors for check in map(read_check, checked or ())}
    asked = make_judge(settings, needs_refusal=False)
    first = next((each.judge for item in items for each in item.verdicts), asked.name)
    names = list(dict.fromkeys((first, asked.name)))
    if len(names) == 1 and any(item.verdicts for item in items):
        typer.echo(shown(f"{first}: is the judge that labelled these before, so there is nothing to compare"), err=True)
    if unknown := errors.keys() - set(names):
        raise DataError(f"--checked: is of {', '.join(sorted(unknown))}, and the judges are {', '.join(names)}")
    parts = [items[start : start + _AT_ONCE] for start in range(0, len(items), _AT_ONCE)]
    quiet = not sys.stderr.isatty()
    bar = track(parts, "judging", console=Console(stderr=True), disable=quiet, transient=True)
    items = [item for part in bar for item in judged(part, asked, settings.judge.retries)]
    if out is not None:
        write_rows(out, items)
    typer.echo(shown(", then ".join(names)))
    for question, (counts, same, kappa) in compare(items, first, asked.name).items() if len(names) > 1 else ():
        typer.echo(
            f"  {question}: the same on {tables.shown(same, exact=True)} % of {same.n} replies, "
            f"kappa {kappa.value:.2f} [{kappa.low:.2f}, {kappa.high:.2f}]; {counts.only_judge} became yes, "
            f"{counts.only_label} no"
        )
    for line in ("", table(rows(items, names, errors), columns(144)), "", *_corrections(names, errors)):
        typer.echo(line)


def table(found: Sequence[Row], width: int) -> str:
    """ASR and compliance in percent with 95 % intervals, a line per judge under the name of each row."""
    from magic_rl.report import tables

    head = ("%, with 95 % intervals", "ASR ↓", "corrected", "compliance ↑", "corrected", "no verdict")
    lines: list[Sequence[str]] = [head]
    for name, of in groupby(found, lambda row: shown(" ".join(filter(None, (row.set, row.method, row.model))))):
        lines.append((name,))
        for row in of:
            cells = (*(tables.shown(rate, exact=True) for rate in (*row.asr, *row.compliance)), str(row.abstained))
            lines.append((f"  {shown(row.judge)}", *cells))
    return tables.laid_out(lines, width)


def _corrections(names: Sequence[str], errors: Mapping[str, Errors]) -> Iterator[str]:
    """Whether rates are corrected for the judge's error, and by what measurement."""
    from magic_rl.report import tables

    for name in names:
        for label, counts in errors.get(name, {}).items():
            found = (counts.rates()["recall"], counts.opposite.rates()["recall"])
            yes, no = (f"{tables.shown(rate, exact=True)} % of {rate.n}" for rate in found)
            yield shown(
                f"{name}: {'ASR' if label == 'harmful' else 'compliance'} is corrected for its error (sensitivity "
                f"{yes} replies, specificity {no})"
            )
        if not errors.get(name):
            yield shown(f"{name}: not corrected for its error; measure that by `judge sheet` and `judge check --json`")
