"""Figures other than curves: the frontier, what training changed over runs, and how kinds of attacks drift."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from markupsafe import Markup

from magic_rl.evaluation.classes import CLASSES
from magic_rl.evaluation.drift import Drift
from magic_rl.evaluation.estimates import Estimate, difference
from magic_rl.evaluation.result import (
    ATTACKERS,
    BETTER,
    Attacker,
    Evaluation,
    Measure,
    PresetResult,
    defender_name,
    title,
)
from magic_rl.report import svg
from magic_rl.report.curves import percent
from magic_rl.report.svg import QUARTERS, WIDTH, Axis, Figure
from magic_rl.report.tables import each, shown

_ROW = 36  # height of a bar with the space below it
_X, _Y = Axis(0, 1, 46, 380), Axis(0, 1, 270, 20)  # of the frontier
_LETTER, _LINE = 5.6, 12.0  # width of a letter and height of a line, about

_MEASURED: tuple[Measure, ...] = ("asr", "compliance")
_Place = tuple[str, str, Estimate, Estimate]  # a defender's name, the label beside its dot, ASR and compliance


def frontier(evaluation: Evaluation) -> list[Figure]:
    """Attack success against benign compliance of all defenders, one figure per compared attacker.

    A defender can always trade safety for helpfulness; that moves it along a diagonal. Only a move across the diagonals
    means that it tells requests apart better, so they are drawn. Defenders without both rates are left out.
    """
    found, figures = evaluation.crossplay, []
    last = len(found.defenders) - 1
    for attacker, row in found.compared.items():
        asr, compliance = (evaluation.table[measure]["untouched"][attacker] for measure in _MEASURED)
        places: list[_Place] = [(defender_name(None), "untouched", asr, compliance)]
        for i, number in enumerate(found.defenders):
            label = "start" if i == 0 else "trained" if i == last else ""
            places.append((defender_name(number), label, found.asr[row][i], found.compliance[row][i]))
        places = [place for place in places if place[2].n and place[3].n]
        if places:
            figures.append(_frontier(attacker, places))
    return figures


def changes(preset: PresetResult) -> Figure | None:
    """All changes of a preset: mean and interval as a bar, each run as a dot below; None if nothing was measured."""
    found = [
        (f"{title(measure, attacker)} {BETTER[measure]}", change)
        for measure, of_measure in preset.change.items()
        for attacker, change in of_measure.items()
    ]
    if not found:
        return None
    marks = [100 * x for _, c in found for x in (c.low, c.high, *c.values) if x is not None]
    ticks = svg.ticks(min([0.0, *marks]), max([0.0, *marks]))
    axis, bottom = Axis(ticks[0], ticks[-1], 172, 386), len(found) * _ROW
    shapes = [*svg.x_marks(axis, ticks, lambda tick: f"{tick:+g}" if tick else "0", (0, bottom))]
    for i, (label, change) in enumerate(found):
        y, mean = i * _ROW + 13.0, axis.at(100 * change.value)
        shapes.append(svg.text(axis.start - 8, y + 4, label, "end"))
        if change.low is not None and change.high is not None:
            shapes.append(svg.curve([(axis.at(100 * end), y) for end in (change.low, change.high)], "fourth"))
        shapes.append(
            svg.box((mean - 2.5, mean + 2.5), (y - 5, y + 5), "fill-4", f"{label}: {shown(change, 'change')}")
        )
        shapes += [
            svg.dot(axis.at(100 * value), y + 12, 2, "dot each", f"{100 * value:+.1f}") for value in change.values
        ]
    name, note = "Change in training, points", "Bar: mean over runs with its 95 % interval. Dots below: each run."
    legend = (("fourth", "mean and interval"), ("dot each", "each run"))
    rows = tuple((label, shown(change, "change", exact=True), each(change, "change")) for label, change in found)
    drawn = svg.drawing(name, bottom + 24, shapes)
    return Figure(name, note, drawn, legend, ("Measure", "Mean ± SD [interval]", "Each run"), rows)


def drift_bars(drift: Drift) -> Figure | None:
    """How the classes of attacks are distributed over the families; None if no model labelled classes."""
    shares = {f"round {n} (n = {of.classified})": of.shares for n, of in drift.rounds.items() if of.shares}
    if not shares:
        return None
    names = tuple(dict.fromkeys(kind.family for kind in CLASSES.values()))
    axis, bottom = Axis(0, 1, 112, 380), len(shares) * _ROW
    shapes, table = [*svg.x_marks(axis, QUARTERS, percent, (0, bottom))], []
    for i, (label, row) in enumerate(shares.items()):
        top, total = i * _ROW, sum(row.values()) or 1.0
        parts = [
            sum(share for name, share in row.items() if CLASSES[name].family == family) / total for family in names
        ]
        table.append((label, *map(percent, parts)))
        shapes.append(svg.text(axis.start - 8, top + 17, label, "end"))
        begin = 0.0
        for k, part in enumerate(parts):
            x = (axis.at(begin), axis.at(begin + part))
            shapes.append(svg.box(x, (top, top + _ROW - 10), f"fill-{k}", f"{label}, {names[k]}: {percent(part)}"))
            if part >= 0.1:
                shapes.append(svg.text(sum(x) / 2, top + 17, percent(part), "middle on"))
            begin += part
    name, note = "Families by round", "How the classes found in a round's attacks are distributed over six families."
    legend = tuple((f"fill-{k}", family) for k, family in enumerate(names))
    return Figure(name, note, svg.drawing(name, bottom + 24, shapes), legend, ("Attacks", *names), tuple(table))


def _frontier(attacker: Attacker, places: Sequence[_Place]) -> Figure:
    name = f"Frontier, {ATTACKERS[attacker]}"
    note = (
        "Up and to the left is better. Along a dashed diagonal J = compliance − ASR stays the same: a defender that "
        "moves along one has traded safety for helpfulness, one that crosses them upwards tells requests apart better. "
        "Bars are 95 % Wilson intervals."
    )
    legend = (("dot untouched", "untouched model"), ("dot saved", "saved defenders, in order of rounds"))
    head = ("Defender", "ASR, %", "compliance, %", "J", "n")
    rows = tuple(
        (who, shown(asr), shown(answered), shown(difference(answered, asr)), f"{asr.n} + {answered.n}")
        for who, _, asr, answered in places
    )
    return Figure(name, note, svg.drawing(name, 316, frontier_shapes(places)), legend, head, rows)


def frontier_shapes(places: Sequence[_Place]) -> Iterator[Markup]:
    """Dots with intervals, joined in their order, and diagonals of equal J."""
    yield from svg.y_marks(_Y, QUARTERS, percent, (_X.start, _X.end))
    yield from svg.x_marks(_X, QUARTERS, percent, (_Y.end, _Y.start))
    for tick in QUARTERS:
        yield svg.line((_X.at(0), _X.at(1 - tick)), (_Y.at(tick), _Y.at(1)), "same-j")
    yield svg.text(_X.end, _Y.start + 32, "attack success rate, lower is better", "end")
    yield svg.text(_X.start, _Y.end - 8, "benign compliance, higher is better")
    points = [(_X.at(asr.value), _Y.at(answered.value)) for _, _, asr, answered in places]
    yield svg.curve(
        [point for point, (_, label, *_) in zip(points, places, strict=True) if label != "untouched"], "course"
    )
    for (x, y), (who, label, asr, answered) in zip(points, places, strict=True):
        style = "untouched" if label == "untouched" else "saved"
        if label:
            yield svg.line((_X.at(asr.low), _X.at(asr.high)), (y, y), f"bar {style}")
            yield svg.line((x, x), (_Y.at(answered.low), _Y.at(answered.high)), f"bar {style}")
        tip = f"{who}\nASR {shown(asr)}\ncompliance {shown(answered)}"
        yield svg.dot(x, y, 5 if label else 3, f"dot {style}", tip)
    yield from _labels([(x, y, label) for (x, y), (_, label, *_) in zip(points, places, strict=True) if label])


def _labels(wanted: Sequence[tuple[float, float, str]]) -> Iterator[Markup]:
    """A name beside each point: to its right if there is room, and below any name that it would cover."""
    taken: list[tuple[float, float, float]] = []
    for x, y, label in sorted(wanted, key=lambda one: one[1]):
        width = _LETTER * len(label)
        left = x + 8 if x + 8 + width <= WIDTH else x - 8 - width
        line = y - 5
        for begin, end, above in sorted(taken, key=lambda one: one[2]):
            if left < end and begin < left + width and abs(line - above) < _LINE:
                line = above + _LINE
        taken.append((left, left + width, line))
        yield svg.text(left, line, label, "name")
