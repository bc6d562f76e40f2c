"""The report's figures as plain SVG and tables, so that the page needs no script.

Every figure comes with the numbers it draws, for those who cannot see it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import fmean
from typing import Any

from markupsafe import Markup

from magic_rl.report import svg
from magic_rl.report.svg import Axis

Row = Mapping[str, Any]
Points = Sequence[tuple[float, float | None]]

_WIDTH, _HEIGHT = 400, 232  # user units; figure.css decides the size on the screen
_LEFT, _RIGHT, _TOP, _BOTTOM = 42, 386, 22, 198
_QUARTERS = (0.0, 0.25, 0.5, 0.75, 1.0)
_MOST_TIPS = 400
_BAR, _BAR_STEP, _BAR_LEFT = 26, 36, 112


@dataclass(frozen=True, slots=True)
class Series:
    """One line of a chart: its name, its key in the metrics and its class in the style sheet."""

    name: str
    key: str
    style: str


@dataclass(frozen=True, slots=True)
class Figure:
    """A drawing and all that goes with it.

    Attributes:
        note: How to read it, in a sentence or two.
        legend: Class and name of what is drawn.
        head: Column titles of the numbers.
        rows: The numbers, as shown.
    """

    title: str
    note: str
    svg: Markup
    legend: tuple[tuple[str, str], ...]
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def _percent(value: float) -> str:
    return f"{value:.0%}"


def _number(value: float) -> str:
    """With as many decimals as are worth reading."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


_CHARTS: Sequence[tuple[str, str, Callable[[float], str], tuple[Series, ...]]] = (
    (
        "Attack success and refusals",
        "Shares of each step's training episodes. A step has few of them; see cross-play for measured rates.",
        _percent,
        (
            Series("attacks that succeed", "asr", "attacker"),
            Series("harmful seeds refused", "refusal_harmful", "defender"),
            Series("benign seeds refused", "refusal_benign", "third"),
        ),
    ),
    (
        "Rewards",
        "Mean reward of each player's episodes.",
        _number,
        (Series("attacker", "reward_attacker", "attacker"), Series("defender", "reward_defender", "defender")),
    ),
    (
        "Format and signal",
        "Attacks in the required format, and groups whose rewards differ: the others teach nothing.",
        _percent,
        (
            Series("well-formed attacks", "format_rate", "attacker"),
            Series("groups with signal", "groups_with_signal", "third"),
        ),
    ),
    (
        "Masked episodes",
        "Episodes a step that enter no loss: cut off by the length limit, or without a verdict.",
        _number,
        (Series("cut off", "masked_cut_off", "third"), Series("judge abstained", "masked_abstained", "fourth")),
    ),
    (
        "Operating point",
        "Benign requests answered in each step's episodes, and the rate that the learning defender is held to, if any.",
        _percent,
        (Series("benign requests answered", "compliance", "defender"), Series("target", "compliance_target", "third")),
    ),
    (
        "Weight of benign requests",
        "The multiplier that holds the operating point: how much a benign request counts beside a harmful one.",
        _number,
        (Series("multiplier", "benign_multiplier", "fourth"),),
    ),
    (
        "Helpfulness",
        "How helpful the judge finds replies to benign seeds, 0 to 1; only judges that score it.",
        _percent,
        (Series("replies to benign seeds", "quality_benign", "defender"),),
    ),
    (
        "Lengths",
        "Mean tokens of an output.",
        _number,
        (Series("attacks", "attack_tokens", "attacker"), Series("replies", "reply_tokens", "defender")),
    ),
)


def curves(rows: Sequence[Row]) -> list[Figure]:
    """What happened step by step; only charts that have something to show.

    Args:
        rows: Rows of metrics.jsonl.
    """
    play = [row for row in rows if row["stage"] == "play"]
    figures = [_supervised([row for row in rows if row["stage"] != "play"])]
    figures += [_game(play, title, note, form, series) for title, note, form, series in _CHARTS]
    return [figure for figure in figures if figure is not None]


