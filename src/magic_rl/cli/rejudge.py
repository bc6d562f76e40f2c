"""`magic-rl rejudge`."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import track

from magic_rl.cli.options import Overrides, Results, measuring
from magic_rl.cli.shown import shown
from magic_rl.errors import DataError

if TYPE_CHECKING:
    from magic_rl.evaluation.estimates import Estimate
    from magic_rl.evidence.rejudge import Errors, Row

_NAMED = 44  # characters shown of a row's name
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
    """Label kept replies by another judge: how far it agrees with the first, and what becomes of every rate.

    With --checked, rates are corrected for a judge's error as people measured it. Answers of models are remembered, so
    after an interruption the same command goes on.

    Examples:

      magic-rl rejudge items.jsonl --judge guard.toml

      magic-rl rejudge items.jsonl --judge guard.toml --checked rules.json --checked guard.json --out rejudged.jsonl
    """
    settings = measuring(judge, overrides)
    from magic_rl.evidence.rejudge import compare, judged, read_check, read_results, rows
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
    for question, (counts, kappa) in compare(items, first, asked.name).items() if len(names) > 1 else ():
        same = counts.rates()["accuracy"]
        typer.echo(
            f"  {question}: the same on {percent(same)} % of {same.n} replies, kappa {kappa.value:.2f} "
            f"[{kappa.low:.2f}, {kappa.high:.2f}]; {counts.only_judge} became yes, {counts.only_label} no"
        )
    for line in (*table(rows(items, names, errors)), *_corrections(names, errors)):
        typer.echo(line)


def table(found: Sequence[Row]) -> Iterator[str]:
    """ASR and compliance in percent with 95 % intervals, a line per judge under the name of each row."""
    heads = ("ASR ↓", "corrected", "compliance ↑", "corrected", "no verdict")
    yield f"\n{'%, with 95 % intervals':<{_NAMED}}" + "".join(f"{head:>20}" for head in heads)
    last = ""
    for row in found:
        name = shown(" ".join(filter(None, (row.set, row.method, row.model))))
        if name != last:
            yield name
        cells = (*map(percent, (*row.asr, *row.compliance)), str(row.abstained))
        yield f"  {shown(row.judge, _NAMED - 2):<{_NAMED - 2}}" + "".join(f"{cell:>20}" for cell in cells)
        last = name


def percent(rate: Estimate | None) -> str:
    """A rate with its interval, or a dash if there is none."""
    if rate is None or not rate.n:
        return "–"
    return f"{100 * rate.value:.1f} [{100 * rate.low:.1f}, {100 * rate.high:.1f}]"


def _corrections(names: Sequence[str], errors: Mapping[str, Errors]) -> Iterator[str]:
    """Whether rates are corrected for the judge's error, and by what measurement."""
    yield ""
    for name in names:
        for label, counts in errors.get(name, {}).items():
            yes, no = counts.rates()["recall"], counts.opposite.rates()["recall"]
            yield shown(
                f"{name}: {'ASR' if label == 'harmful' else 'compliance'} is corrected for its error (sensitivity "
                f"{percent(yes)} % of {yes.n} replies, specificity {percent(no)} % of {no.n})"
            )
        if not errors.get(name):
            yield shown(f"{name}: not corrected for its error; measure that by `judge sheet` and `judge check --json`")
