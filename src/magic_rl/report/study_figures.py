"""The figure of a study: what training changed, run by run and over the runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from magic_rl.report import svg
from magic_rl.report.figures import Figure
from magic_rl.report.study_table import measure_title
from magic_rl.report.svg import Axis

_WIDTH, _LEFT, _RIGHT = 470, 226, 450
_ROW = 30


def changes(preset: Mapping[str, Any]) -> Figure | None:
    """Every change of a preset: mean and interval as a bar, each run as a dot below; None if nothing was measured."""
    found = [
        (measure_title(measure, attacker), change)
        for measure in ("asr", "compliance", "j")
        for attacker, change in preset["change"].get(measure, {}).items()
        if change
    ]
    if not found:
        return None
    marks = [100 * x for _, c in found for x in (c["mean"], c["low"], c["high"], *c["values"]) if x is not None]
    ticks = svg.ticks(min([0.0, *marks]), max([0.0, *marks]))
    axis, bottom = Axis(ticks[0], ticks[-1], _LEFT, _RIGHT), len(found) * _ROW
    shapes = [svg.line((axis.at(tick),) * 2, (0, bottom), "grid" if tick else "zero") for tick in ticks]
    shapes += [svg.text(axis.at(tick), bottom + 16, f"{tick:+g}" if tick else "0", "middle") for tick in ticks]
    rows = []
    for i, (label, change) in enumerate(found):
        y, mean = i * _ROW + 11.0, axis.at(100 * change["mean"])
        low, high = (None if change[end] is None else 100 * change[end] for end in ("low", "high"))
        interval = "–" if low is None or high is None else f"{low:+.1f} to {high:+.1f}"
        shapes.append(svg.text(_LEFT - 8, y + 4, label, "end"))
        if low is not None and high is not None:
            shapes.append(svg.curve([(axis.at(low), y), (axis.at(high), y)], "fourth"))
        tip = f"{label}: {100 * change['mean']:+.1f} ({interval})"
        shapes.append(svg.box((mean - 2.5, mean + 2.5), (y - 5, y + 5), "fill-4", tip))
        shapes += [svg.curve([(axis.at(100 * value), y + 10)], "attacker") for value in change["values"]]
        each = " ".join(f"{100 * value:+.1f}" for value in change["values"])
        rows.append((label, f"{100 * change['mean']:+.1f}", interval, each))
    title = "Change in training, points"
    note = "Bar: mean over runs with its 95 % interval. Dots below: each run. ASR is better lower, the others higher."
    legend = (("fourth", "mean and interval"), ("attacker", "each run"))
    drawn = svg.drawing(_WIDTH, bottom + 24, f"{title}. The numbers follow as a table.", shapes)
    return Figure(title, note, drawn, legend, ("Measure", "Mean", "Interval", "Each run"), tuple(rows))
