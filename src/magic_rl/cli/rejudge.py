"""`magic-rl rejudge`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from magic_rl.cli.options import Overrides
from magic_rl.cli.shown import shown
from magic_rl.config import load_config
from magic_rl.errors import DataError

if TYPE_CHECKING:
    from magic_rl.evaluation.estimates import Estimate
    from magic_rl.evidence.rejudge import Compared, Error, Question, Rate, Row

_NAMED = 44  # characters shown of a row's name


def rejudge(
    results: Annotated[
        Path, typer.Argument(metavar="RESULTS", help="Items file, or the folder that holds it.", show_default=False)
    ],
    judge: Annotated[Path, typer.Option(metavar="FILE", help="Config file that names the judge.", show_default=False)],
    overrides: Overrides = None,
    checked: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="What `judge check --json` wrote of one of the judges. May be given twice."),
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the items with the new verdicts.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Label kept replies by another judge: how far it agrees with the first, and what becomes of every rate.

    With --checked, rates are corrected for a judge's error as people measured it. Answers of models are remembered, so
    after an interruption the same command goes on.

    Examples:

      magic-rl rejudge items.jsonl --judge guard.toml

      magic-rl rejudge items.jsonl --judge guard.toml --checked rules.json --checked guard.json --out rejudged.jsonl
    """
    settings = load_config(judge, overrides or ())
    from magic_rl.evidence.items import write_items
    from magic_rl.evidence.rejudge import compare, judged, judges_of, read_check, read_results, rows
    from magic_rl.runs.judge import make_judge

    items = read_results(results)
    errors = dict(map(read_check, checked or ()))
    before = next(iter(judges_of(items)), None)
    asked = make_judge(settings, needs_refusal=False)
    names = list(dict.fromkeys(filter(None, (before, asked.name))))
    if unknown := errors.keys() - set(names):
        raise DataError(f"--checked: is of {', '.join(sorted(unknown))}, and the judges are {', '.join(names)}")
    items = judged(items, asked, settings.judge.retries)
    if out is not None:
        write_items(out, items)
    table = rows(items, names, errors)
    agreement = compare(items, before, asked.name) if before and before != asked.name else {}
    if as_json:
        found = {question: asdict(each) for question, each in agreement.items()}
        typer.echo(json.dumps({"judges": names, "agreement": found, "rows": [asdict(row) for row in table]}, indent=2))
        return
    for line in (*_agreement(names, agreement), "", *_table(table), "", *_corrections(names, errors)):
        typer.echo(line)


def _agreement(names: Sequence[str], agreement: Mapping[Question, Compared]) -> Iterator[str]:
    yield shown(f"{names[0]}, then {names[-1]}" if len(names) > 1 else names[0])
    for question, found in agreement.items():
        same = found.counts.rates()["accuracy"]
        yield (
            f"  {question}: the same on {_percent(same)} of {same.n} replies, kappa {found.kappa.value:.2f} "
            f"[{found.kappa.low:.2f}, {found.kappa.high:.2f}]; {found.counts.only_judge} became yes, "
            f"{found.counts.only_label} no"
        )


def _table(table: Sequence[Row]) -> Iterator[str]:
    """ASR and compliance in percent with 95 % intervals, a line per judge under the name of each row."""
    heads = ("ASR ↓", "corrected", "compliance ↑", "corrected", "no verdict")
    yield f"{'%, 95 %':<{_NAMED}}" + "".join(f"{head:>20}" for head in heads)
    last = ""
    for row in table:
        name = shown(" ".join(filter(None, (row.set, row.method, row.model))), _NAMED)
        if name != last:
            yield name
        cells = (*_rates(row.asr), *_rates(row.compliance), str(row.abstained))
        yield f"{'  ' + shown(row.judge, _NAMED - 2):<{_NAMED}}" + "".join(f"{cell:>20}" for cell in cells)
        last = name


def _rates(rate: Rate) -> tuple[str, str]:
    return _percent(rate.observed), _percent(rate.corrected)


def _percent(rate: Estimate | None) -> str:
    if rate is None or not rate.n:
        return "–"
    return f"{100 * rate.value:.1f} [{100 * rate.low:.1f}, {100 * rate.high:.1f}]"


def _corrections(names: Sequence[str], errors: Mapping[str, Error]) -> Iterator[str]:
    """Whether rates are corrected for the judge's error, and by what measurement."""
    for name in names:
        error = errors.get(name)
        if not error:
            yield shown(f"{name}: rates are not corrected for its error; measure it by `judge sheet` and `judge check`")
            continue
        for question, counts in error.items():
            right = (counts.rates()["recall"], counts.opposite.rates()["recall"])
            yield shown(
                f"{name}: corrected for its error on {question} (sensitivity {_percent(right[0])} of {right[0].n}, "
                f"specificity {_percent(right[1])} of {right[1].n})"
            )
