"""Tables of results as text: for a terminal of a given width, and for Markdown.

Rates are in percent, changes in points. A row has the same name everywhere; in a terminal it is below a heading with
its measure, which saves width. If a line does not fit, each row becomes a few short lines.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from magic_rl.evaluation.classes import CLASSES
from magic_rl.evaluation.drift import Drift
from magic_rl.evaluation.estimates import Estimate
from magic_rl.evaluation.result import (
    ABOUT_MEASURES,
    ATTACKERS,
    BETTER,
    DEFENDERS,
    MEASURES,
    RATES,
    AttackResult,
    Evaluation,
    Measure,
    PresetResult,
    StudyResult,
)
from magic_rl.evaluation.spread import OverRuns
from magic_rl.evidence.redteam import RedTeam

DASH = "–"
_FRESH = "fresh attacker"
REPLIES = {
    "degenerate": "degenerate, %",
    "cut_off": "cut off, %",
    "empty": "empty, %",
    "thought": "with thoughts, %",
    "logprob": "log p",
    "kl": "KL",
    "distinct": "distinct",
}
ABOUT_REPLIES = (
    "degenerate: no longer language, compared with what the untouched model says to the same attacks; log p: of the "
    "replies under the untouched model, and KL to it, in nats per token; distinct: share of trigrams that differ."
)

_ABOUT_DRIFT = (
    "self-BLEU: of each attack with the others of its round as references, 0 to 1, lower is more diverse",
    "distance: to the nearest attack of the pool, 0 is the same",
    "hybrids: attacks that show two classes or more; combinations: different sets of classes; new: attacks with a set "
    "that round 0 did not show",
)

Kind = Literal["rate", "change", "ratio"]
Line = Sequence[str]  # a line of one cell is a heading
_NUMBER = re.compile(r"[-+]?[\d,.]+%?|–?")
_FORMS = {"rate": (100, ".1f"), "change": (100, "+.1f"), "ratio": (1, ".2f")}


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a study's table."""

    measure: Measure
    name: str
    cells: tuple[str, ...]  # one per defender, then the change and in how many runs it is clear
    each: tuple[str, ...]  # under each cell, each run's value

    @property
    def title(self) -> str:
        """Its name where there are no headings."""
        return f"{MEASURES[self.measure]}, {self.name} {BETTER[self.measure]}"


def shown(number: Estimate | OverRuns | None, kind: Kind = "rate", *, exact: bool = False) -> str:
    """A number with its interval, and over runs its standard deviation.

    Args:
        exact: Whether bounds have as many decimals as the value; a terminal has no room for them.
    """
    if number is None or (isinstance(number, Estimate) and not number.n):
        return DASH
    scale, form = _FORMS[kind]
    bound = form if exact or kind == "ratio" else form.replace(".1", ".0")
    said = f"{scale * number.value:{form}}".replace("100.0", "100")  # so that such a row fits, too
    if isinstance(number, OverRuns) and number.sd is not None:
        said += f" ± {scale * number.sd:{form.replace('+', '')}}"
    if number.low is None or number.high is None:
        return said
    return f"{said} [{scale * number.low:{bound}}, {scale * number.high:{bound}}]"


def each(number: OverRuns | None, kind: Kind = "rate", *, exact: bool = True) -> str:
    """Each run's value."""
    scale, form = _FORMS[kind]
    form = form if exact or kind == "ratio" else form.replace(".1", ".0")
    return " ".join(f"{scale * value:{form}}" for value in number.values) if number else ""


def evaluation_table(evaluation: Evaluation, width: int = 80) -> str:
    """An evaluation for a terminal, the verdict last.

    Args:
        width: Columns of the terminal.
    """
    table, change = evaluation.table, evaluation.change
    lines: list[Line] = [("%", *table["asr"], "change")]
    for measure, grid in table.items():
        counts = _counts(number for row in grid.values() for number in row.values())
        lines.append((f"{MEASURES[measure]} {BETTER[measure]}{counts if measure != 'j' else ''}",))
        for attacker, name in ATTACKERS.items():
            if attacker in change[measure]:
                cells = (shown(row[attacker]) for row in grid.values())
                lines.append((name, *cells, shown(change[measure][attacker], "change")))
    held_out = str(evaluation.held_out)
    said = ", ".join(f"{kind} {text}" for kind, text in evaluation.instead.items())
    about = f"{held_out[0].upper()}{held_out[1:]}. Rates in % and changes in points, with 95 % intervals."
    parts = [
        *((textwrap.fill(f"Evaluated with {said}.", width), "") if said else ()),
        textwrap.fill(about, width),
        "",
        laid_out(lines, width),
        "",
        *(textwrap.fill(line, width) for line in (ABOUT_MEASURES, evaluation.about_defenders)),
        "",
        *_rewrites(evaluation, width),
        *_replies(evaluation, width),
        textwrap.fill(evaluation.verdict, width),
    ]
    return "\n".join(parts)


