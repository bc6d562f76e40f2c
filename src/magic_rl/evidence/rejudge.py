"""The same replies judged by another judge: how well the two agree, and how each rate changes.

Nothing is sampled again. A rate depends on the judge as much as on the model, so rates by both judges are shown, and
the rates corrected for a judge's error if it was measured against people's labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import BaseModel, ValidationError

from magic_rl.errors import DataError
from magic_rl.evaluation.agreement import Agreement, cohens_kappa, corrected
from magic_rl.evaluation.estimates import Estimate, clustered_rate, clustered_size, rate_of
from magic_rl.evidence.counting import ours
from magic_rl.evidence.items import ITEMS_FILE, Item, Judged, by_seed, read_items
from magic_rl.files import problem, read_text
from magic_rl.judges.asking import ask
from magic_rl.judges.base import Judge
from magic_rl.types import Label, Verdict

Question = Literal["harmful", "refused"]
# A judge against people, by label of the seed: harmful replies to harmful seeds, and answers to benign ones.
Errors = Mapping[Label, Agreement]


class Rate(NamedTuple):
    """ASR or compliance by one judge, clustered by seed; `corrected` for its error if that was measured."""

    observed: Estimate
    corrected: Estimate | None


@dataclass(frozen=True, slots=True)
class Row:
    """The rates of one model on one set by one judge."""

    set: str
    method: str
    model: str
    judge: str
    asr: Rate
    compliance: Rate
    abstained: int  # replies without a verdict of the judge; no rate counts them


class Check(BaseModel):
    """The JSON of a check of a judge, as far as it is needed here."""

    judge: str
    errors: dict[Label, Agreement]


def read_check(path: Path) -> Check:
    """A judge's errors. Raises: DataError: If the file is not from a check."""
    try:
        return Check.model_validate_json(read_text(path))
    except ValidationError as error:
        raise DataError(f"{path}: not what a check of a judge writes as JSON ({problem(error)})") from error


def read_results(path: Path) -> list[Item]:
    """Items from a file, or from a folder with such a file. Raises: DataError: If there is none."""
    if path.is_dir() and not (path / ITEMS_FILE).is_file():
        raise DataError(f"{path}: holds no {ITEMS_FILE}, which an evaluation or a benchmark writes")
    return read_items(path / ITEMS_FILE if path.is_dir() else path)


def judged(items: Sequence[Item], judge: Judge, retries: int) -> list[Item]:
    """Items with a judge's verdicts added or replaced; items without a reply stay as they are."""
    asked = [item.exchange for item in items if item.failed is None]
    said = iter(ask(judge, asked, retries=retries, max_abstained=1.0, needs_refusal=False))
    out = []
    for item in items:
        if item.failed is None:
            others = (old for old in item.verdicts if old.judge != judge.name)
            item = replace(item, verdicts=(*others, Judged(judge.name, next(said))))
        out.append(item)
    return out


def rows(items: Sequence[Item], judges: Sequence[str], errors: Mapping[str, Errors]) -> list[Row]:
    """A row for each set, method, model and judge, in the order of the items.

    Args:
        items: Judged items.
        judges: Names of the judges.
        errors: Errors of those judges whose error was measured, by name.
    """
    groups: dict[tuple[str, str, str], list[Item]] = {}
    for item in items:
        groups.setdefault((item.set, item.method, item.model), []).append(item)
    return [
        Row(
            *names,
            judge,
            asr=_rate(group, judge, "harmful", errors.get(judge, {}).get("harmful")),
            compliance=_rate(group, judge, "benign", errors.get(judge, {}).get("benign")),
            abstained=sum(verdict.abstained is not None for item in group if (verdict := _verdict(item, judge))),
        )
        for names, group in groups.items()
        for judge in judges
    ]


def _verdict(item: Item, judge: str) -> Verdict | None:
    return next((each.verdict for each in item.verdicts if each.judge == judge), None)


def _rate(items: Sequence[Item], judge: str, label: Label, error: Agreement | None) -> Rate:
    judged = [(item, verdict) for item in items if item.label == label and (verdict := _verdict(item, judge))]
    each = by_seed((item, ours(label, verdict)) for item, verdict in judged)
    observed = clustered_rate(each)
    return Rate(observed, corrected(observed, clustered_size(each), error) if error and each else None)


class Compared(NamedTuple):
    """Two judges on one question; intervals are clustered by seed."""

    counts: Agreement  # the first as label, the second as judge: `only_judge` became yes, `only_label` became no
    same: Estimate  # share of replies with the same answer
    kappa: Estimate  # agreement beyond chance


def compare(items: Sequence[Item], before: str, after: str) -> dict[Question, Compared]:
    """How well two judges agree on each question that both answer for some reply."""
    known = [
        (item.seed_id, old, new)
        for item in items
        if (old := _verdict(item, before)) and (new := _verdict(item, after))
        if old.abstained is None and new.abstained is None
    ]
    answers: dict[Question, list[tuple[str, bool, bool]]] = {
        "harmful": [(seed, old.safety != "safe", new.safety != "safe") for seed, old, new in known],
        "refused": [
            (seed, old.refused, new.refused)
            for seed, old, new in known
            if old.refused is not None and new.refused is not None
        ],
    }
    found: dict[Question, Compared] = {}
    for question, pairs in answers.items():
        if pairs:
            seeds, first, second = zip(*pairs, strict=True)
            same = rate_of((one == other for one, other in zip(first, second, strict=True)), seeds)
            found[question] = Compared(Agreement.of(first, second), same, cohens_kappa(first, second, seeds))
    return found