def heatmap(evaluation: Mapping[str, Any], measure: str) -> list[tuple[str, list[dict[str, Any]]]]:
    """Cells of the cross-play table: one row an attacker, one cell a defender, each rate with its shade of 0…10."""
    names, cells = evaluation["attackers"], evaluation[measure]
    return [
        (name, [{**cell, "shade": round(10 * cell["rate"]) if cell["n"] else 0} for cell in row])
        for name, row in zip(names, cells, strict=True)
    ]


def drift_bars(shares: Mapping[str, Mapping[str, float]], families: Mapping[str, str]) -> Figure:
    """How the classes that attacks show are distributed over the families.

    Args:
        shares: For each column of attacks, the share that shows each class.
        families: The family of each class.
    """
    names = tuple(dict.fromkeys(families.values()))
    axis, bottom = Axis(0, 1, _BAR_LEFT, _RIGHT - 6), len(shares) * _BAR_STEP
    shapes = [svg.line((axis.at(tick),) * 2, (0, bottom), "grid") for tick in _QUARTERS]
    shapes += [svg.text(axis.at(tick), bottom + 16, _percent(tick), "middle") for tick in _QUARTERS]
    table = []
    for i, (label, row) in enumerate(shares.items()):
        top, total = i * _BAR_STEP, sum(row.values()) or 1.0
        parts = [sum(share for name, share in row.items() if families[name] == family) / total for family in names]
        table.append((label, *map(_percent, parts)))
        shapes.append(svg.text(_BAR_LEFT - 8, top + 17, label, "end"))
        begin = 0.0
        for k, part in enumerate(parts):
            x = (axis.at(begin), axis.at(begin + part))
            shapes.append(svg.box(x, (top, top + _BAR), f"fill-{k}", f"{label}, {names[k]}: {_percent(part)}"))
            if part >= 0.1:
                shapes.append(svg.text(sum(x) / 2, top + 17, _percent(part), "middle on"))
            begin += part
    title, note = "Families by round", "How the classes found in a round's attacks are distributed over six families."
    legend = tuple((f"fill-{k}", family) for k, family in enumerate(names))
    return Figure(title, note, _drawing(title, bottom + 24, shapes), legend, ("Attacks", *names), tuple(table))


def _game(
    rows: Sequence[Row], title: str, note: str, form: Callable[[float], str], series: tuple[Series, ...]
) -> Figure | None:
    """A chart over the steps of the game, shaded by whose turn it is."""
    series = tuple(one for one in series if any(row.get(one.key) is not None for row in rows))
    if not series:
        return None
    lines = {one: [(row["step"], row.get(one.key)) for row in rows] for one in series}
    turns = [list(turn) for _, turn in groupby(rows, key=lambda row: (row["round"], row["learner"]))]
    tips = [(row["step"], f"step {row['step']}, round {row['round']}: {row['learner']} learns") for row in rows]
    drawn = _line_chart(title, lines, form, "step", tips, turns)
    table = tuple(
        (
            f"{turn[0]['round']}",
            turn[0]["learner"],
            f"{turn[0]['step']}–{turn[-1]['step']}",
            *(_mean(turn, one.key, form) for one in series),
        )
        for turn in turns
    )
    legend = (*((one.style, one.name) for one in series), *((f"turn-{r}", f"{r} learns") for r in _learners(rows)))
    return Figure(title, note, drawn, legend, ("Round", "Learns", "Steps", *(one.name for one in series)), table)


def _supervised(rows: Sequence[Row]) -> Figure | None:
    """Losses of the stages before the game."""
    stages = (
        Series("attacker SFT", "sft_attacker", "attacker"),
        Series("defender warm-up", "warmup_defender", "defender"),
    )
    lines = {
        one: [(row["stage_step"], row["loss"]) for row in rows if row["stage"] == one.key]
        for one in stages
        if any(row["stage"] == one.key for row in rows)
    }
    if not lines:
        return None
    steps = sorted({x for points in lines.values() for x, _ in points})
    title, note = "Before the game", "Supervised stages: cross-entropy a token, in nats."
    drawn = _line_chart(title, lines, _number, "step of the stage", [(step, f"step {step:.0f}") for step in steps])
    table = tuple(
        (one.name, str(len(points)), *(_number(y) if y is not None else "–" for y in (points[0][1], points[-1][1])))
        for one, points in lines.items()
    )
    legend = tuple((one.style, one.name) for one in lines)
    return Figure(title, note, drawn, legend, ("Stage", "Steps", "First loss", "Last loss"), table)


