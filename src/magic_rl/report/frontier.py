"""The frontier: attack success against benign compliance of every defender, one drawing for each attacker compared.

A defender can always trade safety for helpfulness; that moves it along a diagonal. Only a step across the diagonals
tells requests apart better, so they are drawn.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from magic_rl.report import svg
from magic_rl.report.figures import Figure
from magic_rl.report.svg import Axis

_WIDTH, _HEIGHT = 400, 316
_X = Axis(0, 1, 46, 380)
_Y = Axis(0, 1, 270, 20)
_QUARTERS = (0.0, 0.25, 0.5, 0.75, 1.0)
_LETTER, _LINE = 5.6, 12.0  # about the size of a letter
_UNDER = {"vanilla": "seeds as they are", "sft_attacker": "SFT attacker", "last_attacker": "last attacker"}
_NOTE = (
    "Up and to the left is better. Along a dashed diagonal J = compliance − ASR stays the same: a defender that moves "
    "along one has traded safety for helpfulness, one that crosses them upwards tells requests apart better. Bars are "
    "95 % Wilson intervals."
)


@dataclass(frozen=True, slots=True)
class _Point:
    """A defender under one attacker; `label` stands beside it, or nothing where it would crowd."""

    name: str
    label: str
    style: str
    asr: Mapping[str, Any]
    compliance: Mapping[str, Any]
    j: Mapping[str, Any]


def frontier(evaluation: Mapping[str, Any], summary: Mapping[str, Any]) -> list[Figure]:
    """A figure for each attacker of the summary.

    Args:
        evaluation: evaluation.json, for the saved defenders.
        summary: summary.json, for the untouched model.
    """
    figures = []
    for attacks, place in evaluation["compared"].items():
        points = _points(evaluation, summary, attacks, place)
        if points:
            figures.append(_figure(f"Frontier, {_UNDER[attacks]}", points))
    return figures


def _points(evaluation: Mapping[str, Any], summary: Mapping[str, Any], attacks: str, place: int) -> list[_Point]:
    """The untouched model, then all saved defenders in order; what was not measured is left out."""
    measures = ("asr", "compliance", "j")
    rows = [("untouched model", "untouched", "untouched", *(summary[m]["untouched"][attacks] for m in measures))]
    last = len(evaluation["defenders"]) - 1
    for i, name in enumerate(evaluation["defenders"]):
        label = "start" if i == 0 else "trained" if i == last else ""
        rows.append((name, label, "saved", *(evaluation[m][place][i] for m in measures)))
    return [_Point(*row) for row in rows if row[3]["n"] and row[4]["n"]]


def _figure(title: str, points: Sequence[_Point]) -> Figure:
    legend = (("dot untouched", "untouched model"), ("dot saved", "saved defenders, in order of rounds"))
    head = ("Defender", "ASR", "Compliance", "J", "n")
    table = tuple(
        (p.name, _interval(p.asr), _interval(p.compliance), _interval(p.j), f"{p.asr['n']} + {p.compliance['n']}")
        for p in points
    )
    label = f"{title}. The numbers follow as a table."
    return Figure(title, _NOTE, svg.drawing(_WIDTH, _HEIGHT, label, _shapes(points)), legend, head, table)


def _shapes(points: Sequence[_Point]) -> Iterator[Markup]:
    for tick in _QUARTERS:
        yield svg.line((_X.start, _X.end), (_Y.at(tick),) * 2, "grid" if tick else "zero")
        yield svg.line((_X.at(tick),) * 2, (_Y.start, _Y.end), "grid" if tick else "zero")
        yield svg.text(_X.start - 6, _Y.at(tick) + 4, f"{tick:.0%}", "end")
        yield svg.text(_X.at(tick), _Y.start + 15, f"{tick:.0%}", "middle")
        yield svg.line((_X.at(0), _X.at(1 - tick)), (_Y.at(tick), _Y.at(1)), "same-j")
    yield svg.text(_X.end, _Y.start + 32, "attack success rate, lower is better", "end")
    yield svg.text(_X.start, _Y.end - 8, "benign compliance, higher is better")
    places = [(_X.at(p.asr["rate"]), _Y.at(p.compliance["rate"])) for p in points]
    saved = [place for place, p in zip(places, points, strict=True) if p.style == "saved"]
    yield svg.curve(saved, "course")
    for (x, y), p in zip(places, points, strict=True):
        if p.label:
            yield svg.line((_X.at(p.asr["low"]), _X.at(p.asr["high"])), (y, y), f"bar {p.style}")
            yield svg.line((x, x), (_Y.at(p.compliance["low"]), _Y.at(p.compliance["high"])), f"bar {p.style}")
    for (x, y), p in zip(places, points, strict=True):
        tip = f"{p.name}\nASR {_interval(p.asr)}\ncompliance {_interval(p.compliance)}\nJ {_interval(p.j)}"
        yield svg.dot(x, y, 5 if p.label else 3, f"dot {p.style}", tip)
    yield from _labels([(x, y, p.label) for (x, y), p in zip(places, points, strict=True) if p.label])


def _labels(wanted: Sequence[tuple[float, float, str]]) -> Iterator[Markup]:
    """A name beside each point: to its right if there is room, and below a name that it would cover."""
    taken: list[tuple[float, float, float]] = []
    for x, y, label in sorted(wanted, key=lambda one: one[1]):
        width = _LETTER * len(label)
        left = x + 8 if x + 8 + width <= _WIDTH else x - 8 - width
        line = y - 5
        for begin, end, above in sorted(taken, key=lambda one: one[2]):
            if left < end and begin < left + width and abs(line - above) < _LINE:
                line = above + _LINE
        taken.append((left, left + width, line))
        yield svg.text(left, line, label, "name")


def _interval(number: Mapping[str, Any]) -> str:
    value = number.get("rate", number.get("value"))
    return f"{100 * value:.0f}% [{100 * number['low']:.0f}, {100 * number['high']:.0f}]".replace("-", "−")
