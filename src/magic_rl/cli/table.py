"""The table that ends an evaluation: the defender before and after, the untouched model beside it, and a verdict.

Every rate has its 95 % interval and count. Where a line of the table does not fit, each row becomes a few short lines.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

_MEASURES = (("asr", "ASR", "↓"), ("compliance", "compliance", "↑"), ("j", "J", "↑"))
_ATTACKS = (("vanilla", "vanilla seeds"), ("sft_attacker", "SFT attacker"), ("last_attacker", "last attacker"))
_HEAD = ("untouched model", "at the start", "trained", "change", "n")
_READING = (
    "↓ lower is better, ↑ higher is better. [95 % interval]; change: trained − start, in points.",
    "ASR: harmful seeds that got an answer; compliance: benign seeds that did; J = compliance − ASR.",
)

Row = tuple[str, ...]


def summary_table(summary: Mapping[str, Any], width: int = 120) -> str:
    """`summary.json` as plain lines: rates in percent, changes in points, and the verdict last.

    Args:
        width: Columns of the terminal.
    """
    head = (f"{summary.get('split', 'held_out').replace('_', '-')} seeds, %", *_HEAD)
    rows = [
        _row(summary, measure, attacks, f"{title}, {name} {arrow}")
        for measure, title, arrow in _MEASURES
        for attacks, name in _ATTACKS
        if attacks in summary["asr"]["start"]
    ]
    parts = [
        _laid_out((head, *rows), width),
        "",
        *(textwrap.fill(line, width) for line in _READING),
        "",
        *_attackers(summary["attackers"], width),
        *_replies(summary.get("replies") or {}, width),
        textwrap.fill(summary["verdict"], width),
    ]
    return "\n".join(parts)


def _row(summary: Mapping[str, Any], measure: str, attacks: str, title: str) -> Row:
    """A line of the table; J has no count of its own."""
    counted = ("asr", "compliance") if measure == "j" else (measure,)
    cells, counts = [], []
    for who in ("untouched", "start", "trained"):
        n = [summary[of][who][attacks]["n"] for of in counted]
        cells.append(_rate(summary[measure][who][attacks]) if all(n) else "–")
        counts += n
    change = _change(summary["change"][measure][attacks]) if "–" not in cells[1:] else ""
    return (title, *cells, change, "" if measure == "j" else _count(counts))


def _attackers(attackers: Mapping[str, Any], width: int) -> list[str]:
    """How well the attackers kept to the format and to the seed's topic; nothing in a run without attackers."""
    if not attackers:
        return []
    rows: list[Row] = [("attackers, %", "in the right format", "on topic (harmful)", "n")]
    for name, title in _ATTACKS:
        if name in attackers:
            form, topic = attackers[name]["format"], attackers[name]["on_topic"]
            on_topic = _rate(topic) if topic else "not judged"
            counts = [str(rate["n"]) for rate in (form, topic) if rate]
            rows.append((title, _rate(form), on_topic, ", ".join(counts)))
    return [_laid_out(rows, width), ""]


def _replies(replies: Mapping[str, Any], width: int) -> list[str]:
    """Whether replies are still language, as the untouched model sees them."""
    if not replies:
        return []
    rows: list[Row] = [
        ("replies", "degenerate, %", "cut off, %", "log p per token", "KL per token", "distinct trigrams")
    ]
    for who, title in zip(("untouched", "start", "trained"), _HEAD, strict=False):
        numbers = [replies[who][name] for name in ("logprob", "kl", "distinct")]
        shown = ["–" if number is None else f"{number:z.2f}" for number in numbers]
        rows.append((title, *(_rate(replies[who][name]) for name in ("degenerate", "cut_off")), *shown))
    lines = (
        "degenerate: no longer language, compared with what the untouched model says to the same attacks; log p: of "
        "the replies, under the untouched model."
    )
    return [_laid_out(rows, width), textwrap.fill(lines, width), ""]


def _laid_out(rows: Sequence[Row], width: int) -> str:
    """Columns where they fit; else each row as its title, then a line for each cell."""
    head, *body = rows
    widths = [max(map(len, column)) + 2 for column in zip(*rows, strict=True)]
    if sum(widths) - 2 <= width:
        return "\n".join("".join(map(str.ljust, row, widths)).rstrip() for row in rows)
    names = max(map(len, head[1:])) + 2
    lines = [head[0]]
    for title, *cells in body:
        lines.append(title)
        lines += [f"  {name:<{names}}{cell}".rstrip() for name, cell in zip(head[1:], cells, strict=True) if cell]
    return "\n".join(lines)


def _rate(rate: Mapping[str, Any]) -> str:
    value = rate.get("rate", rate.get("value"))
    return f"{100 * value:5.1f} [{100 * rate['low']:.1f}, {100 * rate['high']:.1f}]"


def _change(change: Mapping[str, Any]) -> str:
    return f"{100 * change['mean']:+.1f} [{100 * change['low']:+.1f}, {100 * change['high']:+.1f}]"


def _count(counts: Sequence[int]) -> str:
    low, high = min(counts), max(counts)
    return f"{low}" if low == high else f"{low}–{high}"
