"""The table of a study in words and figures: rows for a terminal, for Markdown and for the page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Number = Mapping[str, Any]  # `OverRuns.as_dict`

ATTACKERS = {
    "vanilla": "vanilla seeds",
    "sft_attacker": "SFT attacker",
    "last_attacker": "last attacker",
}
_MEASURES = {"asr": "ASR", "compliance": "benign compliance", "j": "J (compliance − ASR)"}
_DEFENDERS = {"untouched": "untouched model", "start": "defender at the start", "trained": "defender trained"}
_RATES = {"format": "in the format", "on_topic": "on topic", "cut_off": "cut off"}
_NOTHING = "–"


@dataclass(frozen=True, slots=True)
class Entry:
    """One number: its mean ± spread and interval, and each run's value."""

    shown: str = _NOTHING
    each: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: an entry per column, and in how many runs the change is clear."""

    title: str
    entries: tuple[Entry, ...]
    clear: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """All numbers of one preset.

    Attributes:
        head: Column titles.
        notes: Numbers that are not about a defender, a line each.
    """

    preset: str
    about: str
    head: tuple[str, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]


def measure_title(measure: str, attacker: str) -> str:
    """What a row is about."""
    return f"{_MEASURES[measure]}, {ATTACKERS.get(attacker, attacker.replace('_', ' '))}"


def tables(study: Mapping[str, Any]) -> list[Table]:
    """The table of each preset of a `study.json`."""
    return [_table(name, preset) for name, preset in study["presets"].items()]


def text(found: Sequence[Table]) -> str:
    """Plain lines for a terminal, each run's values under the means."""
    blocks = []
    for table in found:
        lines = [(*table.head, "whole interval")]
        for row in table.rows:
            lines.append((row.title, *(entry.shown for entry in row.entries), row.clear))
            lines.append(("  each run", *(entry.each for entry in row.entries), ""))
        widths = [max(len(line[i]) for line in lines) + 3 for i in range(len(lines[0]))]
        body = (
            "".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
        )
        blocks.append("\n".join((f"{table.preset}: {table.about}", *body, *table.notes)))
    return "\n\n".join(blocks)


def markdown(found: Sequence[Table]) -> str:
    """A table per preset for a page of the docs."""
    blocks = []
    for table in found:
        head = (*table.head, "whole interval")
        lines = [f"**{table.preset}**: {table.about}", "", _line(head), _line(["---"] * len(head))]
        for row in table.rows:
            entries = (f"{entry.shown}<br>{entry.each}" if entry.each else entry.shown for entry in row.entries)
            lines.append(_line((row.title, *entries, row.clear)))
        lines += ["", *(f"{note}  " for note in table.notes)] if table.notes else []
        blocks.append("\n".join(lines).rstrip())
    return "\n\n".join(blocks) + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _table(name: str, preset: Mapping[str, Any]) -> Table:
    seeds = preset["rng_seeds"]
    runs = f"{len(seeds)} runs, seeds {', '.join(map(str, seeds))}" if len(seeds) > 1 else f"1 run, seed {seeds[0]}"
    held_out = ", ".join(f"{n} {label}" for label, n in preset["held_out"].items())
    kind = preset.get("split", "held_out").replace("_", "-")
    about = f"{runs}{f'; {kind} seeds: {held_out}' if held_out else ''}; % and points, mean ± SD [95 % interval]"
    who = [name for name in _DEFENDERS if name in preset["asr"]]
    head = ("", *(_DEFENDERS[name] for name in who), "change")
    rows = (*_measured(preset, who), *_attacked(preset, who))
    return Table(name, about, head, rows, tuple(_notes(preset)))


def _measured(preset: Mapping[str, Any], who: Sequence[str]) -> Iterator[Row]:
    for measure in _MEASURES:
        defenders = preset.get(measure) or {}
        for attacker in defenders.get("start", {}):
            change = preset["change"].get(measure, {}).get(attacker)
            entries = (*(_percent(defenders.get(name, {}).get(attacker)) for name in who), _points(change))
            clear = f"{change['below']} below 0, {change['above']} above, of {change['n']}" if change else ""
            yield Row(measure_title(measure, attacker), entries, clear)


def _attacked(preset: Mapping[str, Any], who: Sequence[str]) -> Iterator[Row]:
    """What a fresh attacker reaches."""
    attack = preset.get("attack")
    if not attack:
        return
    defenders = attack["defenders"]
    last = {name: defender["curve"][-1]["asr"] for name, defender in defenders.items() if defender["curve"]}
    title = f"ASR, fresh attacker, {attack['steps']} steps"
    yield Row(title, (*(_percent(last.get(name)) for name in who), _ratio(attack.get("ratio"))))
    for k in defenders.get("trained", {}).get("best_of", {}):
        best = (_percent(defenders.get(name, {}).get("best_of", {}).get(k)) for name in who)
        yield Row(f"ASR, attack@{k}", (*best, Entry()))


def _notes(preset: Mapping[str, Any]) -> Iterator[str]:
    for attacker, rates in preset.get("attackers", {}).items():
        shown = [f"{_RATES.get(name, name)} {_percent(rate).shown}" for name, rate in rates.items() if rate]
        if shown:
            yield f"attacks of the {ATTACKERS.get(attacker, attacker)}: {', '.join(shown)}"
    for who, rate in preset.get("degenerate", {}).items():
        if rate and rate["mean"]:
            yield f"{_DEFENDERS.get(who, who)}: {_percent(rate).shown} of the replies are no longer language"


def _percent(number: Number | None) -> Entry:
    return _entry(number, "{:.1f}".format, 100)


def _points(number: Number | None) -> Entry:
    return _entry(number, "{:+.1f}".format, 100)


def _ratio(number: Number | None) -> Entry:
    return _entry(number, "{:.2f}".format, 1, "trained / start: ")


def _entry(number: Number | None, form: Any, scale: float, prefix: str = "") -> Entry:
    if not number:
        return Entry()

    def shown(name: str) -> str:
        return str(form(scale * number[name]))

    each = " ".join(form(scale * value) for value in number["values"])
    if number["sd"] is None:
        return Entry(prefix + shown("mean"), each)
    spread = f"{scale * number['sd']:.{1 if scale > 1 else 2}f}"
    return Entry(f"{prefix}{shown('mean')} ± {spread} [{shown('low')}, {shown('high')}]", each)