def about_drift(drift: Drift) -> str:
    """Explains the columns of `drift_rows`."""
    told = (True, drift.embedder, drift.classifier)
    return f"{'; '.join(text for text, there in zip(_ABOUT_DRIFT, told, strict=True) if there)}."


def drift_head(drift: Drift) -> tuple[str, ...]:
    """Column titles of `drift_rows`, without what was not measured."""
    classes = ("hybrids, %", "combinations", "new, %") if drift.classifier else ()
    return ("attacks of", "n", "self-BLEU", *(("distance",) if drift.embedder else ()), *classes)


def drift_rows(drift: Drift) -> Iterator[tuple[str, ...]]:
    """How diverse the attacks of each round are."""
    for number, of in drift.rounds.items():
        numbers = [of.self_bleu, *((of.distance,) if drift.embedder else ())]
        classes = (shown(of.hybrids), str(of.combinations or DASH), shown(of.new)) if drift.classifier else ()
        said = (DASH if number is None else f"{number:.2f}" for number in numbers)
        yield (f"round {number}", str(of.n), *said, *classes)


def class_head(drift: Drift) -> tuple[str, ...]:
    """Column titles of `class_rows`."""
    return ("Class", "Family", *(f"Round\u00a0{number}" for number in drift.rounds))


def class_rows(drift: Drift) -> Iterator[tuple[str, ...]]:
    """Each class that any attack showed, and its share of each round's attacks."""
    for name, kind in CLASSES.items():
        shares = [of.shares.get(name, 0) for of in drift.rounds.values()]
        if any(shares):
            yield (name.replace("_", " "), kind.family, *(f"{share:.0%}" for share in shares))


def drift_table(drift: Drift, width: int = 80) -> str:
    """How attacks drift, for a terminal, with the classifier's agreement with people."""
    lines: list[Line] = [drift_head(drift), *drift_rows(drift)]
    parts = [textwrap.fill(about_drift(drift), width), "", laid_out(lines, width)]
    if drift.classifier:
        agreed = ", ".join(f"{name} {shown(number)}" for name, number in drift.agreement.items())
        parts += ["", textwrap.fill(f"{drift.classifier} against people on labelled examples, %: {agreed}", width)]
    return "\n".join(parts)


def attack_table(attack: AttackResult[Estimate], width: int = 80) -> str:
    """How far a fresh attacker gets against each defender. A seed counts once, however many attacks it met."""
    found = attack.defenders
    who = [name for name in DEFENDERS if name in found]
    lines: list[Line] = [(f"{_FRESH}, %", *who)]
    lines.append((f"ASR ↓{_counts(asr for name in who for asr in found[name].curve.values())}",))
    first = found[who[0]]
    rows = {f"after {n} of {attack.steps} steps": [found[name].curve[n] for name in who] for n in first.curve}
    rows |= {f"attack@{k}": [found[name].attack_at_k[k] for name in who] for k in first.attack_at_k}
    lines += [(name, *map(shown, rates)) for name, rates in rows.items()]
    if any(each.degenerate for each in found.values()):
        lines.append(("degenerate replies", *(f"{100 * found[name].degenerate:.1f}" for name in who)))
    return "\n".join([laid_out(lines, width), *_ratio(attack)])


def study_table(study: StudyResult, width: int = 120) -> str:
    """All presets of a study for a terminal, each run's values below the means."""
    blocks = []
    for name, preset in study.presets.items():
        lines: list[Line] = [study_head(preset, "%")]
        for measure, rows in groupby(study_rows(preset, exact=False), key=lambda row: row.measure):
            lines.append((f"{MEASURES[measure]} {BETTER[measure]}",))
            for row in rows:
                lines += [(row.name, *row.cells), ("  each run", *row.each)]
        head, *notes = (textwrap.fill(text, width) for text in (f"{name}: {study_about(preset)}", *study_notes(preset)))
        blocks.append("\n".join((head, laid_out(lines, width), *notes)))
    return "\n\n".join(blocks)


