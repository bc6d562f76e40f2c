"""Curves over steps: what training did, and how far a fresh attacker got."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import fmean
from typing import Any

from markupsafe import Markup

from magic_rl.evaluation.estimates import Estimate
from magic_rl.evaluation.result import DEFENDERS, AttackResult
from magic_rl.evaluation.spread import OverRuns
from magic_rl.report import svg
from magic_rl.report.svg import QUARTERS, Axis, Figure
from magic_rl.report.tables import DASH, shown

Row = Mapping[str, Any]
Points = Sequence[tuple[float, float | None]]

_HEIGHT = 232
_LEFT, _RIGHT, _TOP, _BOTTOM = 42, 386, 22, 198
_MOST_TIPS = 400


@dataclass(frozen=True, slots=True)
class Series:
    """One line of a chart: its name, its key in the metrics and its class in the style sheet."""

    name: str
    key: str
    style: str


@dataclass(frozen=True, slots=True)
class Steps:
    """The horizontal axis: its name, each step with the head of its tooltip, and the rows of each turn of the game."""

    name: str
    tips: Sequence[tuple[float, str]]
    turns: Sequence[Sequence[Row]] = ()


def percent(value: float) -> str:
    """A share as a label of an axis."""
    return f"{value:.0%}"


def _number(value: float) -> str:
    """A number with about three significant digits."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


_CHARTS: Sequence[tuple[str, str, Callable[[float], str], tuple[Series, ...]]] = (
    (
        "Attack success and refusals",
        "Shares of each step's training episodes. A step has few of them; see cross-play for measured rates.",
        percent,
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
        percent,
        (
            Series("well-formed attacks", "format_rate", "attacker"),
            Series("groups with signal", "groups_with_signal", "third"),
        ),
    ),
    (
        "Masked episodes",
        "Episodes per step that enter no loss: cut off by the length limit, or without a verdict.",
        _number,
        (Series("cut off", "masked_cut_off", "third"), Series("judge abstained", "masked_abstained", "fourth")),
    ),
    (
        "Operating point",
        "Benign requests answered in each step's episodes, and the rate that the learning defender is held to, if any.",
        percent,
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
        percent,
        (Series("replies to benign seeds", "quality_benign", "defender"),),
    ),
    (
        "Lengths",
        "Mean tokens per output.",
        _number,
        (Series("attacks", "attack_tokens", "attacker"), Series("replies", "reply_tokens", "defender")),
    ),
)


def curves(rows: Sequence[Row]) -> list[Figure]:
    """Charts of a run over its steps, without those that have nothing to show.

    Args:
        rows: Rows of metrics.jsonl.
    """
    play = [row for row in rows if row["stage"] == "play"]
    figures = [_supervised([row for row in rows if row["stage"] != "play"])]
    figures += [_game(play, title, note, form, series) for title, note, form, series in _CHARTS]
    return [figure for figure in figures if figure is not None]


def attack_curve(attack: AttackResult[Estimate] | AttackResult[OverRuns] | None) -> Figure | None:
    """ASR of a fresh attacker over its steps, against each frozen defender; None if none was trained."""
    curves = {who: found.curve for who, found in attack.defenders.items() if found.curve} if attack else {}
    if not curves:
        return None
    title = "A fresh attacker against a frozen defender"
    note = "ASR over the attacker's own steps. It moves second, so what it gains is exploitability; lower is better."
    styles = {"start": "attacker", "trained": "defender", "untouched": "third"}
    lines: dict[Series, Points] = {
        Series(f"against {DEFENDERS[who]}", who, styles[who]): [(step, asr.value) for step, asr in curve.items()]
        for who, curve in curves.items()
    }
    steps = sorted({step for curve in curves.values() for step in curve})
    axis = Steps("steps of the attacker", [(step, f"step {step}") for step in steps])
    drawn = _line_chart(title, lines, percent, axis)
    table = tuple((who, str(step), shown(asr)) for who, curve in curves.items() for step, asr in curve.items())
    legend = tuple((one.style, one.name) for one in lines)
    return Figure(title, note, drawn, legend, ("Defender", "Step", "ASR, %"), table)


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
    drawn = _line_chart(title, lines, form, Steps("step", tips, turns))
    table = tuple(
        (
            f"{turn[0]['round']}",
            turn[0]["learner"],
            f"{turn[0]['step']}–{turn[-1]['step']}",
            *(_mean(turn, one.key, form) for one in series),
        )
        for turn in turns
    )
    learners = sorted({row["learner"] for row in rows})
    legend = (*((one.style, one.name) for one in series), *((f"turn-{r}", f"{r} learns") for r in learners))
    return Figure(title, note, drawn, legend, ("Round", "Learns", "Steps", *(one.name for one in series)), table)