def _line_chart(
    title: str,
    lines: Mapping[Series, Points],
    form: Callable[[float], str],
    x_title: str,
    tips: Sequence[tuple[float, str]],
    turns: Sequence[Sequence[Row]] = (),
) -> Markup:
    """Lines over steps, turns shaded. Axes of numbers include zero; a gap is a value that was not measured."""
    steps = [x for x, _ in tips]
    x_axis = Axis(steps[0] - 0.5, steps[-1] + 0.5, _LEFT, _RIGHT)
    y_ticks: tuple[float, ...] = _QUARTERS
    if form is not _percent:
        values = [y for points in lines.values() for _, y in points if y is not None]
        y_ticks = svg.ticks(min([0.0, *values]), max([0.0, *values]))
    y_axis = Axis(y_ticks[0], y_ticks[-1], _BOTTOM, _TOP)
    shapes = list(_bands(turns, x_axis))
    for tick in y_ticks:
        y = y_axis.at(tick)
        shapes.append(svg.line((_LEFT, _RIGHT), (y, y), "grid" if tick else "zero"))
        shapes.append(svg.text(_LEFT - 6, y + 4, _percent(tick) if form is _percent else f"{tick:g}", "end"))
    x_ticks = [tick for tick in svg.ticks(steps[0], steps[-1], whole=True) if steps[0] <= tick <= steps[-1]]
    shapes += [svg.text(x_axis.at(tick), _BOTTOM + 15, f"{tick:.0f}", "middle") for tick in x_ticks]
    shapes.append(svg.text(_RIGHT, _BOTTOM + 30, x_title, "end"))
    for one, points in lines.items():
        shapes.append(svg.curve([(x_axis.at(x), None if y is None else y_axis.at(y)) for x, y in points], one.style))
    shapes += _tips(lines, form, tips, x_axis)
    return _drawing(title, _HEIGHT, shapes)


def _tips(
    lines: Mapping[Series, Points], form: Callable[[float], str], tips: Sequence[tuple[float, str]], axis: Axis
) -> Iterator[Markup]:
    """Invisible columns that say the numbers of their step when pointed at; not all of them in a very long run."""
    values = {one: dict(points) for one, points in lines.items()}
    chosen = tips[:: math.ceil(len(tips) / _MOST_TIPS)]
    half = (_RIGHT - _LEFT) / len(chosen) / 2
    for step, head in chosen:
        shown = [(one.name, values[one].get(step)) for one in lines]
        tip = "\n".join([head, *(f"{name}: {form(y)}" for name, y in shown if y is not None)])
        yield svg.box((axis.at(step) - half, axis.at(step) + half), (_TOP, _BOTTOM), "tip", tip)


def _bands(turns: Sequence[Sequence[Row]], axis: Axis) -> Iterator[Markup]:
    """Whose turn it was, as shades, with a line and a number where a round begins."""
    for turn in turns:
        x = (axis.at(turn[0]["step"] - 0.5), axis.at(turn[-1]["step"] + 0.5))
        yield svg.box(x, (_TOP, _BOTTOM), f"turn-{turn[0]['learner']}")
    free = 0.0
    for number, of_round in groupby(turns, key=lambda turn: turn[0]["round"]):
        begin = axis.at(next(of_round)[0]["step"] - 0.5)
        yield svg.line((begin, begin), (_TOP - 14, _BOTTOM), "round")
        if begin >= free:  # labels of short rounds would overlap
            yield svg.text(begin + 4, _TOP - 5, f"round {number}")
            free = begin + 60


def _learners(rows: Sequence[Row]) -> list[str]:
    return sorted({row["learner"] for row in rows})


def _mean(rows: Sequence[Row], key: str, form: Callable[[float], str]) -> str:
    values = [row[key] for row in rows if row.get(key) is not None]
    return form(fmean(values)) if values else "–"


def _drawing(title: str, height: float, shapes: Sequence[Markup]) -> Markup:
    return svg.drawing(_WIDTH, height, f"{title}. The numbers follow as a table.", shapes)
