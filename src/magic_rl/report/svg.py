"""SVG shapes, axes and figures: all the drawing that the pages need, without a script.

Colours, lines and fonts are classes of `figure.css`; this file has only geometry. `Markup.format` escapes text. Each
figure comes with the numbers it draws, for readers who cannot see it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup

WIDTH = 400  # of each figure in user units; style.css decides the size on the screen
QUARTERS = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True, slots=True)
class Figure:
    """A drawing with its title, note, legend and numbers."""

    title: str
    note: str  # how to read it, in a sentence or two
    svg: Markup
    legend: tuple[tuple[str, str], ...]  # class and name of each thing drawn
    head: tuple[str, ...]  # column titles of the numbers
    rows: tuple[tuple[str, ...], ...]  # the numbers, as shown


@dataclass(frozen=True, slots=True)
class Axis:
    """Maps values low…high to positions start…end of a drawing."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        """The position of a value, in user units."""
        return round(self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start), 1)


def drawing(title: str, height: float, shapes: Iterable[Markup]) -> Markup:
    """All shapes of a figure, with a label for screen readers."""
    label = f"{title}. The numbers follow as a table."
    return Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        WIDTH, height, label, Markup("").join(shapes)
    )


def standalone(figure: Markup, style: str) -> str:
    """A drawing as a separate file with its style sheet; it follows the reader's light or dark theme."""
    head, _, shapes = str(figure).partition(">")
    style += "svg { background: var(--card); }\n"
    return f'{head} xmlns="http://www.w3.org/2000/svg"><style>\n{style}</style>{shapes}\n'


def x_marks(
    axis: Axis, marks: Iterable[float], form: Callable[[float], str], y: tuple[float, float], *, lines: bool = True
) -> Iterator[Markup]:
    """Labels below a drawing that spans from one y to the other, and lines across it."""
    for mark in marks:
        if lines:
            yield line((axis.at(mark),) * 2, y, "grid" if mark else "zero")
        yield text(axis.at(mark), max(y) + 15, form(mark), "middle")


def y_marks(
    axis: Axis, marks: Iterable[float], form: Callable[[float], str], x: tuple[float, float]
) -> Iterator[Markup]:
    """Lines across a drawing, with labels on its left."""
    for mark in marks:
        yield line(x, (axis.at(mark),) * 2, "grid" if mark else "zero")
        yield text(min(x) - 6, axis.at(mark) + 4, form(mark), "end")


def line(x: tuple[float, float], y: tuple[float, float], style: str) -> Markup:
    """A straight line."""
    return Markup('<line x1="{}" x2="{}" y1="{}" y2="{}" class="{}"/>').format(*x, *y, style)


def text(x: float, y: float, words: str, style: str = "") -> Markup:
    """One line of text; its class decides on which side of `x` it is."""
    return Markup('<text x="{:.1f}" y="{:.1f}" class="{}">{}</text>').format(x, y, style, words)


def box(x: tuple[float, float], y: tuple[float, float], style: str, tip: str = "") -> Markup:
    """A rectangle from corner to corner, with an optional tooltip."""
    return Markup('<rect x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" class="{}">{}</rect>').format(
        x[0], y[0], x[1] - x[0], y[1] - y[0], style, Markup("<title>{}</title>").format(tip) if tip else ""
    )


def dot(x: float, y: float, radius: float, style: str, tip: str) -> Markup:
    """A filled circle with a tooltip."""
    return Markup('<circle cx="{:.1f}" cy="{:.1f}" r="{}" class="{}"><title>{}</title></circle>').format(
        x, y, radius, style, tip
    )


def curve(points: Sequence[tuple[float, float | None]], style: str) -> Markup:
    """A line through the points, broken where one is missing; a lone point becomes a dot."""
    commands = []
    for (_, before), (x, y) in pairwise([(0.0, None), *points]):
        if y is not None:
            commands.append(f"M{x} {y}h0" if before is None else f"L{x} {y}")
    return Markup('<path d="{}" class="line {}"/>').format("".join(commands), style)


def ticks(low: float, high: float, *, whole: bool = False) -> tuple[float, ...]:
    """Two to seven evenly spaced round numbers, from at or below `low` to at or above `high`.

    Args:
        whole: Whole numbers only.
    """
    span = high - low or 1.0
    power = 10.0 ** (math.floor(math.log10(span)) - 1)
    step = next(width for factor in (1, 2, 5, 10, 20, 50) if span / (width := factor * power) <= 5)
    if whole:
        step = max(1.0, step)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return tuple(round(i * step, 10) for i in range(first, max(last, first + 1) + 1))
