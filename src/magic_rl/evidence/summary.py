"""The numbers of a benchmark: each set under both counting rules, and two models on the same items.

They are computed from items alone, so a log, a saved file and items judged again are all treated alike.
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
    """The numbers of one set, or a part of one."""

    set: str  # its name; `ALL` over all sets
    part: str  # its part; "" for all rows with this label
    label: Label
    asked: int  # number of items
    failed: int  # items without a reply; they count for neither side
    unlabelled: int  # replies on which the judge abstained; the release's rules may count them, ours do not
    cut_off: float  # share of items whose reply the length limit ended
    ours: Estimate  # ASR of harmful rows, compliance of benign ones
    release: Estimate | None = None  # by the release's rule; None over several sets, whose rules differ
    release_measure: Measure | None = None  # the release's name for it

    @property
    def measure(self) -> Measure:
        """The name of `ours`."""
        return our_measure(self.label)


@dataclass(frozen=True, slots=True)
class Change:
    """Our rate on one set, the model's minus the other model's on the same items."""

    set: str
    label: Label
    change: Estimate  # in share of items; clustered by seed


@dataclass(frozen=True, slots=True)
class Result:
    """The content of `benchmark.json`."""

    model: str
    judge: str
    suite: Suite
    lines: list[Line] = field(default_factory=list)  # numbers of the sets in `BENCHMARKS`
    # Numbers of `inspect_evals` tasks, by task, then by scorer and metric.
    scores: dict[str, dict[str, float]] = field(default_factory=dict)
    against: str = ""  # the model that it is compared with; "" if none
    others: list[Line] = field(default_factory=list)  # that model's lines
    changes: list[Change] = field(default_factory=list)


def summary(items: Sequence[Item]) -> list[Line]:
    """A line per set and label, one per part of sets that have several, and one per label over all sets."""
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
    """The change from another model to this one, set by set, on the items that both were asked."""
    found: list[Change] = []
    before = {(item.set, item.id): item for item in others}
    pairs = [(before[key], item) for item in items if (key := (item.set, item.id)) in before]
    for name, label in dict.fromkeys((item.set, item.label) for _, item in pairs):
        both = [(b, a) for b, a in pairs if (a.set, a.label) == (name, label)]
        old, new = [outcome(b) for b, _ in both], [outcome(a) for _, a in both]
        found.append(Change(name, label, paired_change(old, new, [a.seed_id for _, a in both])))
    return found


def exceeded(lines: Iterable[Line], limits: Mapping[Literal["asr", "refusal"], float]) -> Iterator[str]:
    """The sets that are above a limit or were not measured, in a few words each.

    Args:
        lines: Lines of a summary.
        limits: Highest allowed rates, in percent: ASR of harmful sets, refusal of benign ones.
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
    """The outcome by our rule and the first judge; None if there is no reply or no label."""
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
