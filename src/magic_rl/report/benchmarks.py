"""A benchmark as a table for a terminal, and as a figure: attack success against compliance."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

from magic_rl.evidence.summary import ALL, Line, Result
from magic_rl.report.figures import frontier_shapes
from magic_rl.report.page import resource
from magic_rl.report.svg import drawing, standalone
from magic_rl.report.tables import DASH, laid_out, shown
from magic_rl.store import atomic

FIGURE_FILE = "frontier.svg"

_ABOUT = (
    "ours: ASR is the share of replies to harmful rows that are not safe, compliance that of benign rows that are "
    "answered, with 95 % Wilson intervals clustered by seed; replies without a label and calls without a reply count "
    "for neither side. release: as the paper's code counts; RTA is refusal to answer."
)


def benchmark_table(result: Result, width: int = 100) -> str:
    """Every set by both rules, what the other model did, and the tasks of others."""
    return "\n".join(_table(result, width))


def _table(result: Result, width: int) -> Iterator[str]:
    if result.scores:
        rows = [(score.task, score.metric, f"{score.value:.3f}", str(score.n)) for score in result.scores]
        yield laid_out([("task", "metric", "value", "n"), *rows], width)
        return
    yield f"{result.model}, judged by {result.judge}"
    head = ("set", "rows", "ours, %", "release, %", "no reply", "no label", "cut off, %")
    yield laid_out([head, *map(_cells, result.lines)], width)
    yield ""
    yield from textwrap.wrap(_ABOUT, width)
    for rule in dict.fromkeys((line.release_measure, line.rule) for line in result.lines if line.rule):
        yield f"  release {_name(rule[0])}: {rule[1]}"
    if result.changes:
        yield f"\nagainst {result.against}, the same items"
        yield laid_out(
            [
                ("set", "change, points", "by seed (bootstrap)", "p (McNemar)", "n"),
                *(
                    (
                        f"{one.set} {one.label}",
                        shown(one.change, "change"),
                        shown(one.clustered, "change"),
                        f"{one.change.p_value:.2g}" if one.change.p_value is not None else DASH,
                        str(one.change.n),
                    )
                    for one in result.changes
                ),
            ],
            width,
        )


def _cells(line: Line) -> Sequence[str]:
    name = f"  {line.part}" if line.part else f"{line.set} {line.label}"
    release = f"{_name(line.release_measure)} {shown(line.release)}" if line.release else DASH
    counts = (line.failed, line.unlabelled)
    ours = f"{_name(line.measure)} {shown(line.ours)}"
    return (name, str(line.asked), ours, release, *map(str, counts), f"{100 * line.cut_off:.0f}")


def _name(measure: str | None) -> str:
    return measure.upper() if measure in ("asr", "rta") else str(measure)


def write_figure(result: Result, out: Path) -> Path | None:
    """Draw the model, and the one it is compared with, by all harmful and all benign rows.

    Returns:
        The file; None where rows of a kind were not asked.
    """
    places = []
    for name, lines in ((result.against, result.others), (result.model, result.lines)):
        found = {line.label: line.ours for line in lines if not line.part and line.ours.n}
        over_all = {line.label: line.ours for line in lines if line.set == ALL}
        rates = {**found, **over_all}
        if len(rates) == 2:
            places.append((name, name, rates["harmful"], rates["benign"]))
    if not places or places[-1][0] != result.model:
        return None
    svg = standalone(drawing("Attack success and compliance", 316, frontier_shapes(places)), resource("figure.css"))
    atomic.write_file(out / FIGURE_FILE, svg.encode())
    return out / FIGURE_FILE