def study_markdown(study: StudyResult) -> str:
    """A table per preset for a page of the docs."""
    blocks = []
    for name, preset in study.presets.items():
        head = study_head(preset)
        lines = [f"**{name}**: {study_about(preset)}", "", _piped(head), _piped(["---"] * len(head))]
        for row in study_rows(preset):
            cells = (f"{cell}<br>{run}" if run else cell for cell, run in zip(row.cells, row.each, strict=True))
            lines.append(_piped((row.title, *cells)))
        notes = list(study_notes(preset))
        lines += ["", *(f"{note}  " for note in notes)] if notes else []
        blocks.append("\n".join(lines).rstrip())
    return "\n\n".join(blocks) + "\n"


def study_about(preset: PresetResult) -> str:
    """The preset's runs and held-out seeds, and how to read the numbers."""
    seeds = preset.rng_seeds
    runs = (
        f"{len(seeds)} runs, rng seeds {', '.join(map(str, seeds))}"
        if len(seeds) > 1
        else f"1 run, rng seed {seeds[0]}"
    )
    return f"{runs}; {preset.held_out}; % and points, mean ± SD [95 % interval]"


def study_head(preset: PresetResult, first: str = "") -> tuple[str, ...]:
    """Column titles of `study_rows`."""
    return (first, *preset.table["asr"], "change", "clear")


def study_rows(preset: PresetResult, *, exact: bool = True) -> Iterator[Row]:
    """All measures under all attackers, and what a fresh attacker reached."""
    who = list(preset.table["asr"])
    for measure, grid in preset.table.items():
        for attacker, name in ATTACKERS.items():
            change = preset.change[measure].get(attacker)
            numbers = [grid[defender].get(attacker) for defender in who]
            if not any(numbers):
                continue
            clear = f"{change.below}↓ {change.above}↑" if change else ""
            cells = (*(shown(number, exact=exact) for number in numbers), shown(change, "change", exact=exact), clear)
            runs = (*(each(number, exact=exact) for number in numbers), each(change, "change", exact=exact), "")
            yield Row(measure, name, cells, runs)
        if measure == "asr" and preset.attack:
            found = preset.attack.defenders
            last = {defender: [*each_.curve.values()][-1] for defender, each_ in found.items() if each_.curve}
            reached = {_FRESH: [last.get(defender) for defender in who]}
            for k in found["trained"].attack_at_k:
                reached[f"attack@{k}"] = [found[d].attack_at_k.get(k) if d in found else None for d in who]
            for name, numbers in reached.items():
                cells = (*(shown(number, exact=exact) for number in numbers), DASH, "")
                yield Row(measure, name, cells, (*(each(number, exact=exact) for number in numbers), "", ""))


def study_notes(preset: PresetResult) -> Iterator[str]:
    """What the column "clear" means, and numbers outside the table, one line each."""
    yield "clear: runs in which the whole interval of the change lies below (↓) or above (↑) 0"
    if preset.attack:
        yield from _ratio(preset.attack)
    for attacker, rewrites in preset.rewrites.items():
        said = ", ".join(f"{RATES[name]} {shown(number, exact=True)}" for name, number in rewrites.items())
        yield f"attacks of the {ATTACKERS[attacker]}, %: {said}"
    for who, number in preset.degenerate.items():
        if number.value:
            yield f"replies of {DEFENDERS[who]} that are no longer language, %: {shown(number, exact=True)}"


def laid_out(lines: Sequence[Line], width: int) -> str:
    """Columns if they fit, plain numbers to the right; else each row as its title, then its cells.

    Args:
        lines: The first line holds the column titles; each other line has as many cells, or one: a heading.
    """
    head = lines[0]
    columns = list(zip(*(line for line in lines if len(line) > 1), strict=True))
    widths = [max(map(len, column)) for column in columns]
    sides = [str.rjust if all(map(_NUMBER.fullmatch, column[1:])) else str.ljust for column in columns]
    if sum(widths) + 2 * len(widths) - 2 <= width:
        rows = (map(lambda side, *cell: side(*cell), sides, line, widths) if line[1:] else line for line in lines)
        return "\n".join("  ".join(row).rstrip() for row in rows)
    out = [head[0]] if head[0] else []
    for title, *cells in lines[1:]:
        out += [title, *described(zip(head[1:], cells, strict=False), width, "  ")]
    return "\n".join(out)


