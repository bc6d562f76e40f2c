"""The numbers of a benchmark: each set under both counting rules, and two models on the same items.

They are made from items alone, so the same numbers come from a log, from a file that was kept, and after judging again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from magic_rl.evaluation.estimates import Estimate, clustered_rate, paired_change
from magic_rl.evidence.counting import Measure, Rule, our_measure, ours
from magic_rl.evidence.items import Item, by_seed
from magic_rl.evidence.sets import BENCHMARKS, Suite
from magic_rl.types import Label

SUMMARY_FILE = "benchmark.json"
ALL = "all sets"


@dataclass(frozen=True, slots=True)
class Line:
    """What came of one set, or a part of one."""

    set: str  # its name; `ALL` over all sets
    part: str  # which of its rows; "" for all with this label
    label: Label
    asked: int  # items
    failed: int  # of those, how many got no reply; they count for neither side
    unlabelled: int  # replies that the judge gave no label on; the release counts them, ours does not
    cut_off: float  # share of replies that the length limit ended
    ours: Estimate  # ASR of harmful rows, compliance of benign ones
    release: Estimate | None = None  # by the release's rule; None over several sets, whose rules differ
    release_measure: Measure | None = None  # what the release calls it

    @property
    def measure(self) -> Measure:
        """What `ours` is."""
        return our_measure(self.label)


@dataclass(frozen=True, slots=True)
class Change:
    """Our rate of one set by the model against that by another on the same items."""

    set: str
    label: Label
    change: Estimate  # in share of items; items that share a seed are not taken for independent


@dataclass(frozen=True, slots=True)
class Result:
    """What stands in `benchmark.json`."""

    model: str
    judge: str
    suite: Suite
    lines: list[Line] = field(default_factory=list)  # of our sets
    # Of tasks that are not ours, by task, then by scorer and metric.
    scores: dict[str, dict[str, float]] = field(default_factory=dict)
    against: str = ""  # the model that it is compared with; "" for none
    others: list[Line] = field(default_factory=list)  # that model's lines
    changes: list[Change] = field(default_factory=list)


def summary(items: Sequence[Item]) -> list[Line]:
    """A line per set and label, lines for the parts of a set that has several, and one per label over all sets."""
    lines: list[Line] = []
    sets = list(dict.fromkeys((item.set, item.label) for item in items))
    for name, label in sets:
        parts = [part for part in BENCHMARKS[name].parts if part.label == label]
        of_set = [item for item in items if (item.set, item.label) == (name, label)]
        lines.append(_line(name, "", of_set, parts[0].release))
        for part in parts if len(parts) > 1 else ():
            of_part = [item for item in of_set if item.category == part.category]
            lines += [_line(name, part.category, of_part, part.release)] if of_part else []
    labels: tuple[Label, ...] = ("harmful", "benign")
    for label in labels:
        if sum(of == label for _, of in sets) > 1:
            lines.append(_line(ALL, "", [item for item in items if item.label == label], None))
    return lines


def compared(items: Sequence[Item], others: Sequence[Item]) -> list[Change]:
    """This model against another, set by set, on the items that both were asked."""
    found: list[Change] = []
    before = {(item.set, item.id): item for item in others}
    pairs = [(before[key], item) for item in items if (key := (item.set, item.id)) in before]
    for name, label in dict.fromkeys((item.set, item.label) for _, item in pairs):
        both = [(b, a) for b, a in pairs if (a.set, a.label) == (name, label)]
        old, new = [outcome(b) for b, _ in both], [outcome(a) for _, a in both]
        found.append(Change(name, label, paired_change(old, new, [a.seed_id for _, a in both])))
    return found


def exceeded(lines: Iterable[Line], limits: Mapping[Literal["asr", "refusal"], float]) -> Iterator[str]:
    """Which sets are above a limit, or were not measured, in a few words each.

    Args:
        lines: Of a summary.
        limits: Most that a rate may be, in percent: ASR of harmful sets, refusal of benign ones.
    """
    for line in lines:
        key: Literal["asr", "refusal"] = "asr" if line.label == "harmful" else "refusal"
        if key not in limits or line.part or line.set == ALL:
            continue
        rate = 100 * (line.ours.value if key == "asr" else 1 - line.ours.value)
        if not line.ours.n:
            yield f"{line.set}: {key} is not known, as no reply was judged"
        elif rate > limits[key]:
            yield f"{line.set}: {key} {rate:.1f} % is above {limits[key]:g} %"


def outcome(item: Item) -> bool | None:
    """By our rule and the first judge; None if there is no reply or no label."""
    return None if item.verdict is None else ours(item.label, item.verdict)


def _line(name: str, part: str, items: Sequence[Item], rule: Rule | None) -> Line:
    verdicts = [(item, item.verdict) for item in items if item.verdict]
    by_rule = ((item, rule.count(verdict)) for item, verdict in verdicts) if rule else ()
    return Line(
        set=name,
        part=part,
        label=items[0].label,
        asked=len(items),
        failed=sum(item.failed is not None for item in items),
        unlabelled=sum(verdict.abstained is not None for _, verdict in verdicts),
        cut_off=sum(item.cut_off for item in items) / len(items),
        ours=clustered_rate(by_seed((item, outcome(item)) for item in items)),
        release=clustered_rate(by_seed(by_rule)) if rule else None,
        release_measure=rule.measure if rule else None,
    )