def _supervised(rows: Sequence[Row]) -> Figure | None:
    """Losses of the stages before the game."""
    stages = (
        Series("attacker SFT", "sft_attacker", "attacker"),
        Series("defender warm-up", "warmup_defender", "defender"),
    )
    lines = {
        one: points
        for one in stages
        if (points := [(row["stage_step"], row["loss"]) for row in rows if row["stage"] == one.key])
    }
    if not lines:
        return None
    steps = sorted({x for points in lines.values() for x, _ in points})
    title, note = "Before the game", "Supervised stages: cross-entropy per token, in nats."
    axis = Steps("step of the stage", [(step, f"step {step:.0f}") for step in steps])
    drawn = _line_chart(title, lines, _number, axis)
    table = tuple(
        (one.name, str(len(points)), *(_number(y) if y is not None else DASH for y in (points[0][1], points[-1][1])))
        for one, points in lines.items()
    )
    legend = tuple((one.style, one.name) for one in lines)
    return Figure(title, note, drawn, legend, ("Stage", "Steps", "First loss", "Last loss"), table)


def _line_chart(title: str, lines: Mapping[Series, Points], form: Callable[[float], str], axis: Steps) -> Markup:
    """Lines over steps, with turns shaded. Axes of numbers include zero; a gap is a value that was not measured."""
    steps = [x for x, _ in axis.tips]
    x_axis = Axis(steps[0] - 0.5, steps[-1] + 0.5, _LEFT, _RIGHT)
    y_ticks: tuple[float, ...] = QUARTERS
    if form is not percent:
        values = [y for points in lines.values() for _, y in points if y is not None]
        y_ticks = svg.ticks(min([0.0, *values]), max([0.0, *values]))
    y_axis = Axis(y_ticks[0], y_ticks[-1], _BOTTOM, _TOP)
    x_ticks = [tick for tick in svg.ticks(steps[0], steps[-1], whole=True) if steps[0] <= tick <= steps[-1]]
    shapes = [
        *_bands(axis.turns, x_axis),
        *svg.y_marks(y_axis, y_ticks, percent if form is percent else "{:g}".format, (_LEFT, _RIGHT)),
        *svg.x_marks(x_axis, x_ticks, "{:.0f}".format, (_TOP, _BOTTOM), lines=False),
        svg.text(_RIGHT, _BOTTOM + 30, axis.name, "end"),
    ]
    for one, points in lines.items():
        shapes.append(svg.curve([(x_axis.at(x), None if y is None else y_axis.at(y)) for x, y in points], one.style))
    return svg.drawing(title, _HEIGHT, [*shapes, *_tips(lines, form, axis.tips, x_axis)])


def _tips(
    lines: Mapping[Series, Points], form: Callable[[float], str], tips: Sequence[tuple[float, str]], axis: Axis
) -> Iterator[Markup]:
    """Invisible columns with the numbers of their step as tooltip; in a very long run only for some steps."""
    values = {one: dict(points) for one, points in lines.items()}
    chosen = tips[:: math.ceil(len(tips) / _MOST_TIPS)]
    half = (_RIGHT - _LEFT) / len(chosen) / 2
    for step, head in chosen:
        said = [(one.name, values[one].get(step)) for one in lines]
        tip = "\n".join([head, *(f"{name}: {form(y)}" for name, y in said if y is not None)])
        yield svg.box((axis.at(step) - half, axis.at(step) + half), (_TOP, _BOTTOM), "tip", tip)


def _bands(turns: Sequence[Sequence[Row]], axis: Axis) -> Iterator[Markup]:
    """Shades that show whose turn it was, with a line and a number where a round begins."""
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


def _mean(rows: Sequence[Row], key: str, form: Callable[[float], str]) -> str:
    values = [row[key] for row in rows if row.get(key) is not None]
    return form(fmean(values)) if values else DASH
