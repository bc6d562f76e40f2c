"""A benchmark as a table for a terminal, and as a figure: attack success against compliance."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
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
    "answered, with 95 % Wilson intervals clustered by seed. release: as the paper's code counts; RTA is refusal to "
    "answer. left out: calls without a reply, and replies without a label, which count for neither side of ours."
)


def benchmark_table(result: Result, width: int = 100) -> str:
    """All sets by both counting rules, and the change from the other model; or the scores of an lm-eval task."""
    if result.scores:
        rows = [(task, name, f"{value:.4g}") for task, found in result.scores.items() for name, value in found.items()]
        return laid_out([("task", "metric", "value"), *rows], width)
    head = ("set", "rows", "ours, %", "release, %", "left out", "cut, %")
    table = laid_out([head, *map(_cells, result.lines)], width)
    parts = [f"{result.model}, judged by {result.judge}", table, "", *textwrap.wrap(_ABOUT, width)]
    if result.changes:
        lines = [("set", "change, points", "p", "seeds")]
        for one in result.changes:
            p_value = DASH if one.change.p_value is None else f"{one.change.p_value:.2g}"
            lines.append((f"{one.set} {one.label}", shown(one.change, "change"), p_value, str(one.change.n)))
        parts += [f"\nagainst {result.against}, the same items; p: exact binomial test of the seeds that changed"]
        parts.append(laid_out(lines, width))
    return "\n".join(parts)


def _cells(line: Line) -> Sequence[str]:
    name = f"  {line.part}" if line.part else line.set
    ours = f"{'ASR' if line.measure == 'asr' else line.measure} {shown(line.ours)}"
    release = f"{'RTA ' if line.release_measure == 'rta' else ''}{shown(line.release)}"
    return (name, str(line.asked), ours, release, f"{line.failed} + {line.unlabelled}", f"{line.cut_off:.0%}"[:-1])


def write_figure(result: Result, out: Path) -> Path | None:
    """Draw the model, and the one it is compared with, by its rates on all harmful and all benign rows.

    Returns:
        The file; None if the model has no rate for one of the labels.
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
