"""How far a judge agrees with people, or two judges with each other.

Pure counting: labels and answers in, numbers out, every one with its 95 % interval.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from magic_rl.evaluation.metrics import Estimate, Rate
from magic_rl.judges.panel import Votes


@dataclass(frozen=True, slots=True)
class Agreement:
    """A judge's answers to a yes-no question against people's labels.

    Attributes:
        both: Yes by the label and by the judge.
        only_judge: Yes by the judge alone (false positives).
        only_label: Yes by the label alone (false negatives).
        neither: No by both.
        abstained: Items the judge gave no answer to. They are in no rate.
    """

    both: int
    only_judge: int
    only_label: int
    neither: int
    abstained: int

    @property
    def n(self) -> int:
        """Items with an answer."""
        return self.both + self.only_judge + self.only_label + self.neither

    @property
    def answered(self) -> Rate:
        """Share of items with an answer."""
        return Rate(self.n, self.n + self.abstained)

    @property
    def accuracy(self) -> Rate:
        """Share of answers that are the label's."""
        return Rate(self.both + self.neither, self.n)

    @property
    def precision(self) -> Rate:
        """Share of the judge's "yes" that the label confirms."""
        return Rate(self.both, self.both + self.only_judge)

    @property
    def recall(self) -> Rate:
        """Share of the label's "yes" that the judge finds."""
        return Rate(self.both, self.both + self.only_label)

    @property
    def f1(self) -> Estimate:
        """Harmonic mean of precision and recall.

        It is 2J / (1 + J) of the share J = both / (both + only_judge + only_label). That grows with J, so Wilson's
        bounds of J make those of F1: exact in form, deterministic, and never outside [0, 1].
        """
        shared = Rate(self.both, self.both + self.only_judge + self.only_label)
        return Estimate(*(2 * rate / (1 + rate) for rate in (shared.rate, shared.low, shared.high)))

    def as_dict(self) -> dict[str, Any]:
        """For JSON: the confusion counts and every rate."""
        return {
            "n": self.n,
            "abstained": self.abstained,
            "confusion": {
                "both": self.both,
                "only_judge": self.only_judge,
                "only_label": self.only_label,
                "neither": self.neither,
            },
            "accuracy": self.accuracy.as_dict(),
            "precision": self.precision.as_dict(),
            "recall": self.recall.as_dict(),
            "f1": self.f1.as_dict(),
        }


def agreement(labels: Sequence[bool], answers: Sequence[bool | None]) -> Agreement:
    """Count how answers agree with labels.

    Args:
        labels: What people say, one an item.
        answers: What the judge says of the same items in the same order; None where it abstains.

    Raises:
        ValueError: If the two differ in length.
    """
    pairs = Counter(zip(labels, answers, strict=True))
    return Agreement(
        both=pairs[True, True],
        only_judge=pairs[False, True],
        only_label=pairs[True, False],
        neither=pairs[False, False],
        abstained=pairs[True, None] + pairs[False, None],
    )


def cohens_kappa(one: Sequence[Hashable], other: Sequence[Hashable]) -> Estimate:
    """Agreement of two raters beyond chance (Cohen 1960), in −1…1: (p_o − p_e) / (1 − p_e).

    The interval carries Wilson's bounds of the observed agreement p_o over, with the agreement by chance p_e held
    fixed; unlike the usual standard error it does not vanish when the raters agree on all of a few items.

    Args:
        one: A label an item.
        other: The other rater's labels of the same items in the same order.

    Returns:
        Kappa; 0 in [−1, 1] where it is not defined: no items, or both raters give one and the same label throughout.

    Raises:
        ValueError: If the two differ in length.
    """
    observed = Rate.of(a == b for a, b in zip(one, other, strict=True))
    n, left, right = observed.n, Counter(one), Counter(other)
    by_chance = sum(left[label] * right[label] for label in left)  # of n² pairs
    if by_chance == n * n:
        return Estimate(0.0, -1.0, 1.0)
    chance = by_chance / n**2
    value, low, high = ((rate - chance) / (1 - chance) for rate in (observed.rate, observed.low, observed.high))
    return Estimate(value, max(-1.0, low), high)


def panel_agreement(votes: Sequence[Votes]) -> list[dict[str, Any]]:
    """How far the members of a panel agree, pair by pair, on what both gave a verdict on.

    Returns:
        A row a pair and label: `{"one", "other", "label": "safety" | "refused", "n", "kappa", "low", "high"}`.
    """
    rows = []
    for one, other in combinations(votes, 2):
        both = [
            (a, b)
            for a, b in zip(one.verdicts, other.verdicts, strict=True)
            if a.abstained is None and b.abstained is None
        ]
        for label in ("safety", "refused"):
            labels = [pair for a, b in both if None not in (pair := (getattr(a, label), getattr(b, label)))]
            kappa = cohens_kappa([one_says for one_says, _ in labels], [other_says for _, other_says in labels])
            row = {"one": one.judge, "other": other.judge, "label": label, "n": len(labels)}
            rows.append({**row, "kappa": kappa.value, "low": kappa.low, "high": kappa.high})
    return rows
