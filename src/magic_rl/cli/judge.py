"""`magic-rl judge`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from magic_rl.cli.options import AsJson, Overrides, Results, measuring
from magic_rl.cli.shown import columns, shown
from magic_rl.errors import DataError

if TYPE_CHECKING:
    from magic_rl.data.labelled import Labelled, LabelledSet
    from magic_rl.evaluation.agreement import Agreement
    from magic_rl.types import Verdict

judge = typer.Typer(no_args_is_help=True, help="Judges: who labels, and how far to trust them.")

_WIDTH = 60  # characters shown of a request and of a reply
_READ = 600  # characters looked at for them

_Disagreement = tuple[int, str, str, bool, str]  # rank, place, question, label, and a line to print


@judge.command()
def check(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="Labelled replies: .csv, .tsv, .jsonl or .parquet.", show_default=False),
    ],
    config: Annotated[Path | None, typer.Option(metavar="FILE", help="Config file; names the judge.")] = None,
    overrides: Overrides = None,
    request_column: Annotated[str, typer.Option(help="What was asked. Usual: prompt, seed.")] = "",
    reply_column: Annotated[str, typer.Option(help="What was answered. Usual: response, reply.")] = "",
    label_column: Annotated[str, typer.Option(help="Whether the request is harmful or benign. Usual: label.")] = "",
    refused_column: Annotated[str, typer.Option(help="Whether the reply refuses. Usual: refused.")] = "",
    harmful_column: Annotated[str, typer.Option(help="Whether the reply is harmful. Usual: harmful.")] = "",
    requests: Annotated[
        Literal["harmful", "benign"], typer.Option(help="What requests are where no column says so.")
    ] = "harmful",
    skip: Annotated[
        list[str] | None,
        typer.Option(metavar="VALUE", help="A label value that is no answer. May be given many times."),
    ] = None,
    off_topic: Annotated[
        bool, typer.Option("--off-topic", help="The labels call a reply off the topic a refusal; do so, too.")
    ] = False,
    show: Annotated[int, typer.Option(min=0, help="Disagreements to show.")] = 10,
    as_json: AsJson = False,
) -> None:
    """Compare a judge with replies that people labelled: accuracy, precision, recall, F1, and where they disagree.

    Examples:

      magic-rl judge check labelled.csv

      magic-rl judge check labelled.csv --set judge.kind=qwen3guard --set judge.endpoint.model=Qwen/Qwen3Guard-Gen-4B

      magic-rl judge check xstest.csv --reply-column completion --refused-column final_label \
--skip 3_partial_refusal --requests benign
    """
    settings = measuring(config, overrides)
    from magic_rl.judges.asking import ask
    from magic_rl.runs.judge import make_judge

    named = {"request": request_column, "reply": reply_column, "label": label_column}
    named |= {"refused": refused_column, "harmful": harmful_column}
    labelled = _labelled(file, named, requests, skip or ())
    asked = make_judge(settings, needs_refusal=False)
    exchanges = [row.exchange for row in labelled.rows]
    verdicts = ask(asked, exchanges, retries=settings.judge.retries, max_abstained=1.0, needs_refusal=False)
    silence = Counter(verdict.abstained for verdict in verdicts if verdict.abstained is not None)
    answers = [_answers(verdict, off_topic) for verdict in verdicts]
    wrong = _disagreements(labelled.rows, answers)
    if as_json:
        said = {"judge": asked.name, "file": str(file), "rows": len(labelled.rows), "left_out": labelled.left_out}
        typer.echo(json.dumps({**said, **_as_json(labelled.rows, answers, silence, wrong)}, indent=2))
    elif silence.total() < len(verdicts):
        results = dict(_results(labelled.rows, answers))
        typer.echo("\n".join(_report(asked.name, labelled, results, wrong, show)))
    silent = silence.total() == len(verdicts)
    for reason, times in silence.most_common() if silent or not as_json else ():
        typer.echo(f"no verdict on {times} of {len(verdicts)} replies: {shown(reason)}", err=True)
    if silent:
        raise typer.Exit(1)


@judge.command()
def sheet(
    results: Results,
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where the sheet goes; its key goes beside it.")] = Path(
        "sheet.csv"
    ),
    n: Annotated[int, typer.Option("--n", min=1, help="Replies to label.")] = 100,
    rng_seed: Annotated[int, typer.Option(min=0, help="Of the draw and the order.")] = 0,
) -> None:
    """Write a blinded sheet of replies for people to label: no judge's labels, no models' names, in random order.

    Fill in the columns refused and harmful with yes or no; leave out what you cannot tell. Keep the key away from who
    labels. `magic-rl judge check` reads the filled sheet with its key and measures any judge against it.

    Examples:

      magic-rl judge sheet items.jsonl --n 200 --out sheet.csv

      magic-rl judge check sheet.csv --config guard.toml --json > checked.json
    """
    from magic_rl.evidence.rejudge import read_results
    from magic_rl.evidence.sheet import key_of, write_sheet

    count = write_sheet(out, read_results(results), n, rng_seed)
    typer.echo(f"{out}: {count} replies to label; the key is {key_of(out)}")


def _labelled(
    file: Path, columns: dict[str, str], requests: Literal["harmful", "benign"], skip: Sequence[str]
) -> LabelledSet:
    """The labelled replies, with what a blinded sheet's key knows; a column that is to blame is called by its flag."""
    from magic_rl.data.labelled import load_labelled
    from magic_rl.evidence.sheet import key_of, unblinded

    try:
        labelled = load_labelled(file, columns, requests=requests, skip=skip)
    except DataError as error:
        if not error.about:
            error.remedy = "skip values" if ", expected one of " in str(error) else ""
            raise
        raise DataError(f"--{error.about.replace(' or ', '-column or --')}-column: {error}") from error
    if not (key := key_of(file)).exists():
        return labelled
    typer.echo(f"what was judged is from {key}", err=True)
    return unblinded(labelled, key)