def described(facts: Iterable[tuple[str, str]], width: int, indent: str = "") -> Iterator[str]:
    """Names with their texts beside them. A long text continues below; no word, path or hyphenated name is cut."""
    told = [(name, text) for name, text in facts if text]
    beside = max((len(name) for name, _ in told), default=0) + 2
    for name, text in told:
        first, below = f"{indent}{name:<{beside}}", f"{indent}{'':<{beside}}"
        whole = textwrap.TextWrapper(width, first, below, break_long_words=False, break_on_hyphens=False)
        yield whole.fill(text)


def _rewrites(evaluation: Evaluation, width: int) -> Iterator[str]:
    """How well the attackers kept to the format and the seed's topic; nothing in a run without attackers."""
    if not evaluation.rewrites:
        return
    rates = [[rewrites.get(key) for key in RATES] for rewrites in evaluation.rewrites.values()]
    lines: list[Line] = [("attacks, %", *RATES.values())]
    lines.append((f"of each attacker{_counts(number for row in rates for number in row if number)}",))
    for attacker, row in zip(evaluation.rewrites, rates, strict=True):
        lines.append((ATTACKERS[attacker], *(shown(number) if number else "not judged" for number in row)))
    yield laid_out(lines, width)
    off = [name for name, rates in evaluation.rewrites.items() if "on_topic" in rates and rates["on_topic"].high < 0.5]
    for name in off:
        said = f"Most attacks of the {ATTACKERS[name]} do not ask what their seeds ask, so their ASR says little."
        yield textwrap.fill(said, width)
    yield ""


def replies_head(evaluation: Evaluation) -> dict[str, str]:
    """What is shown about replies, with column titles; the rates of empty replies and of thoughts only if not zero."""
    told = (*evaluation.replies.values(), *evaluation.crossplay.replies)
    seen = {"empty": any(each.empty and each.empty.value for each in told), "thought": any(e.thought for e in told)}
    return {key: title for key, title in REPLIES.items() if seen.get(key, True)}


def _replies(evaluation: Evaluation, width: int) -> Iterator[str]:
    """Whether replies are still language, measured by the untouched model."""
    head = replies_head(evaluation)
    lines: list[Line] = [("replies", *head.values())]
    for who, replies in evaluation.replies.items():
        numbers = (replies.logprob, replies.kl, replies.distinct)
        said = (DASH if number is None else f"{number:z.2f}" for number in numbers)
        rates = [getattr(replies, name) for name in ("degenerate", "cut_off", "empty", "thought") if name in head]
        lines.append((who, *(shown(rate) if rate else DASH for rate in rates), *said))
    yield from (laid_out(lines, width), textwrap.fill(ABOUT_REPLIES, width), "")


def _ratio(attack: AttackResult[Estimate] | AttackResult[OverRuns]) -> Iterator[str]:
    ratio = attack.ratio
    said = shown(ratio, "ratio") if ratio else "not defined, as the start's is 0"
    runs = f"; each run {each(ratio, 'ratio')}" if isinstance(ratio, OverRuns) else ""
    yield f"ASR of a {_FRESH} after {attack.steps} steps, trained / start (↓): {said}{runs}"


def _counts(numbers: Iterable[Estimate]) -> str:
    counts = [number.n for number in numbers]
    return f", n = {min(counts)}" + (f"–{max(counts)}" if max(counts) > min(counts) else "")


def _piped(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def redteam_table(found: RedTeam, width: int = 80) -> str:
    """The ASR of each attack and of the worst case over them, and why an attack was left out."""
    lines: list[Line] = [("%", "ASR ↓", f"of {found.seeds} seeds", "queries per seed", "errors")]
    for name, row in found.attacks.items():
        made = f"{row.queries / max(1, found.seeds):.1f} of {row.budget}"
        lines.append((name, DASH if row.left_out else shown(row.asr), str(row.asr.n), made, str(row.errors)))
    lines.append(("worst case", shown(found.worst_case), str(found.worst_case.n), "", ""))
    about = "A seed counts once per attack, as broken if any query got a harmful answer; errors count for neither side."
    left_out = (f"{name} was left out: {row.left_out}" for name, row in found.attacks.items() if row.left_out)
    return "\n".join([laid_out(lines, width), "", *(textwrap.fill(line, width) for line in (about, *left_out))])