def _answers(verdict: Verdict, off_topic: bool) -> dict[str, bool | None]:
    """What a verdict says of each question; None if it abstains. Controversial counts as harmful."""
    if verdict.abstained is not None:
        return {"refused": None, "harmful": None}
    left = off_topic and verdict.on_topic is False
    refused = None if verdict.refused is None else verdict.refused or left
    return {"refused": refused, "harmful": verdict.safety != "safe"}


def _as_json(
    rows: Sequence[Labelled],
    answers: Sequence[dict[str, bool | None]],
    silence: Counter[str],
    wrong: Sequence[_Disagreement],
) -> dict[str, Any]:
    """All that was measured. `errors` is what `rejudge` corrects by: how the judge tells what each rate counts."""
    measured = {
        question: {"confusion": asdict(result), **{name: asdict(rate) for name, rate in result.rates().items()}}
        for question, result in _results(rows, answers)
    }
    errors = {}
    for label, question in (("harmful", "harmful"), ("benign", "refused")):
        of = [both for both in zip(rows, answers, strict=True) if both[0].exchange.seed.label == label]
        found = dict(_results([row for row, _ in of], [answer for _, answer in of])).get(question)
        if found:
            errors[label] = asdict(found if label == "harmful" else found.opposite)
    listed = [{"place": place, "question": question, "label": label} for _, place, question, label, _ in wrong]
    return {**measured, "errors": errors, "abstained": dict(silence), "disagreements": listed}


def _results(rows: Sequence[Labelled], answers: Sequence[dict[str, bool | None]]) -> Iterator[tuple[str, Agreement]]:
    """The agreement on each question that some row has a label for and the judge an answer to."""
    from magic_rl.evaluation.agreement import Agreement

    for question in ("refused", "harmful"):
        pairs = [
            (label, answer[question])
            for row, answer in zip(rows, answers, strict=True)
            if (label := getattr(row, question)) is not None
        ]
        if any(answer is not None for _, answer in pairs):
            yield question, Agreement.of([label for label, _ in pairs], [answer for _, answer in pairs])


def _disagreements(rows: Sequence[Labelled], answers: Sequence[dict[str, bool | None]]) -> list[_Disagreement]:
    """What judge and people disagree on, the worst first.

    Worst is what would hide harm: a harmful reply called safe, then an answer to a harmful request called a refusal.
    """
    found = []
    for row, answer in zip(rows, answers, strict=True):
        for question in ("refused", "harmful"):
            label = getattr(row, question)
            if label is None or answer[question] in (None, label):
                continue
            hides = label if question == "harmful" else not label and row.exchange.seed.label == "harmful"
            rank = (0 if question == "harmful" else 1) if hides else 2
            texts = f"{shown(row.exchange.seed.text[:_READ], _WIDTH)} | {shown(row.exchange.reply[:_READ], _WIDTH)}"
            where = shown(Path(row.place).name)
            said = question if answer[question] else f"not {question}"
            found.append((rank, row.place, question, label, f"{where} judge: {said} | {texts}"))
    return sorted(found, key=lambda item: item[0])


def _report(
    name: str, labelled: LabelledSet, results: dict[str, Agreement], wrong: Sequence[_Disagreement], most: int
) -> Iterator[str]:
    from magic_rl.report import tables

    left_out = f", {labelled.left_out} without a label left out" if labelled.left_out else ""
    yield f"judge {name}: {len(labelled.rows)} labelled replies{left_out}"
    for question, result in results.items():
        yield ""
        rates = ((f"  {name}", tables.shown(rate, exact=True), str(rate.n)) for name, rate in result.rates().items())
        yield tables.laid_out([(question, "%, with 95 % interval", "n"), *rates], columns(80))
        yield f"  label yes: judge yes {result.both}, no {result.only_label}"
        yield f"  label no:  judge yes {result.only_judge}, no {result.neither}"
    if wrong and most:
        yield f"\ndisagreements ({min(most, len(wrong))} of {len(wrong)}, the worst first)"
    yield from (line for *_, line in wrong[:most])
